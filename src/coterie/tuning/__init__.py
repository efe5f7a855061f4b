"""Hyper-parameters by search: on validation users only, with the same budget for every model."""
