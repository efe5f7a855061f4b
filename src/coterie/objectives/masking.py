"""Input masks: the encoder sees part of the history, the loss the whole of it.

All masks keep a share ρ of the entries on average. The kept entries of a user are scaled by the
inverse of the share that is expected to be kept of this user's history, so that the input's sum is
on average that of the clean input. Source of the plain mask: Liang et al., WWW 2018; the others
are our own.
"""

from dataclasses import replace
from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from coterie.config import Config, must_be_default
from coterie.data.batches import UserBatch
from coterie.errors import ConfigError

USED_BY = {"exponent": "popularity", "width": "random-rate", "blocks": "time-block"}  # by kind


class MaskConfig(Config):
    """Which entries of a history are hidden together; ``keep_probability`` says how many."""

    kind: Literal["bernoulli", "popularity", "random-rate", "time-block"] = Field(
        "bernoulli",
        description="bernoulli: each entry by itself; popularity: popular items are hidden more "
        "often; random-rate: a rate of its own for each user and step; time-block: runs of the "
        "history in the order of time.",
    )
    exponent: float = Field(
        0.5, gt=0, description="popularity: a keep probability falls as users per item ** this."
    )
    width: float = Field(
        0.8, gt=0, lt=1, description="random-rate: width of the uniform distribution of rates."
    )
    blocks: PositiveInt = Field(
        8, description="time-block: runs of equal length that a history is cut into."
    )

    @model_validator(mode="after")
    def _other_kinds_settings_are_untouched(self) -> Self:
        for name, kind in USED_BY.items():
            must_be_default(self, name, used=self.kind == kind, by=f"kind={kind!r}")
        return self

    def check(self, keep_probability: float) -> None:
        """Raise :class:`ConfigError` where the kind cannot keep the share ρ."""
        if self.kind == "bernoulli":
            return
        if keep_probability == 1:
            raise ConfigError(
                f"mask.kind={self.kind!r} needs keep_probability < 1: with 1 nothing is masked."
            )
        lowest, highest = keep_probability - self.width / 2, keep_probability + self.width / 2
        if self.kind == "random-rate" and not (lowest > 0 and highest <= 1):
            raise ConfigError(
                f"Rates of width {self.width} around keep_probability={keep_probability} reach "
                f"from {lowest:g} to {highest:g}, outside (0, 1]; make mask.width smaller."
            )


def mask(batch: UserBatch, keep_probability: float, generator: torch.Generator) -> UserBatch:
    """Keep each entry with probability ρ and scale the kept ones by 1/ρ.

    The row was L2-normalised before (``batch.scale``), as in Liang et al., WWW 2018.

    Parameters
    ----------
    batch
        Whole histories.
    keep_probability
        ρ in (0, 1], the probability to KEEP an entry; 1 returns the batch itself.
    generator
        On the batch's device.
    """
    if keep_probability == 1:
        return batch
    draws = torch.rand(len(batch.indices), generator=generator, device=batch.indices.device)
    kept = batch.select(draws < keep_probability)
    return replace(kept, scale=batch.scale / keep_probability)


def mask_by_item(batch: UserBatch, keep: Tensor, generator: torch.Generator) -> UserBatch:
    """Keep an entry of item i with probability ``keep[i]``, float32 ``[I]``.

    The kept entries of a user are scaled by the inverse of the mean of ``keep`` over the history.
    They all have the same scale, so that items with a low ``keep`` weigh less than in clean input.
    """
    probabilities = keep[batch.indices]
    draws = torch.rand(len(probabilities), generator=generator, device=keep.device)
    sums = torch.zeros_like(batch.scale).index_add(0, batch.rows, probabilities)
    share = torch.where(batch.lengths > 0, sums / batch.lengths.clamp(min=1), 1)
    return replace(batch.select(draws < probabilities), scale=batch.scale / share)


def popularity_keep(counts: np.ndarray, keep_probability: float, exponent: float) -> np.ndarray:
    """Keep probabilities ``min(1, a · c_i^−exponent)`` of items with c_i users, float64 ``[I]``.

    ``a`` is such that the mean over all interactions, ``Σ c_i keep_i / Σ c_i``, is exactly ρ.

    Parameters
    ----------
    counts
        c, users per item, ``[I]``; at least one is above 0. Items without users are kept.
    keep_probability
        ρ in (0, 1).
    exponent
        Above 0; the higher, the more often are popular items hidden.
    """
    keep = np.ones(len(counts))
    used = np.flatnonzero(counts)
    order = used[np.argsort(counts[used], kind="stable")]
    c = counts[order].astype(np.float64)
    # With the k rarest items always kept, a solves Σ_{rarest} c + a Σ_{others} c^(1 − exponent)
    # = ρ Σ c; it is the solution for the smallest k at which no other item would exceed 1.
    always = np.concatenate([[0.0], np.cumsum(c)[:-1]])
    others = np.cumsum((c ** (1 - exponent))[::-1])[::-1]
    factors = (keep_probability * c.sum() - always) / others
    k = int(np.argmax(factors <= c**exponent))
    keep[order[k:]] = factors[k] * c[k:] ** -exponent
    return keep


def mask_at_random_rate(
    batch: UserBatch, keep_probability: float, width: float, generator: torch.Generator
) -> UserBatch:
    """Draw ρ_u uniformly from ``ρ ± width / 2`` for each user, then mask with it.

    Kept entries are scaled by 1/ρ_u. Each entry is kept with probability ρ over all draws.
    """
    device = batch.indices.device
    rates = torch.rand(batch.n_users, generator=generator, device=device)
    rates = keep_probability + width * (rates - 0.5)
    draws = torch.rand(len(batch.indices), generator=generator, device=device)
    return replace(batch.select(draws < rates[batch.rows]), scale=batch.scale / rates)


def mask_time_blocks(
    batch: UserBatch, keep_probability: float, blocks: int, generator: torch.Generator
) -> UserBatch:
    """Keep or hide whole runs of each history in the order of time.

    A history of n entries is cut into runs of ``ceil(n / blocks)`` successive entries, from an
    offset that is drawn anew in each step (so that the first and the last run may be shorter).
    Each run is kept with probability ρ, and so is each entry; kept ones are scaled by 1/ρ.
    Entries of one moment are in the order of their items. Needs ``batch.timestamps``.
    """
    assert batch.timestamps is not None, "the loop asks for them: see ObjectiveConfig.extras"
    device, rows, lengths = batch.indices.device, batch.rows, batch.lengths
    by_time = torch.argsort(batch.timestamps, stable=True)
    order = by_time[torch.argsort(rows[by_time], stable=True)]  # by user, then by time
    starts = batch.indptr[:-1][rows]
    run_length = -(-lengths // blocks).clamp(max=-1)
    offsets = torch.rand(batch.n_users, generator=generator, device=device)
    offsets = torch.minimum((offsets * run_length).long(), run_length - 1)
    position = torch.arange(len(rows), device=device) - starts
    run = (position + offsets[rows]) // run_length[rows]  # below n: a draw of the user's for each
    draws = torch.rand(len(rows), generator=generator, device=device)
    keep = torch.empty_like(rows, dtype=torch.bool)
    keep[order] = draws[starts + run] < keep_probability
    return replace(batch.select(keep), scale=batch.scale / keep_probability)


def draw_mask(
    batch: UserBatch,
    config: MaskConfig,
    keep_probability: float,
    generator: torch.Generator,
    item_keep: Tensor | None = None,
) -> UserBatch:
    """Mask whole histories as ``config`` says; ``item_keep`` is :func:`popularity_keep`'s."""
    match config.kind:
        case "bernoulli":
            return mask(batch, keep_probability, generator)
        case "popularity":
            assert item_keep is not None, "the objective was not prepared"
            return mask_by_item(batch, item_keep, generator)
        case "random-rate":
            return mask_at_random_rate(batch, keep_probability, config.width, generator)
        case "time-block":
            return mask_time_blocks(batch, keep_probability, config.blocks, generator)
