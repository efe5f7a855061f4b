"""The training loop: one function to read from top to bottom, one state object, exact resume.

Weights, user order, masks and noise are pure functions of ``(seed, step)``. Hence a run that was
killed and resumed ends with the weights of the uninterrupted run, bit for bit on a CPU.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from coterie.data.batches import UserBatches
from coterie.data.interactions import Interactions
from coterie.data.splits import HeldOut
from coterie.errors import DataError, DivergenceError
from coterie.evaluation.protocol import evaluate
from coterie.objectives.implicit_slim import replace_tables
from coterie.recommender import Recommender
from coterie.training.checkpoint import Progress, fingerprint
from coterie.training.config import Experiment, RunContext
from coterie.training.interrupt import interruptible
from coterie.training.run_folder import RunFolder
from coterie.training.state import TrainingState, training_step

CHECK_EVERY = 10  # steps between looks at the loss, each of which waits for the device
TERMS = ("nll", "kl", "alignment")


class Observer(Protocol):
    """Who wants to see training: a progress display, a logger."""

    def step(self, report: "StepReport") -> None:
        """Called every few steps."""

    def epoch(self, record: dict[str, Any]) -> None:
        """Called after each epoch with the record that goes into the metrics file."""


@dataclass(frozen=True)
class StepReport:
    """The loop's position and the running means of the epoch's loss terms, in nats per user."""

    epoch: int
    epochs: int
    step_in_epoch: int
    steps_per_epoch: int
    users: int
    terms: dict[str, float]


@dataclass(frozen=True)
class TrainingResult:
    """What training gives: the best epoch's recommender, and the record of each epoch.

    ``interrupted`` says that a signal left epochs undone; ``stop_requested`` that one came at all,
    if only after the last step, so that whoever has more to do after training should not begin.
    """

    recommender: Recommender
    history: list[dict[str, Any]]
    best_epoch: int | None
    best_value: float | None
    interrupted: bool
    stop_requested: bool


def train(
    train_data: Interactions,
    validation: HeldOut | None,
    experiment: Experiment | None = None,
    *,
    context: RunContext | None = None,
    folder: Path | str | None = None,
    resume: bool = False,
    observer: Observer | None = None,
    on_start: Callable[[], None] | None = None,
) -> TrainingResult:
    """Train a VAE recommender; keep the epoch that is best on the validation users.

    Parameters
    ----------
    train_data
        Histories of the training users, ``[U, I]``.
    validation
        Held-out users for early stopping; None trains all epochs and keeps the last.
    experiment
        Model, objective and training settings; the defaults are Multi-VAE's.
    context
        Device and precision.
    folder
        Where checkpoints and ``metrics.jsonl`` go; None keeps the best weights in memory.
    resume
        Continue from ``folder``'s last checkpoint if there is one.
    observer
        Told about steps and epochs.
    on_start
        Called once before the first step, when nothing is left that could be refused: settings and
        data fit, and so does the checkpoint of a resumed run.

    Raises
    ------
    DataError
        No training user has an interaction, the validation users' items are not the training
        users', there is nothing to predict for any of them, or the objective needs timestamps or
        ratings that the data lacks.
    ConfigError
        The checkpoint belongs to another experiment or precision or other data, or the
        metric is unknown.
    DivergenceError
        A loss term became NaN or Inf; the message names step and term.
    """
    experiment, context = experiment or Experiment(), context or RunContext()
    settings = experiment.training
    state = TrainingState.create(experiment, train_data.n_items, context)
    check_data(train_data, validation)
    state.objective.prepared(train_data, state.generator.device)
    batches = UserBatches(
        train_data, settings.batch_size, settings.seed, experiment.objective.extras
    )
    run_folder = RunFolder(folder, fingerprint(experiment, train_data, validation, context))
    if resume:
        run_folder.resume(state)
    else:
        run_folder.start()
    if on_start is not None:
        on_start()
    run_folder.checkpoint_every(context.checkpoint_minutes)
    with interruptible() as stop_requested:
        while not _finished(state.progress, experiment):
            if not _train_epoch(state, batches, experiment, observer, run_folder, stop_requested):
                break
            _finish_epoch(state, train_data, validation, experiment, observer, run_folder)
        requested = stop_requested()
    interrupted = not _finished(state.progress, experiment)
    state.move_only("all")
    run_folder.restore_best(state)
    return _result(state, train_data, experiment, interrupted=interrupted, stop_requested=requested)


def check_data(train_data: Interactions, validation: HeldOut | None) -> None:
    """Find out before the first epoch what would fail after it; errors as in :func:`train`."""
    if train_data.nnz == 0:
        raise DataError("No training user has an interaction; training needs at least one.")
    if validation is None:
        return
    if validation.fold_in.item_ids != train_data.item_ids:
        raise DataError(
            f"The validation users' {validation.fold_in.n_items} items must be the training "
            f"users' {train_data.n_items}, in the same order; take both from one split."
        )
    if validation.held_out.nnz == 0:
        raise DataError("No validation user has a held-out item; pass users who have, or None.")


def _result(
    state: TrainingState,
    train_data: Interactions,
    experiment: Experiment,
    *,
    interrupted: bool,
    stop_requested: bool,
) -> TrainingResult:
    progress = state.progress
    anchors = state.objective.anchors
    state.model.eval()
    recommender = Recommender(
        state.model,
        train_data.item_ids,
        train_data.item_counts(),
        items=train_data.items,
        anchors=None if anchors is None else anchors.whole(state.model),
        metadata={
            "data": train_data.name,
            "experiment": experiment.model_dump(mode="json"),
            "best_epoch": progress.best_epoch,
            f"validation_{experiment.training.metric}": progress.best_value,
            "epochs": len(progress.history),
        },
    )
    return TrainingResult(
        recommender,
        progress.history,
        progress.best_epoch,
        progress.best_value,
        interrupted,
        stop_requested,
    )


def _finished(progress: Progress, experiment: Experiment) -> bool:
    patience = experiment.training.patience
    return len(progress.history) >= experiment.training.epochs or (
        patience is not None and progress.stale >= patience
    )


def _train_epoch(
    state: TrainingState,
    batches: UserBatches,
    experiment: Experiment,
    observer: Observer | None,
    run_folder: RunFolder,
    stop_requested: Callable[[], bool],
) -> bool:
    """Train the rest of the current epoch; False, after a checkpoint, if it was interrupted."""
    progress = state.progress
    epoch, steps = len(progress.history), batches.steps_per_epoch
    start = progress.step - epoch * steps
    slim, epochs_per_set = experiment.training.implicit_slim, experiment.training.epochs_per_set
    if start == 0 and slim.due(epoch, epochs_per_set):
        replace_tables(state.model, batches.data, slim)
    names = TERMS[:1] if experiment.training.part(epoch) == "decoder" else TERMS
    unchecked: list[tuple[int, Tensor]] = []
    state.model.train()
    for index, batch in enumerate(batches.epoch(epoch, start=start), start=start):
        terms = training_step(state, batch, experiment, steps)
        progress.step += 1
        unchecked.append((batch.n_users, terms))
        stopping = stop_requested()
        if stopping or len(unchecked) == CHECK_EVERY or index == steps - 1:
            _add_up(progress, unchecked, names)
            unchecked.clear()
            if observer is not None:
                observer.step(_report(progress, experiment, index + 1, steps))
            if stopping or (run_folder.is_due() and index < steps - 1):
                run_folder.save_last(state)
        if stopping:
            return False
    return True


def _add_up(
    progress: Progress, unchecked: list[tuple[int, Tensor]], names: tuple[str, ...]
) -> None:
    """Add the terms of the last steps to the epoch's sums; raise if one is not finite."""
    values = torch.stack([terms for _, terms in unchecked]).tolist()
    first = progress.step - len(unchecked)
    for offset, ((users, _), row) in enumerate(zip(unchecked, values, strict=True)):
        for name, value in zip(names, row, strict=False):
            if not math.isfinite(value):
                raise DivergenceError(
                    f"Training diverged at step {first + offset}: the term {name!r} is {value}. "
                    "Lower the learning rate, set clip_norm, or check λ_A and β."
                )
            progress.sums[name] = progress.sums.get(name, 0.0) + value * users
        progress.sums["users"] = progress.sums.get("users", 0.0) + users


def _means(progress: Progress) -> dict[str, float]:
    """Means over the users so far of the terms that this epoch has."""
    users = progress.sums["users"]
    return {name: progress.sums[name] / users for name in TERMS if name in progress.sums}


def _report(progress: Progress, experiment: Experiment, index: int, steps: int) -> StepReport:
    return StepReport(
        epoch=len(progress.history) + 1,
        epochs=experiment.training.epochs,
        step_in_epoch=index,
        steps_per_epoch=steps,
        users=int(progress.sums["users"]),
        terms=_means(progress),
    )


def _finish_epoch(
    state: TrainingState,
    train_data: Interactions,
    validation: HeldOut | None,
    experiment: Experiment,
    observer: Observer | None,
    run_folder: RunFolder,
) -> None:
    """Validate, record the epoch, keep the best weights, write the last checkpoint."""
    progress, settings = state.progress, experiment.training
    epoch = len(progress.history) + 1
    last_step, steps = progress.step - 1, progress.step // epoch
    record: dict[str, Any] = {"epoch": epoch, "step": progress.step, **_means(progress)}
    factor = settings.learning_rate_schedule.value(last_step, steps)
    record["learning_rate"] = settings.learning_rate * factor
    if settings.part(epoch - 1) != "decoder":
        record |= experiment.objective.weights(last_step, steps)
    progress.sums.clear()
    progress.history.append(record)
    if settings.refreshes_snapshot(epoch - 1):
        state.model.refresh_snapshot()
    if validation is not None and settings.validates(epoch - 1):
        value = _validate(state, train_data, validation, settings.metric)
        record[f"validation_{settings.metric}"] = value
        if progress.best_value is None or value > progress.best_value:
            progress.best_value, progress.best_epoch, progress.stale = value, epoch, 0
            run_folder.save_best(state)
        else:
            progress.stale += 1
    run_folder.save_last(state)
    if observer is not None:
        observer.epoch(record)


def _validate(
    state: TrainingState, train_data: Interactions, validation: HeldOut, metric: str
) -> float:
    recommender = Recommender(state.model, train_data.item_ids, train_data.item_counts())
    cut = int(metric.partition("@")[2])
    return evaluate(recommender, validation, ks=(cut,))[metric]
