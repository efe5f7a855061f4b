"""Training in parts: RecVAE's sets of encoder and decoder epochs, and all presets at work."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import ALWAYS, NEVER, Popularity, context, experiment, preset, run, small_split
from torch import Tensor

from coterie.data.batches import UserBatches
from coterie.errors import ConfigError
from coterie.evaluation.protocol import evaluate
from coterie.models.priors import CompositePrior
from coterie.presets import PRESETS
from coterie.training import loop
from coterie.training.config import Experiment, TrainingConfig
from coterie.training.loop import StepReport, TrainingResult
from coterie.training.state import TrainingState, _step_seed, training_step

STEPS = 17  # per epoch


def state_of(settings: Experiment) -> TrainingState:
    return TrainingState.create(settings, small_split().train.n_items, context())


def train_epoch(state: TrainingState, settings: Experiment, epoch: int) -> None:
    for batch in UserBatches(small_split().train, 20, 0).epoch(epoch):
        training_step(state, batch, settings, STEPS)
        state.progress.step += 1
    if settings.training.refreshes_snapshot(epoch):
        state.model.refresh_snapshot()


def weights_of(state: TrainingState) -> dict[str, Tensor]:
    named = {**dict(state.model.named_parameters()), **dict(state.objective.named_parameters())}
    moments = {f"optimizer.{name}": value for name, value in state.optimizer.state.items()}
    return {name: value.detach().clone() for name, value in (named | moments).items()}


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


# ---- which part moves


def test_a_set_is_encoder_epochs_then_decoder_epochs() -> None:
    config = TrainingConfig(epochs=8, encoder_epochs=3, decoder_epochs=1)
    assert [config.part(epoch) for epoch in range(8)] == [*["encoder"] * 3, "decoder"] * 2
    assert [epoch for epoch in range(8) if config.refreshes_snapshot(epoch)] == [2, 6]
    assert [epoch for epoch in range(8) if config.validates(epoch)] == [3, 7]
    joint = TrainingConfig(epochs=3)
    assert [joint.part(epoch) for epoch in range(3)] == ["all"] * 3
    assert all(joint.refreshes_snapshot(epoch) for epoch in range(3))
    assert all(joint.validates(epoch) for epoch in range(3))


@pytest.mark.parametrize(
    ("epochs", "every", "validated"), [(8, 1, [3, 7]), (12, 2, [7, 11]), (8, 3, [7])]
)
def test_validations_are_counted_in_sets(epochs: int, every: int, validated: list[int]) -> None:
    config = TrainingConfig(epochs=epochs, evaluate_every=every, encoder_epochs=3, decoder_epochs=1)
    assert [epoch for epoch in range(epochs) if config.validates(epoch)] == validated


def test_each_part_moves_alone() -> None:
    settings = preset("recvae+pia")
    state = state_of(settings)
    for epoch in range(5):
        before = weights_of(state)
        train_epoch(state, settings, epoch)
        changed = moved(before, weights_of(state))
        decoder = {name for name in before if "decoder." in name}
        snapshot = {name for name in before if "snapshot." in name}
        assert not any(name.startswith("optimizer.") for name in snapshot), "no moments for it"
        if epoch == 3:
            assert changed == decoder
        else:
            expected = set(before) - decoder - (set() if epoch == 2 else snapshot)
            unmoved = expected - changed
            assert not unmoved, f"epoch {epoch}: {unmoved}"
            assert not changed & decoder
    steps = state.optimizer.state
    assert steps["model.encoder.table.steps"] == steps["objective.anchors.table.steps"] == 4 * STEPS
    assert steps["model.decoder.table.steps"] == steps["model.decoder.bias.steps"] == STEPS


def test_the_snapshot_is_the_encoder_after_its_epochs() -> None:
    settings = preset("recvae")
    state = state_of(settings)
    assert isinstance(state.model.prior, CompositePrior)
    snapshot, encoder = state.model.prior.snapshot, state.model.encoder
    agree = []
    for epoch in range(7):
        train_epoch(state, settings, epoch)
        agree.append(torch.equal(snapshot.table, encoder.table))
    assert agree == [False, False, True, True, False, False, True]


def test_a_set_is_that_of_two_optimizers_of_pytorch() -> None:
    """The authors' loop: an Adam for each part, plain autograd, the snapshot before the decoder."""
    settings = preset("recvae+pia")
    ours, other = state_of(settings), state_of(settings)
    model, objective = other.model, other.objective
    encoder = [*model.encoder.parameters(), *objective.parameters()]
    optimizers = {
        "encoder": torch.optim.Adam(encoder, lr=5e-4, foreach=False),
        "decoder": torch.optim.Adam(model.decoder.parameters(), lr=5e-4, foreach=False),
    }
    batches, step = UserBatches(small_split().train, 20, 0), 0
    for epoch in range(5):
        train_epoch(ours, settings, epoch)
        part: Any = "decoder" if epoch == 3 else "encoder"
        for batch in batches.epoch(epoch):
            model.zero_grad()
            objective.zero_grad()
            terms = objective(
                model,
                batch,
                step=step,
                steps_per_epoch=STEPS,
                generator=torch.Generator().manual_seed(_step_seed(0, step)),
                part=part,
            )
            terms.total.backward()
            optimizers[part].step()
            step += 1
        if epoch == 2:
            model.refresh_snapshot()
    for name, value in ours.model.named_parameters():
        torch.testing.assert_close(value, model.get_parameter(name), rtol=1e-3, atol=2e-5, msg=name)


# ---- what is recorded


def test_decoder_epochs_record_the_likelihood_alone() -> None:
    result = run(preset("recvae"))
    assert len(result.history) == 8
    for epoch, record in enumerate(result.history):
        common = {"epoch", "step", "nll", "learning_rate"}
        if epoch % 4 == 3:
            assert record.keys() == common | {"validation_ndcg@20"}
        else:
            assert record.keys() == common | {"kl", "alignment", "gamma", "lambda_a"}
            assert record["gamma"] == 0.005
    assert result.best_epoch in (4, 8)
    assert all(p.requires_grad for p in result.recommender.model.decoder.parameters())


def test_reports_of_decoder_epochs_have_no_divergence() -> None:
    class Notes:
        terms: dict[int, set[str]] = {}  # noqa: RUF012

        def step(self, report: StepReport) -> None:
            self.terms[report.epoch] = set(report.terms)

        def epoch(self, record: dict[str, Any]) -> None:
            pass

    notes = Notes()
    run(preset("recvae", epochs=4), observer=notes)
    assert notes.terms == {epoch: {"nll", "kl", "alignment"} for epoch in (1, 2, 3)} | {4: {"nll"}}


# ---- every preset


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_learns(name: str) -> None:
    epochs = 32 if name.startswith("recvae") else 12
    result, split = run(preset(name, epochs=epochs, learning_rate=1e-2)), small_split()
    ours, popular = (
        evaluate(model, split.test, ks=(20,))["ndcg@20"]
        for model in (result.recommender, Popularity(split.train))
    )
    assert ours > 1.05 * popular
    assert (result.recommender.anchors is None) == ("+pia" not in name)


OTHERS: list[dict[str, Any]] = [
    {"prior": {"kind": "vamp", "n_pseudo_inputs": 20}},
    {"prior": {"kind": "composite"}},
    {"encoder": "densely-connected", "hidden_dims": [24, 24]},
    {"name": "multi-dae", "encoder": "densely-connected", "hidden_dims": [24, 24]},
]


@pytest.mark.parametrize("model", OTHERS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_other_combinations_train_and_are_reproduced(model: dict[str, Any], precision: str) -> None:
    settings, within = experiment(model=model, epochs=2), context(precision=precision)
    first, again = run(settings, within=within), run(settings, within=within)
    assert first.history == again.history
    assert first.history[1]["nll"] < first.history[0]["nll"]
    same(first, again)


def same(one: TrainingResult, other: TrainingResult) -> None:
    first, second = (result.recommender.model.state_dict() for result in (one, other))
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


# ---- resuming


class Crash(Exception):
    pass


class CrashAt:
    def __init__(self, epoch: int, step: int) -> None:
        self.at = (epoch, step)

    def step(self, report: StepReport) -> None:
        if (report.epoch, report.step_in_epoch) == self.at:
            raise Crash

    def epoch(self, record: dict[str, Any]) -> None:
        pass


@pytest.mark.parametrize(
    ("name", "at", "minutes", "precision"),
    [
        ("recvae", (2, 17), ALWAYS, "bf16"),  # in encoder epochs, with the older snapshot
        ("recvae+pia", (4, 10), NEVER, "fp32"),  # from right after the snapshot's refreshment
        ("recvae+pia", (4, 17), ALWAYS, "bf16"),  # within the decoder's epoch
        ("recvae+pia", (6, 17), ALWAYS, "fp32"),
        ("h-vamp-gated+pia", (2, 17), ALWAYS, "fp32"),
    ],
)
def test_crashed_and_resumed_is_uninterrupted(
    tmp_path: Path, name: str, at: tuple[int, int], minutes: float, precision: str
) -> None:
    settings = preset(name)
    within = context(precision=precision, checkpoint_minutes=minutes)
    whole = run(settings, within=within)
    with pytest.raises(Crash):
        run(settings, within=within, folder=tmp_path, observer=CrashAt(*at))
    resumed = run(settings, within=within, folder=tmp_path, resume=True)
    assert resumed.history == whole.history
    assert (resumed.best_epoch, resumed.best_value) == (whole.best_epoch, whole.best_value)
    same(resumed, whole)


def test_the_best_sets_weights_are_returned_with_their_snapshot(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    results = []
    for folder in (None, tmp_path):
        values = iter([0.3, 0.2])
        monkeypatch.setattr(loop, "_validate", lambda *_, values=values: next(values))
        results.append(run(preset("recvae"), folder=folder))
    assert [result.best_epoch for result in results] == [4, 4]
    shorter = run(preset("recvae", epochs=4), validation=None)
    for result in results:
        same(result, shorter)


def test_a_run_can_be_extended_by_whole_sets(tmp_path: Path) -> None:
    run(preset("recvae", epochs=4), folder=tmp_path)
    longer = run(preset("recvae", epochs=8), folder=tmp_path, resume=True)
    same(longer, run(preset("recvae", epochs=8)))


# ---- nonsense


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"encoder_epochs": 3}, "above 0, or both 0 to move all parts at once; got 3 and 0"),
        ({"decoder_epochs": 1}, "got 0 and 1"),
        ({"encoder_epochs": 3, "decoder_epochs": 1, "epochs": 10}, "a multiple of 4; got 10"),
        ({"encoder_epochs": -1}, "encoder_epochs: Input should be greater than or equal to 0"),
    ],
)
def test_sets_that_make_no_sense_are_refused(training: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainingConfig.read(training)


def test_a_point_code_has_no_divergence_for_gamma_to_weigh() -> None:
    with pytest.raises(ConfigError, match="no KL term for gamma to weigh"):
        Experiment.read({"model": {"name": "multi-dae"}, "objective": {"gamma": 0.1}})


@pytest.mark.parametrize("beta", [{"end": 0.3}, {"kind": "constant", "end": 0.2}])
def test_a_point_code_has_no_divergence_for_beta_to_weigh(beta: dict[str, Any]) -> None:
    model = {"name": "multi-dae"}
    with pytest.raises(ConfigError, match="multi-dae has a point code and no KL term for beta"):
        Experiment.read({"model": model, "objective": {"beta": beta}})
    for nothing in ({}, {"beta": {"kind": "constant", "end": 0.0}}):
        Experiment.read({"model": model, "objective": nothing})
