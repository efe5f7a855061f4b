"""All measures of one trained model, on samples that fit one budget."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coterie.data.interactions import Interactions
from coterie.errors import ConfigError, DataError, NotFittedError
from coterie.histories import over
from coterie.mechanisms.alignment_effect import alignment_effect
from coterie.mechanisms.collaboration import collaboration
from coterie.mechanisms.compromise import compromise
from coterie.mechanisms.drift import drift
from coterie.mechanisms.information import information
from coterie.mechanisms.mask_geometry import mask_geometry
from coterie.mechanisms.measurement import (
    Budget,
    Measurement,
    SmallBudgetError,
    with_histories,
)
from coterie.mechanisms.titles import item_names
from coterie.mechanisms.transfer import transfer
from coterie.mechanisms.wasserstein import wasserstein
from coterie.recommender import Recommender

KEEP_PROBABILITY = 0.5  # of every model, however it was trained, so that they compare
SECONDS = 50.0
ALIGNMENT = tuple(
    f"objective.{name}" for name in ("alignment", "align_mean", "shrink_variance", "anchors")
)


@dataclass(frozen=True, eq=False)
class _Subject:
    """What a measure may look at."""

    recommender: Recommender
    user_items: Interactions
    keep_probability: float
    generator: torch.Generator
    budget: Budget

    @property
    def common(self) -> dict[str, Any]:
        return {"generator": self.generator, "budget": self.budget}

    @property
    def masked(self) -> dict[str, Any]:
        return {**self.common, "keep_probability": self.keep_probability}

    @property
    def objective(self) -> dict[str, Any]:
        """What training minimised, as settings; :class:`ConfigError` if the model does not say."""
        found: dict[str, Any] = self.recommender.metadata.get("experiment", {}).get("objective", {})
        if not found:
            raise ConfigError(
                "The model does not say with what λ_A and β it was trained (its metadata holds no "
                "experiment); call coterie.mechanisms.alignment_effect with them."
            )
        return found

    def trained(self, weight: str) -> float:
        """The weight that training ended with; 0 where there was none."""
        value = self.objective.get(weight) or 0.0
        return float(value["end"] if isinstance(value, dict) else value)

    @property
    def pull(self) -> float:
        """λ_A, as far as it pulled the mean to the centroid."""
        return self.trained("alignment") if self.objective.get("align_mean", True) else 0.0

    @property
    def anchors(self) -> Tensor | None:
        """The learnt anchors, where a user's even mean of them is what training pulled to."""
        used = self.objective.get("anchors", {})
        even = used.get("weighting", "uniform") == "uniform" and used.get("n_centroids", 1) == 1
        return self.recommender.anchors if even else None

    @property
    def titles(self) -> list[str]:
        """Of all items; the id where there is no title."""
        return item_names(self.recommender.catalogue)


def _transfer(of: _Subject) -> Measurement:
    return transfer(of.recommender.vae, of.user_items, **of.common)


def _collaboration(of: _Subject) -> Measurement:
    return collaboration(
        of.recommender.vae,
        of.user_items,
        item_titles=of.titles,
        **of.common,
    )


def _wasserstein(of: _Subject) -> Measurement:
    return wasserstein(of.recommender.vae, of.user_items, **of.common)


def _compromise(of: _Subject) -> Measurement:
    return compromise(of.recommender.vae, of.user_items, **of.common)


def _mask_geometry(of: _Subject) -> Measurement:
    return mask_geometry(of.user_items, **of.masked)


def _drift(of: _Subject) -> Measurement:
    return drift(of.recommender.vae, of.user_items, **of.masked)


def _information(of: _Subject) -> Measurement:
    return information(of.recommender.vae, of.user_items, **of.masked)


def _alignment_effect(of: _Subject) -> Measurement:
    return alignment_effect(
        of.recommender.vae,
        of.user_items,
        lambda_a=of.pull,
        beta=of.trained("beta"),
        gamma=of.trained("gamma"),
        anchors=of.anchors,
        **of.masked,
    )


@dataclass(frozen=True)
class _Measure:
    """A measure, and its share of the budget's time."""

    title: str
    share: float
    measure: Callable[[_Subject], Measurement]


MEASURES: dict[str, _Measure] = {
    "collaboration": _Measure("local and global collaboration", 0.22, _collaboration),
    "transfer": _Measure("transfer between users", 0.20, _transfer),
    "drift": _Measure("neighbourhood drift", 0.11, _drift),
    "mask_geometry": _Measure("mask geometry", 0.06, _mask_geometry),
    "wasserstein": _Measure("distances between posteriors", 0.09, _wasserstein),
    "compromise": _Measure("compromise gap", 0.08, _compromise),
    "information": _Measure("information and collapse", 0.08, _information),
    "alignment_effect": _Measure("effect of alignment", 0.06, _alignment_effect),
}
"""In the order of the report; the shares and the map's add up to one."""
MAP_SHARE = 0.1  # of the latent map, which is made for all models together; for each of them


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What was measured of one model.

    Parameters
    ----------
    measurements
        By the measure's name, in the order of the report.
    skipped
        Why a measure is missing, by its name, as sentences.
    seconds
        What each measure took, by its name.
    seed, keep_probability
        What the draws came from, and the probability ρ to KEEP an item of masked input.
    data
        Name and sizes of the data.
    training
        The settings of the model and its training without those of alignment, by dotted names, so
        that models can be told which differ in alignment only; empty if the model does not say.
    """

    measurements: Mapping[str, Measurement]
    skipped: Mapping[str, str]
    seconds: Mapping[str, float]
    seed: int = 0
    keep_probability: float = KEEP_PROBABILITY
    data: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    @property
    def order(self) -> list[str]:
        """Names of all measures, made or skipped, in the order of the report."""
        return list(self.seconds)

    def figures(self) -> dict[str, dict[str, float]]:
        """Headline figures by measure and name."""
        return {name: found.figures() for name, found in self.measurements.items()}

    def headlines(self, measure: str) -> dict[str, float]:
        """The figures of one measure that tables show; none where it was skipped."""
        found = self.measurements.get(measure)
        return {} if found is None else found.headlines()

    def sentences(self) -> dict[str, str]:
        """What was found, by measure."""
        return {name: found.sentence() for name, found in self.measurements.items()}

    def to_dict(self) -> dict[str, Any]:
        """Everything but the tables and plots; only what JSON can hold, save NaN and Inf."""
        return {
            "seed": self.seed,
            "keep_probability": self.keep_probability,
            "data": dict(self.data),
            "measurements": {
                name: {**found.to_dict(), "seconds": round(self.seconds[name], 3)}
                for name, found in self.measurements.items()
            },
            "skipped": dict(self.skipped),
        }


def diagnose(
    recommender: Recommender,
    user_items: Interactions,
    *,
    seed: int = 0,
    budget: Budget | None = None,
    keep_probability: float = KEEP_PROBABILITY,
    progress: Callable[[str], None] | None = None,
) -> Diagnosis:
    """Take every measure that makes sense for the model.

    Parameters
    ----------
    recommender
        Any VAE of coterie; of a baseline, what needs no latent vectors. Weights β, γ and λ_A are
        read from its ``metadata["experiment"]``; without it the effect of alignment is skipped.
    user_items
        Histories of any users; items that the model does not know are left out.
    seed
        Each measure draws from a stream of its own, made of the seed and the measure's name: the
        same users for every model, and no measure changes another's.
    budget
        For all measures together; by default 50 nominal seconds.
    keep_probability
        ρ of the masks that the measures draw, whatever the model was trained with.
    progress
        Called with the title of the measure that begins.

    Raises
    ------
    DataError
        No user has an item that the model knows, or not one measure could be taken; the message
        says why.
    ConfigError
        ``keep_probability`` is not in (0, 1), or the budget is too small for all or for more than
        half of the measures that the model allows.
    """
    if not 0 < keep_probability < 1:
        raise ConfigError(
            f"keep_probability must lie between 0 and 1, so that masks do something; got "
            f"{keep_probability}."
        )
    known = over(user_items, recommender.item_ids)
    if not len(with_histories(known)):
        raise DataError(
            "No user has an item that the model knows; pass the data that the model was trained "
            "on, or data with the same item ids."
        )
    budget = budget or Budget(seconds=SECONDS)
    measurements: dict[str, Measurement] = {}
    skipped: dict[str, str] = {}
    starved: list[str] = []
    seconds: dict[str, float] = {}
    for name, measure in MEASURES.items():
        if progress is not None:
            progress(measure.title)
        share = budget.share(measure.share)
        generator = generator_for(seed, name)
        subject = _Subject(recommender, known, keep_probability, generator, share)
        begun = time.monotonic()
        try:
            measurements[name] = _large_enough(measure.measure(subject))
        except SmallBudgetError as error:
            skipped[name] = str(error)
            starved.append(name)
        except (ConfigError, DataError, NotFittedError) as error:
            skipped[name] = str(error)
        seconds[name] = time.monotonic() - begun
    if len(measurements) < len(starved):
        reasons = " ".join(dict.fromkeys(skipped[name] for name in starved))
        raise ConfigError(
            f"The budget lets only {len(measurements)} of "
            f"{len(measurements) + len(starved)} measures be taken; allow more seconds or memory. "
            f"{reasons}"
        )
    if not measurements:
        raise DataError("Nothing could be measured. " + " ".join(dict.fromkeys(skipped.values())))
    return Diagnosis(
        measurements, skipped, seconds, seed, keep_probability, _facts(known), _trained(recommender)
    )


def _large_enough(found: Measurement) -> Measurement:
    """The measurement, if its figures say something."""
    if reason := found.too_small():
        # Whoever has too few users cannot help it with a larger budget.
        starved = found.sample.used < found.sample.available
        raise SmallBudgetError(reason) if starved else DataError(reason)
    return found


def _trained(recommender: Recommender) -> dict[str, Any]:
    """Settings of the model and its training, without alignment's, by dotted names."""
    experiment = recommender.metadata.get("experiment", {})
    found = dict(_dotted(experiment))
    return {
        name: value
        for name, value in found.items()
        if name != "training.seed" and not name.startswith(ALIGNMENT)
    }


def _dotted(settings: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{within}{name}.")
        else:
            yield f"{within}{name}", value


def generator_for(seed: int, name: str) -> torch.Generator:
    """The stream of one measure, made of the seed and the measure's name."""
    # Torch's CPU generator uses the low 32 bits of a seed only, hence one hash of both.
    own = np.random.SeedSequence(seed, spawn_key=tuple(name.encode())).generate_state(1)[0]
    return torch.Generator().manual_seed(int(own))


def _facts(data: Interactions) -> dict[str, Any]:
    return {
        "name": data.name,
        "users": data.n_users,
        "items": data.n_items,
        "interactions": data.nnz,
        "users without a history": int((data.history_lengths == 0).sum()),
    }
