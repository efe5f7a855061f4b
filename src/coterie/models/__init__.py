"""Networks: posteriors, encoders, decoders and VAEs; no loss, no I/O, no loop."""
