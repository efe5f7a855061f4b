"""The paper's study: train its settings on several seeds, measure each, and decide its claims.

What is trained is in :mod:`~coterie.study.settings`, one run in :mod:`~coterie.study.runs`, the
rules by which a claim counts as confirmed in :mod:`~coterie.study.findings`.
"""
