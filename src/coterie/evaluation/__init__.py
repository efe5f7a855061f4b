"""Full-ranking evaluation per user, with standard errors and cohorts."""

from coterie.evaluation.cohorts import DEFAULT_COHORTS, Cohort
from coterie.evaluation.protocol import Scorer, evaluate
from coterie.evaluation.result import Estimate, Evaluation

__all__ = ["DEFAULT_COHORTS", "Cohort", "Estimate", "Evaluation", "Scorer", "evaluate"]
