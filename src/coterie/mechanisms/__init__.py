"""Who helps whom, and why: measures of a trained model, each with a figure and a sentence.

Each measure is a function of a model and some users' histories that gives a frozen
:class:`~coterie.mechanisms.measurement.Measurement`. Nothing here trains or changes a model.
"""
