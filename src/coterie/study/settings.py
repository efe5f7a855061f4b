"""What the study trains: three main settings, sweeps around them, and the parts of PIA alone."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from coterie.config import HIGHEST_SEED, Config
from coterie.errors import ConfigError
from coterie.mechanisms.diagnose import KEEP_PROBABILITY, SECONDS
from coterie.models.vae import ModelConfig
from coterie.objectives.elbo import ObjectiveConfig
from coterie.objectives.schedules import Schedule
from coterie.training.config import Experiment, TrainingConfig

CLEAN, MASKING, PIA = "clean", "masking", "pia"
MAIN = (CLEAN, MASKING, PIA)
MEAN_ONLY, VARIANCE_ONLY, WARM_UP = "pia-mean-only", "pia-variance-only", "pia-warm-up"
BETA, RHO, LAMBDA = "beta", "rho", "lambda_a"  # the sweeps, by the base point's fields
SYMBOLS = {BETA: "β", RHO: "ρ", LAMBDA: "λ_A"}
METRIC = "ndcg@100"

Probability = Annotated[float, Field(gt=0, le=1)]
Weight = Annotated[float, Field(ge=0)]


class StudyConfig(Config):
    """The study: one base point, values to sweep one at a time, network, training, measuring.

    Nothing is tuned: all settings share the base point and the training, so that two of them differ
    in one thing.
    """

    beta: PositiveFloat = Field(0.2, description="Base β: the cap of the KL term's weight.")
    # No longer than evaluate_every: else validation may choose an epoch before β is at its cap, and
    # a setting is measured with another β than its name says.
    beta_ramp: float = Field(5.0, ge=0, description="Epochs in which β grows to its cap.")
    rho: float = Field(0.5, gt=0, lt=1, description="Base ρ, the probability to KEEP an item.")
    lambda_a: PositiveFloat = Field(1.0, description="Base λ_A, the weight of PIA.")
    lambda_ramp: PositiveFloat = Field(
        20.0, description="Epochs in which λ_A grows in the run that tests a schedule."
    )
    betas: tuple[Weight, ...] = Field(
        (0.01, 0.2, 0.5, 1.0, 5.0), description="β to sweep, with masking."
    )
    rhos: tuple[Probability, ...] = Field(
        (0.25, 0.5, 0.75, 1.0), description="ρ to sweep, without PIA."
    )
    lambdas: tuple[Weight, ...] = Field(
        (0.0, 0.1, 1.0, 8.0), description="λ_A to sweep, with masking."
    )
    ablation: bool = Field(True, description="Train PIA's parts alone, and with a schedule.")
    hidden_dims: tuple[PositiveInt, ...] = Field(
        ModelConfig().hidden_dims, description="Widths of the encoder's hidden layers."
    )
    latent_dim: PositiveInt = Field(ModelConfig().latent_dim, description="K, the size of z.")
    epochs: PositiveInt = Field(200, description="Most epochs of a run.")
    evaluate_every: PositiveInt = Field(5, description="Epochs between validations.")
    patience: PositiveInt | None = Field(
        4, description="Validations without improvement before a run ends; none: never."
    )
    batch_size: PositiveInt = Field(TrainingConfig().batch_size, description="Users per step.")
    learning_rate: PositiveFloat = Field(
        TrainingConfig().learning_rate, description="Adam's step size."
    )
    measured_rho: float = Field(
        KEEP_PROBABILITY,
        gt=0,
        lt=1,
        description="ρ of the masks that all settings are measured with.",
    )
    measured_users: int = Field(
        2000, ge=10, description="Training users to measure on, the same for all settings."
    )
    measured_seed: int = Field(
        0, ge=0, le=HIGHEST_SEED, description="Draws these users, and their masks."
    )
    budget: PositiveFloat = Field(
        SECONDS, description="Nominal seconds for all measures of a run together."
    )

    @model_validator(mode="after")
    def _without_repeats(self) -> Self:
        for name in ("betas", "rhos", "lambdas"):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise ConfigError(f"{name} names a value twice: {values}.")
        return self

    def experiment(self, objective: ObjectiveConfig, seed: int) -> Experiment:
        """One run: an objective, and the network and training that all runs share."""
        return Experiment(
            model=ModelConfig(hidden_dims=self.hidden_dims, latent_dim=self.latent_dim),
            objective=objective,
            training=TrainingConfig(
                epochs=self.epochs,
                batch_size=self.batch_size,
                learning_rate=self.learning_rate,
                metric=METRIC,
                patience=self.patience,
                evaluate_every=self.evaluate_every,
                seed=seed,
            ),
        )


@dataclass(frozen=True)
class Setting:
    """What one run per seed trains.

    Parameters
    ----------
    key
        A word for files and JSON.
    label
        For people.
    objective
        All that the settings differ in.
    """

    key: str
    label: str
    objective: ObjectiveConfig

    @property
    def lambda_a(self) -> float:
        """λ_A at the end of its schedule."""
        return self.objective.alignment.end


class Plan:
    """The settings of a study without repeats, and which of them make up each sweep.

    A point of a sweep that is a main setting, or a point of another sweep, is that same setting, so
    that it is trained once per seed.
    """

    def __init__(self, config: StudyConfig) -> None:
        self.config = config
        self.settings: dict[str, Setting] = {}
        self._add(CLEAN, "clean input", _objective(config, rho=1.0))
        self._add(MASKING, "masking", _objective(config))
        self._add(PIA, "masking + PIA", _objective(config, lambda_a=config.lambda_a))
        self.sweeps: dict[str, dict[float, str]] = {
            BETA: self._sweep(BETA, config.betas, lambda value: _objective(config, beta=value)),
            RHO: self._sweep(RHO, config.rhos, lambda value: _objective(config, rho=value)),
            LAMBDA: self._sweep(
                LAMBDA, config.lambdas, lambda value: _objective(config, lambda_a=value)
            ),
        }
        self.ablation: list[str] = self._parts() if config.ablation else []

    def __getitem__(self, key: str) -> Setting:
        return self.settings[key]

    @property
    def keys(self) -> list[str]:
        """All settings, the main ones first."""
        return list(self.settings)

    def runs(self, seeds: Iterable[int]) -> list[tuple[int, str]]:
        """Seed and setting of every run: a whole seed, then the next."""
        return [(seed, key) for seed in seeds for key in self.settings]

    def _sweep(
        self, name: str, values: tuple[float, ...], objective: Callable[[float], ObjectiveConfig]
    ) -> dict[float, str]:
        every = sorted({*values, getattr(self.config, name)} if values else values)
        return {
            value: self._add(
                f"{name}-{value:.12g}", f"{SYMBOLS[name]} = {value:.12g}", objective(value)
            )
            for value in every
        }

    def _parts(self) -> list[str]:
        config, lambda_a = self.config, self.config.lambda_a
        mean = _objective(config, lambda_a=lambda_a, shrink_variance=False)
        variance = _objective(config, lambda_a=lambda_a, align_mean=False)
        ramp = Schedule(kind="linear", end=lambda_a, epochs=config.lambda_ramp)
        scheduled = mean.model_copy(update={"alignment": ramp, "shrink_variance": True})
        return [
            MASKING,
            self._add(MEAN_ONLY, "PIA, mean", mean),
            self._add(VARIANCE_ONLY, "PIA, variance", variance),
            PIA,
            self._add(WARM_UP, "PIA, warm-up", scheduled),
        ]

    def _add(self, key: str, label: str, objective: ObjectiveConfig) -> str:
        """The key of the setting with this objective, which is new or there already."""
        for setting in self.settings.values():
            if setting.objective == objective:
                return setting.key
        self.settings[key] = Setting(key, label, objective)
        return key


def _objective(
    config: StudyConfig,
    *,
    beta: float | None = None,
    rho: float | None = None,
    lambda_a: float = 0.0,
    align_mean: bool = True,
    shrink_variance: bool = True,
) -> ObjectiveConfig:
    """The base point without PIA, but for what is given; λ_A constant, β growing."""
    end = config.beta if beta is None else beta
    ramp = config.beta_ramp
    return ObjectiveConfig(
        keep_probability=config.rho if rho is None else rho,
        beta=Schedule(kind="linear", end=end, epochs=ramp) if ramp else Schedule(end=end),
        alignment=Schedule(end=lambda_a),
        align_mean=align_mean,
        shrink_variance=shrink_variance,
    )
