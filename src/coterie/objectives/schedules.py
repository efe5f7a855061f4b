"""Weights as pure functions of the training step."""

from typing import Literal, Self

from pydantic import Field, model_validator

from coterie.config import Config
from coterie.errors import ConfigError


class Schedule(Config):
    """A weight over the course of training: a pure function of the step.

    ``constant`` is ``end`` throughout. ``linear`` goes from ``start`` (0 unless given) to ``end``
    in equal steps and ``geometric`` by equal ratios, over ``epochs`` epochs, and stays there.
    ``warm-up`` is another name of ``linear``. ``delayed`` is ``start`` for ``epochs`` epochs and
    ``end`` afterwards.
    """

    kind: Literal["constant", "linear", "geometric", "warm-up", "delayed"] = "constant"
    start: float = Field(0.0, ge=0, description="Value at step 0.")
    end: float = Field(1.0, ge=0, description="Value from the end of the schedule on.")
    epochs: float = Field(0.0, ge=0, description="Length, in epochs (fractions allowed).")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kind == "geometric" and not (self.start > 0 and self.end > 0):
            raise ConfigError(
                "A geometric schedule needs start > 0 and end > 0, "
                f"got start={self.start}, end={self.end}."
            )
        if self.kind != "constant" and self.epochs == 0:
            raise ConfigError(f"A {self.kind} schedule needs epochs > 0, got 0.")
        return self

    def value(self, step: int, steps_per_epoch: int) -> float:
        """The weight at ``step`` (0 for the first), with ``steps_per_epoch`` steps an epoch."""
        if self.kind == "constant":
            return self.end
        progress = min(step / (self.epochs * steps_per_epoch), 1.0)
        if self.kind == "delayed":
            return self.end if progress >= 1 else self.start
        if self.kind in ("linear", "warm-up"):
            return self.start + progress * (self.end - self.start)
        return float(self.start * (self.end / self.start) ** progress)


class RateSchedule(Schedule):
    """A factor of the learning rate: a schedule that begins at 1 unless told.

    So ``linear`` with ``end`` 0 decays. One that learns nothing at first, or at all, is an error;
    a warm-up from 0 is not, whose first step alone has a factor of 0.
    """

    start: float = Field(1.0, ge=0, description="Factor at step 0.")

    @model_validator(mode="after")
    def _learns(self) -> Self:
        if self.kind == "constant" and self.end == 0:
            raise ConfigError(
                "A constant learning rate of 0 learns nothing; give kind='linear' to let it fall "
                "to 0, or an end above 0."
            )
        if self.start == 0 and (self.end == 0 or self.kind == "delayed"):
            raise ConfigError(
                f"A {self.kind} learning rate that begins at 0 learns nothing for "
                f"{self.epochs:g} epochs; give a start above 0."
            )
        return self
