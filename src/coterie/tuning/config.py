"""Settings of the search itself."""

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from coterie.config import Config
from coterie.errors import ConfigError
from coterie.training.config import TrainingConfig

USUAL_TRIALS = 20


class TuneConfig(Config):
    """How long to search, and how; the budget is each model's own."""

    trials: PositiveInt | None = Field(
        None,
        description=f"Trials of each model; {USUAL_TRIALS} if no minutes are given either.",
    )
    minutes: PositiveFloat | None = Field(
        None, description="Or: minutes that each model's trials take, all processes together."
    )
    startup_trials: PositiveInt = Field(
        10, description="Trials drawn at random before TPE begins; the first is the preset itself."
    )
    pruning: bool = Field(
        True, description="Whether to end trials that are worse than the median at the same epoch."
    )
    pruning_after: PositiveInt = Field(5, description="Whole trials before any is ended early.")
    warm_up: int = Field(
        10, ge=0, description="Epochs that every trial may train, while β still grows."
    )
    metric: str = Field(TrainingConfig().metric, description="Validation metric that is maximised.")
    seed: int = Field(
        0, ge=0, le=2**32 - 1, description="Determines what is tried, and each trial's training."
    )

    @field_validator("metric")
    @classmethod
    def _known_metric(cls, metric: str) -> str:
        return TrainingConfig.read({"metric": metric}).metric

    @model_validator(mode="after")
    def _one_budget(self) -> "TuneConfig":
        if self.trials is not None and self.minutes is not None:
            raise ConfigError(
                f"A budget is trials or minutes, not both; got {self.trials} trials and "
                f"{self.minutes:g} minutes."
            )
        return self

    @property
    def most_trials(self) -> int | None:
        """The budget in trials; None if it is in minutes."""
        if self.minutes is not None:
            return None
        return USUAL_TRIALS if self.trials is None else self.trials

    @property
    def most_seconds(self) -> float | None:
        """The budget in seconds; None if it is in trials."""
        return None if self.minutes is None else 60 * self.minutes
