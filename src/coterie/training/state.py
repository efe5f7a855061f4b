"""The training state: everything that changes while training, and one step of it.

Weights, masks and noise are pure functions of ``(seed, step)``; nothing random is kept.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from coterie.data.batches import UserBatch
from coterie.memory import keep_freed_memory
from coterie.models.tables import TableGradients
from coterie.models.vae import VAE
from coterie.objectives.elbo import LossTerms, Objective, Part
from coterie.objectives.multinomial import OutputWorkspace
from coterie.training.checkpoint import Progress, named_parameters
from coterie.training.config import Experiment, RunContext
from coterie.training.optimizer import Adam


@dataclass
class TrainingState:
    """Everything that changes while training, and the memory that it reuses."""

    model: VAE
    objective: Objective
    optimizer: Adam
    generator: torch.Generator
    workspace: OutputWorkspace
    gradients: TableGradients
    progress: Progress = field(default_factory=Progress)

    @classmethod
    def create(cls, experiment: Experiment, n_items: int, context: RunContext) -> "TrainingState":
        """Draw the weights from the seed and set up optimiser and memory on the device."""
        device = context.torch_device()
        keep_freed_memory()
        settings = experiment.training
        model = VAE(experiment.model, n_items).initialized(settings.seed)
        objective = Objective(experiment.objective, model).initialized(settings.seed)
        model.to(device)
        objective.to(device)
        named = named_parameters({"model": model, "objective": objective})
        optimizer = Adam(
            {name: each for name, each in named.items() if each.requires_grad},
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            clip_norm=settings.clip_norm,
        )
        return cls(
            model,
            objective,
            optimizer,
            torch.Generator(device),
            OutputWorkspace(context.torch_dtype()),
            TableGradients([*model.tables, *objective.tables]),
        )

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The model's weights, then the objective's; all but a snapshot encoder's are moved."""
        return [*self.model.parameters(), *self.objective.parameters()]

    @property
    def modules(self) -> dict[str, nn.Module]:
        """What checkpoints hold."""
        return {"model": self.model, "objective": self.objective}

    def move_only(self, part: Part) -> None:
        """Let the next steps move ``part``: no gradient of any other is computed."""
        decoder = self.model.decoder
        decoder.requires_grad_(part != "encoder")
        others = [table for table in self.model.tables if table is not decoder.table]
        others += self.objective.tables
        self.gradients.tables = {
            "all": [*others, decoder.table],
            "encoder": others,
            "decoder": [decoder.table],
        }[part]


def training_step(
    state: TrainingState, batch: UserBatch, experiment: Experiment, steps_per_epoch: int
) -> Tensor:
    """One optimiser step on one batch; returns the terms ``[nll, kl, alignment]``, detached."""
    batch = batch.to(state.generator.device)
    step = state.progress.step
    part = experiment.training.part(step // steps_per_epoch)
    state.move_only(part)
    state.generator.manual_seed(_step_seed(experiment.training.seed, step))
    state.gradients.start()
    for parameter in state.parameters:
        parameter.grad = None
    terms: LossTerms = state.objective(
        state.model,
        batch,
        step=step,
        steps_per_epoch=steps_per_epoch,
        generator=state.generator,
        workspace=state.workspace,
        gradients=state.gradients,
        part=part,
    )
    terms.total.backward()  # type: ignore[no-untyped-call]
    schedule = experiment.training.learning_rate_schedule
    state.optimizer.step(state.gradients, schedule.value(step, steps_per_epoch))
    return terms.stacked()


def _step_seed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 1)
