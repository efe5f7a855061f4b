"""A trained model behind HTTP: recommendations, similar items, explanations, events."""
