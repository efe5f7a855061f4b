import json
import math
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_run import ALWAYS, Popularity, context, experiment, run, small_split
from torch import Tensor

from coterie.data.ids import IdMap
from coterie.data.parts import HeldOut
from coterie.errors import ConfigError, DataError, DivergenceError, StorageError
from coterie.evaluation.protocol import evaluate
from coterie.training import loop
from coterie.training.loop import StepReport, TrainingResult, train
from coterie.training.state import TrainingState, training_step

STEPS = 17  # per epoch


def weights(result: TrainingResult) -> dict[str, Tensor]:
    found = dict(result.recommender.model.state_dict())
    if result.recommender.anchors is not None:
        found["anchors"] = result.recommender.anchors
    return found


def same(one: TrainingResult, other: TrainingResult) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(
        torch.equal(value, second[name]) for name, value in first.items()
    )


class Notes:
    """Keeps what it is told; does something at one step of one epoch."""

    def __init__(self, at: tuple[int, int] | None = None, what: Any = None) -> None:
        self.at, self.what = at, what
        self.reports: list[StepReport] = []
        self.records: list[dict[str, Any]] = []

    def step(self, report: StepReport) -> None:
        self.reports.append(report)
        if (report.epoch, report.step_in_epoch) == self.at:
            self.what()

    def epoch(self, record: dict[str, Any]) -> None:
        self.records.append(record)


class Crash(Exception):
    pass


def crash() -> None:
    raise Crash


# ---- it learns

LEARNERS = [
    ({}, 1.0, "fp32"),
    ({}, 0.0, "bf16"),
    ({"name": "multi-dae"}, 0.0, "fp32"),
    ({"hidden_dims": [24, 16]}, 1.0, "bf16"),
]


@pytest.mark.parametrize(("model", "pia", "precision"), LEARNERS)
def test_it_learns(model: dict[str, Any], pia: float, precision: str) -> None:
    split = small_split()
    settings = experiment(model=model, pia=pia, epochs=30, learning_rate=1e-2)
    result = run(settings, within=context(precision=precision))
    losses = [record["nll"] for record in result.history]
    assert losses[-1] < 0.96 * losses[0]
    assert not result.interrupted
    assert not result.stop_requested
    popular = evaluate(Popularity(split.train), split.test, ks=(20,))["ndcg@20"]
    ours = evaluate(result.recommender, split.test, ks=(20,))["ndcg@20"]
    assert ours > 1.1 * popular


def test_the_best_epochs_weights_are_returned(tmp_path: Path) -> None:
    for folder in (None, tmp_path):
        result = run(experiment(epochs=12, learning_rate=0.05), folder=folder)
        values = [record["validation_ndcg@20"] for record in result.history]
        assert result.best_value == max(values)
        assert result.best_epoch == values.index(max(values)) + 1
        assert result.best_epoch < 12, "or the test shows nothing"
        found = evaluate(result.recommender, small_split().validation, ks=(20,))
        assert found["ndcg@20"] == result.best_value


def test_without_validation_the_last_weights_are_returned(tmp_path: Path) -> None:
    result = run(validation=None, folder=tmp_path)
    assert (result.best_epoch, result.best_value) == (None, None)
    assert [record["epoch"] for record in result.history] == [1, 2, 3]
    assert not same(result, run(experiment(epochs=2), validation=None))
    assert same(result, run(experiment(evaluate_every=3)))


# ---- randomness


def test_the_seed_decides_everything() -> None:
    first = run(experiment(seed=1))
    assert same(first, run(experiment(seed=1)))
    assert first.history == run(experiment(seed=1)).history
    assert not same(first, run(experiment(seed=2)))


def test_pia_does_not_change_the_initial_weights_nor_the_masks() -> None:
    states = [
        TrainingState.create(experiment(pia=pia), small_split().train.n_items, context())
        for pia in (0.0, 1.0)
    ]
    first, second = (dict(state.model.named_parameters()) for state in states)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    notes = [Notes(), Notes()]
    for pia, note in zip((0.0, 1e-12), notes, strict=True):
        run(experiment(pia=pia, epochs=1), observer=note)
    for one, other in zip(notes[0].reports, notes[1].reports, strict=True):
        assert one.terms["nll"] == pytest.approx(other.terms["nll"], rel=1e-5)


def test_global_randomness_is_neither_used_nor_changed() -> None:
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        before = torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
        results.append(run())
        after = torch.random.get_rng_state(), np.random.get_state()[1], random.getstate()
        assert torch.equal(before[0], after[0])
        assert np.array_equal(before[1], after[1])
        assert before[2] == after[2]
    assert same(*results)


# ---- what observers and the record are told


def test_reports_and_records_are_means_over_users(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, list[float]]] = []

    def spy(state: TrainingState, batch: Any, *rest: Any) -> Tensor:
        terms = training_step(state, batch, *rest)
        seen.append((batch.n_users, terms.tolist()))
        return terms

    monkeypatch.setattr(loop, "training_step", spy)
    settings, notes = experiment(batch_size=30, epochs=2), Notes()  # 12 batches; the last has 10
    result = run(settings, observer=notes)
    assert [users for users, _ in seen] == ([30] * 11 + [10]) * 2
    assert [(r.epoch, r.step_in_epoch, r.users) for r in notes.reports] == [
        (1, 10, 300),
        (1, 12, 340),
        (2, 10, 300),
        (2, 12, 340),
    ]
    assert {(r.epochs, r.steps_per_epoch) for r in notes.reports} == {(2, 12)}
    assert notes.records == result.history
    for epoch, record in enumerate(result.history):
        steps = seen[12 * epoch : 12 * (epoch + 1)]
        for position, name in enumerate(("nll", "kl", "alignment")):
            mean = sum(users * terms[position] for users, terms in steps) / 340
            assert record[name] == pytest.approx(mean, rel=1e-12)
            assert notes.reports[2 * epoch + 1].terms[name] == record[name]
    assert [record["step"] for record in result.history] == [12, 24]
    betas = [record["beta"] for record in result.history]
    assert betas == pytest.approx([0.2 * 11 / 24, 0.2 * 23 / 24])
    assert {record["lambda_a"] for record in result.history} == {1.0}
    assert {record["learning_rate"] for record in result.history} == {5e-3}


# ---- early stopping


def scripted(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> None:
    left = iter(values)
    monkeypatch.setattr(loop, "_validate", lambda *_: next(left))


@pytest.mark.parametrize("in_folder", [False, True])
def test_patience_counts_evaluations_without_improvement(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, in_folder: bool
) -> None:
    scripted(monkeypatch, [0.1, 0.3, 0.2, 0.3, 0.9])
    result = run(experiment(patience=2, epochs=9), folder=tmp_path if in_folder else None)
    assert len(result.history) == 4, "an equal value is no improvement"
    assert (result.best_epoch, result.best_value, result.interrupted) == (2, 0.3, False)
    assert same(result, run(experiment(epochs=2), validation=None))


def test_improvement_resets_the_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [0.5, 0.4, 0.6, 0.5, 0.7, 0.1, 0.1, 0.9])
    result = run(experiment(patience=2, epochs=9))
    assert (len(result.history), result.best_epoch) == (7, 5)


def test_evaluations_every_few_epochs_and_after_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [0.5, 0.4, 0.3])
    result = run(experiment(evaluate_every=2, patience=3, epochs=5))
    evaluated = [r["epoch"] for r in result.history if "validation_ndcg@20" in r]
    assert evaluated == [2, 4, 5]
    assert result.best_epoch == 2


def test_patience_survives_a_crash(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = experiment(patience=2, epochs=9)
    scripted(monkeypatch, [0.3, 0.2])
    with pytest.raises(Crash):
        run(settings, folder=tmp_path, observer=Notes((3, 10), crash))
    scripted(monkeypatch, [0.1])
    result = run(settings, folder=tmp_path, resume=True)
    assert (len(result.history), result.best_epoch) == (3, 1)
    assert same(result, run(experiment(epochs=1), validation=None))


# ---- resuming


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("at", "minutes", "begins"),
    [
        ((1, 10), ALWAYS, (1, 10)),  # before any checkpoint: the observer is told first
        ((1, 17), ALWAYS, (1, 17)),  # from within the first epoch
        ((2, 17), ALWAYS, (2, 17)),
        ((2, 10), 60.0, (2, 10)),
        ((2, 17), 60.0, (2, 10)),  # from the end of the first epoch
        ((3, 17), ALWAYS, (3, 17)),
    ],
)
def test_crashed_and_resumed_is_uninterrupted(
    tmp_path: Path, precision: str, at: tuple[int, int], minutes: float, begins: tuple[int, int]
) -> None:
    within = context(precision=precision, checkpoint_minutes=minutes)
    whole = run(within=within)
    with pytest.raises(Crash):
        run(within=within, folder=tmp_path, observer=Notes(at, crash))
    notes = Notes()
    resumed = run(within=within, folder=tmp_path, resume=True, observer=notes)
    assert (notes.reports[0].epoch, notes.reports[0].step_in_epoch) == begins
    assert same(resumed, whole)
    assert resumed.history == whole.history
    assert (resumed.best_epoch, resumed.best_value) == (whole.best_epoch, whole.best_value)


def test_resumed_twice_is_uninterrupted(tmp_path: Path) -> None:
    within, whole = context(checkpoint_minutes=ALWAYS), run()
    for at in ((1, 17), (2, 10), (3, 17)):
        with pytest.raises(Crash):
            run(within=within, folder=tmp_path, resume=True, observer=Notes(at, crash))
    resumed = run(within=within, folder=tmp_path, resume=True)
    assert same(resumed, whole)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == whole.history


def test_with_and_without_a_folder_the_result_is_the_same(tmp_path: Path) -> None:
    in_folder = run(folder=tmp_path, within=context(checkpoint_minutes=ALWAYS))
    assert same(in_folder, run())
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best.safetensors",
        "last.safetensors",
        "metrics.jsonl",
    ]


def test_a_finished_run_is_only_read(tmp_path: Path) -> None:
    first, notes = run(folder=tmp_path), Notes()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = run(folder=tmp_path, resume=True, observer=notes)
    assert same(first, again)
    assert again.history == first.history
    assert notes.reports == notes.records == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_resuming_in_an_empty_folder_begins(tmp_path: Path) -> None:
    assert same(run(folder=tmp_path / "new", resume=True), run())


def test_a_folder_with_a_run_is_not_overwritten(tmp_path: Path) -> None:
    run(folder=tmp_path)
    with pytest.raises(StorageError, match="holds a run already; resume it"):
        run(folder=tmp_path)


# ---- Ctrl-C


@pytest.mark.parametrize(
    ("at", "goes_on"),  # one step more is made, and 10 steps after it is the next report
    [((1, 10), [(1, 17)]), ((2, 10), [(2, 17)]), ((2, 17), [(3, 11)]), ((3, 17), [])],
)
def test_ctrl_c_stops_with_a_checkpoint_and_resumes_equal(
    tmp_path: Path, at: tuple[int, int], goes_on: list[tuple[int, int]]
) -> None:
    handler = signal.getsignal(signal.SIGINT)
    notes = Notes(at, lambda: signal.raise_signal(signal.SIGINT))
    stopped = run(folder=tmp_path, observer=notes)
    assert signal.getsignal(signal.SIGINT) is handler
    # At the last step of the last epoch nothing is left to interrupt.
    assert stopped.interrupted == (at != (3, 17))
    assert stopped.stop_requested
    notes = Notes()
    resumed = run(folder=tmp_path, resume=True, observer=notes)
    assert [(report.epoch, report.step_in_epoch) for report in notes.reports[:1]] == goes_on
    whole = run()
    assert same(resumed, whole)
    assert resumed.history == whole.history


def test_ctrl_c_without_a_folder_keeps_the_best_so_far() -> None:
    notes = Notes((3, 10), lambda: signal.raise_signal(signal.SIGINT))
    stopped = run(observer=notes)
    assert stopped.interrupted
    assert len(stopped.history) == 2
    found = evaluate(stopped.recommender, small_split().validation, ks=(20,))
    assert found["ndcg@20"] == stopped.best_value


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(folder=tmp_path, observer=Notes((1, 10), twice))
    assert signal.getsignal(signal.SIGINT) is handler


# ---- divergence


def poison_decoder(state: TrainingState, value: float) -> None:
    state.model.decoder.table[:, 0] = value


def poison_anchors(state: TrainingState, value: float) -> None:
    assert state.objective.anchors is not None
    state.objective.anchors.table[:, 0] = value


def poison_variance(state: TrainingState, value: float) -> None:
    """A variance of 0 has an infinite divergence, but draws finite latent vectors."""
    bias = state.model.encoder.layers[-1].bias
    bias[len(bias) // 2 :] = value  # of the log-variances


@pytest.mark.parametrize(
    ("poisoned", "value", "term"),
    [
        (poison_decoder, math.nan, "nll"),
        (poison_decoder, math.inf, "nll"),
        (poison_anchors, math.nan, "alignment"),
        (poison_anchors, math.inf, "alignment"),
        (poison_variance, -math.inf, "kl"),
    ],
)
def test_divergence_names_step_and_term(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, poisoned: Any, value: float, term: str
) -> None:
    def poison(state: TrainingState, *rest: Any) -> Tensor:
        if state.progress.step == 23:
            with torch.no_grad():
                poisoned(state, value)
        return training_step(state, *rest)

    monkeypatch.setattr(loop, "training_step", poison)
    within = context(checkpoint_minutes=ALWAYS)
    with pytest.raises(DivergenceError, match=rf"step 23\b.*'{term}' is (nan|inf)"):
        run(folder=tmp_path, within=within)
    monkeypatch.undo()
    assert same(run(folder=tmp_path, within=within, resume=True), run()), "the checkpoint is sound"


def test_an_absurd_learning_rate_is_divergence() -> None:
    with pytest.raises(DivergenceError, match=r"step \d+.*Lower the learning rate"):
        run(experiment(learning_rate=1e20))


# ---- nonsense


def test_no_interactions_at_all() -> None:
    nobody = small_split().train.select(np.zeros(small_split().train.nnz, dtype=bool))
    with pytest.raises(DataError, match="at least one"):
        train(nobody, None, experiment(), context=context())


def test_an_unknown_metric_is_known_before_training() -> None:
    for metric in ("ndgc@20", "ndcg", "ndcg@0", "ndcg@x"):
        with pytest.raises(ConfigError, match=r"training\.metric.*name@cut"):
            experiment(metric=metric)


def test_validation_users_over_other_items_are_known_before_training() -> None:
    part = small_split().validation
    ids = part.fold_in.item_ids.ids
    for other in (ids[:-1], ids[::-1]):
        items = IdMap(other)
        moved = HeldOut(part.fold_in.select_items(items), part.held_out.select_items(items))
        notes = Notes()
        with pytest.raises(DataError, match="in the same order; take both from one split"):
            run(validation=moved, observer=notes)
        assert notes.reports == []


def test_validation_users_with_nothing_to_predict_are_known_before_training() -> None:
    part, notes = small_split().validation, Notes()
    nothing = part.held_out.select(np.zeros(part.held_out.nnz, dtype=bool))
    with pytest.raises(DataError, match="No validation user has a held-out item"):
        run(validation=HeldOut(part.fold_in, nothing), observer=notes)
    assert notes.reports == []
