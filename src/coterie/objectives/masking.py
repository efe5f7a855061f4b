"""Bernoulli input masks: the encoder sees part of the history, the loss the whole of it."""

from dataclasses import replace

import torch

from coterie.data.batches import UserBatch


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
