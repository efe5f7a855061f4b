"""A/B tests on invented people whose tastes, and so the true lift, are known."""
