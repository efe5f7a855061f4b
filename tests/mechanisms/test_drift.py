from dataclasses import replace
from functools import cache
from itertools import combinations

import numpy as np
import pytest
import torch

from coterie.errors import ConfigError, DataError
from coterie.mechanisms.drift import Drift, drift
from coterie.mechanisms.encoding import encode
from coterie.mechanisms.measurement import Budget, SampleSize
from coterie.models.vae import VAE, ModelConfig
from histories import interactions_of, random_histories
from training.small_run import experiment, run, small_split

N_ITEMS = 40
HISTORIES = random_histories(60, N_ITEMS, seed=1, longest=25)
DATA = interactions_of(HISTORIES, N_ITEMS)
UNTIED = interactions_of(  # no history so short that masks leave nothing of two of them
    [[], *(sorted({*history, *range(12)}) for history in HISTORIES[1:])], N_ITEMS
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear_model(n_items: int = N_ITEMS) -> VAE:
    """μ = scale · Σ of table rows + bias."""
    model = VAE(ModelConfig(hidden_dims=(), latent_dim=3), n_items).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=seeded(7))
    return model


def constant_model() -> VAE:
    model = linear_model()
    with torch.no_grad():
        model.encoder.table.zero_()
    return model


@cache
def trained() -> VAE:
    return run().recommender.model


def by_loops(model: VAE, users: list[int], k: int, n_masks: int, seed: int) -> list[list[float]]:
    """Drift from clean, between masks, and neighbours kept, user by user."""
    generator = seeded(seed)
    chosen = np.array(users)
    codes = [encode(model, UNTIED, chosen).mu]
    for _ in range(n_masks):
        codes.append(encode(model, UNTIED, chosen, keep_probability=0.5, generator=generator).mu)
    found = []
    for u in range(len(users)):
        sets = []
        for code in codes:
            distance = (code.double() - code[u].double()).norm(dim=1).tolist()
            others = sorted(
                (other for other in range(len(users)) if other != u), key=lambda v: distance[v]
            )
            sets.append(set(others[:k]))
        jaccard = [len(sets[0] & other) / len(sets[0] | other) for other in sets[1:]]
        between = [len(a & b) / len(a | b) for a, b in combinations(sets[1:], 2)]
        kept = [len(sets[0] & other) for other in sets[1:]]
        found.append([1 - np.mean(jaccard), 1 - np.mean(between), np.mean(kept)])
    return found


def test_drift_is_what_loops_over_users_give(monkeypatch: pytest.MonkeyPatch) -> None:
    model = linear_model()
    monkeypatch.setattr(
        "coterie.mechanisms.neighbours.BLOCK_BYTES", 4 * 59 * 7
    )  # blocks of 7 users
    found = drift(model, UNTIED, k=6, n_masks=3, generator=seeded(4))
    assert found.users.tolist() == list(range(1, 60))  # user 0 has no history
    expected = np.array(by_loops(model, list(range(1, 60)), 6, 3, seed=4))
    measured = np.stack([found.from_clean, found.between_masks, found.kept], axis=1)
    np.testing.assert_allclose(measured, expected, atol=1e-12)
    assert 0.1 < found.from_clean.mean() < 0.95  # not a trivial case


def test_mask_variance_of_a_linear_encoder_is_known() -> None:
    model, rho, n_masks = linear_model(), 0.6, 400
    found = drift(model, DATA, keep_probability=rho, k=3, n_masks=n_masks, generator=seeded())
    squares = model.encoder.table[:, :3].detach().double().square().sum(1).numpy()
    expected = np.array(
        [squares[history].sum() / len(history) for history in HISTORIES[1:]]  # scale² = 1/n
    ) * (rho * (1 - rho) / rho**2)
    assert found.mask_variance.mean() == pytest.approx(expected.mean(), rel=0.02)
    np.testing.assert_allclose(found.mask_variance, expected, rtol=0.4)
    few = drift(model, DATA, keep_probability=rho, k=3, n_masks=2, generator=seeded(1))
    error = np.std(few.mask_variance - expected) / np.sqrt(59)
    assert abs((few.mask_variance - expected).mean()) < 4 * error  # unbiased with two draws
    assert few.mask_variance.mean() > 0.6 * expected.mean()  # the biased one is half of it


def test_between_users_variance_is_that_of_the_clean_means() -> None:
    found = drift(linear_model(), DATA, k=3, n_masks=2, generator=seeded())
    mu = encode(linear_model(), DATA, np.arange(1, 60)).mu.double()
    variance = mu.var(0).sum().item()
    assert found.between_users == pytest.approx(variance, rel=1e-6)
    figures = found.figures()
    assert figures["mask_variance"] == pytest.approx(found.mask_variance.mean())
    ratio = found.mask_variance.mean() / variance
    assert figures["relative_mask_variance"] == pytest.approx(ratio, rel=1e-6)


@pytest.mark.parametrize("n_masks", [2, 3])
def test_without_masks_nothing_drifts(n_masks: int) -> None:
    train = small_split().train
    found = drift(trained(), train, keep_probability=1, n_masks=n_masks, generator=seeded())
    for values in (found.from_clean, found.between_masks, found.mask_variance):
        np.testing.assert_array_equal(values, 0)
    np.testing.assert_array_equal(found.kept, 20)
    figures = found.figures()
    assert figures["drift"] == figures["relative_mask_variance"] == 0


def test_a_constant_encoder_does_not_drift_and_says_so() -> None:
    found = drift(constant_model(), DATA, k=5, generator=seeded())
    np.testing.assert_array_equal(found.from_clean, 0)
    np.testing.assert_array_equal(found.mask_variance, 0)
    assert found.figures()["relative_mask_variance"] == 0
    assert "ignores its input" in found.warnings()[0]
    assert all(np.isfinite(value) for value in found.figures().values())


def test_more_masking_drifts_more() -> None:
    train = small_split().train
    light, heavy = (
        drift(trained(), train, keep_probability=rho, generator=seeded()).figures()
        for rho in (0.9, 0.3)
    )
    for name in ("drift", "drift_between_masks", "relative_mask_variance"):
        assert light[name] < heavy[name] - 3 * heavy[f"{name}_se"]
    assert light["neighbours_kept"] > heavy["neighbours_kept"]


def test_cohorts_are_means_over_their_users() -> None:
    train = small_split().train
    found = drift(trained(), train, generator=seeded(2))
    frame = found.to_frame()
    lengths = train.history_lengths
    np.testing.assert_array_equal(found.lengths, lengths[found.users])
    assert frame["cohort"].to_list()[0] == "all"
    middle = frame.filter(cohort="11–50")
    inside = (lengths >= 11) & (lengths <= 50)  # the sample is everybody
    assert middle["users"].item() == inside.sum() > 20
    drifts = found.from_clean[inside]
    assert middle["drift"].item() == pytest.approx(drifts.mean())
    assert middle["drift_se"].item() == pytest.approx(drifts.std(ddof=1) / np.sqrt(len(drifts)))
    relative = found.mask_variance[inside].mean() / found.user_variance.mean()
    assert middle["relative_mask_variance"].item() == pytest.approx(relative)


def test_the_error_of_one_user_is_not_known() -> None:
    one_long = [[*range(12)][at % 4 : at % 4 + 6] for at in range(30)] + [[*range(20)]]
    found = drift(linear_model(), interactions_of(one_long, N_ITEMS), k=3, generator=seeded())
    row = found.to_frame().filter(users=1).row(0, named=True)
    assert row["cohort"] == "11–50"
    assert np.isnan(row["drift_se"])
    assert np.isfinite(row["drift"])
    found.plot().canvas.draw()


def test_relative_variance_has_the_standard_error_of_a_ratio() -> None:
    rng, n = np.random.default_rng(0), 300

    def invented() -> Drift:
        length = rng.exponential(size=n)  # moves numerator and denominator together
        spread = 0.3 * length * rng.uniform(0.5, 1.5, n)
        zeros = np.zeros(n)
        numbers = np.arange(n)
        sample = SampleSize(n, n, "users")
        return Drift(sample, 0.5, 5, 2, numbers, numbers, zeros, zeros, zeros, spread, length)

    figures = [invented().figures() for _ in range(400)]
    values = [each["relative_mask_variance"] for each in figures]
    errors = [each["relative_mask_variance_se"] for each in figures]
    assert np.mean(values) == pytest.approx(0.3, rel=0.01)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.12)


def test_same_seed_same_result() -> None:
    small = Budget(seconds=2e-5)
    one, again, other = (
        drift(linear_model(), DATA, k=3, generator=seeded(seed), budget=small) for seed in (1, 1, 2)
    )
    assert 4 <= one.sample.used < 59
    assert len(one.users) == one.sample.used
    assert one.to_dict() == again.to_dict()
    assert one.to_dict() != other.to_dict()


def test_the_budget_bounds_the_square_of_the_users() -> None:
    def used(seconds: float) -> int:
        budget = Budget(seconds=seconds)
        return drift(linear_model(), DATA, k=2, generator=seeded(), budget=budget).sample.used

    assert used(2e-5) < used(4e-5) < 3 * used(2e-5)
    with pytest.raises(DataError, match="memory budget"):
        drift(linear_model(), DATA, k=30, generator=seeded(), budget=Budget(memory=5000))


def test_a_denoising_autoencoder_has_neighbours_too() -> None:
    settings = experiment(model={"name": "multi-dae"}, pia=0.0, epochs=1)
    found = drift(run(settings).recommender.model, small_split().train, generator=seeded())
    assert 0 < found.figures()["drift"] < 1


@pytest.mark.parametrize("k", [0, 59, 100])
def test_k_must_leave_others(k: int) -> None:
    with pytest.raises(ConfigError, match=rf"which is 59; got {k}\. Lower k or pass more users"):
        drift(linear_model(), DATA, k=k, generator=seeded())


def test_bad_input() -> None:
    model = linear_model()
    for rho in (0.0, 1.2):
        with pytest.raises(ConfigError, match=r"in \(0, 1\]"):
            drift(model, DATA, keep_probability=rho, generator=seeded())
    with pytest.raises(ConfigError, match="at least 2"):
        drift(model, DATA, n_masks=1, generator=seeded())
    with pytest.raises(ConfigError, match="41 items, the model 40"):
        drift(model, interactions_of(HISTORIES, 41), generator=seeded())
    with pytest.raises(DataError, match="histories are the same"):
        drift(model, interactions_of([[1, 2, 3]] * 9, 40), k=2, generator=seeded())


def test_sentence_warnings_and_plot() -> None:
    found = drift(trained(), small_split().train, generator=seeded())
    figures = found.figures()
    assert "Among all 340 users" in found.sentence()
    assert f"drift {figures['drift']:.3f} ± {figures['drift_se']:.3f}" in found.sentence()
    assert found.warnings() == []
    assert "high by chance" in replace(found, k=200).warnings()[0]
    left, right = found.plot().axes
    frame = found.to_frame()
    heights = [bar.get_height() for bar in left.patches[: len(frame)]]
    np.testing.assert_allclose(heights, frame["drift"])
    assert right.get_ylim()[0] == 0
