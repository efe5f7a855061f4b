"""Several models on the same split and seeds: train or load, test, and say which is better.

A :data:`~coterie.comparison.contestants.Contestant` is one model to compare,
:mod:`~coterie.comparison.runs` trains and tests each on every seed, in a process of its own,
:mod:`~coterie.comparison.outcome` tests the differences, :mod:`~coterie.comparison.report` and
:mod:`~coterie.comparison.text` show them.
"""
