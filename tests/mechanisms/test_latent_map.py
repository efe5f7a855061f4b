import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from coterie.data.batches import UserBatch
from coterie.errors import ConfigError, DataError
from coterie.mechanisms.latent_map import LatentMap, latent_map
from coterie.mechanisms.measurement import Budget
from coterie.models.posterior import Posterior
from coterie.models.vae import VAE, ModelConfig
from histories import dense_of, interactions_of, random_histories
from training.small_run import experiment, run, small_split

SETTINGS = {"masking": 0.0, "masking + PIA": 1.0}


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@cache
def trained() -> dict[str, VAE]:
    return {name: run(experiment(pia=pia)).recommender.model for name, pia in SETTINGS.items()}


@cache
def measured(seed: int = 0) -> LatentMap:
    return latent_map(trained(), small_split().train, generator=gen(seed))


class Known(VAE):
    """The code of a user is the row of the user's first item."""

    def __init__(self, mu: Tensor) -> None:
        super().__init__(ModelConfig(hidden_dims=(3,), latent_dim=mu.shape[1]), len(mu))
        self.mu = mu

    def encode(self, batch: UserBatch) -> Posterior:
        mu = F.embedding_bag(batch.indices[batch.indptr[:-1]][:, None], self.mu)
        return Posterior(mu, torch.zeros_like(mu))


def users_of(n: int) -> list[list[int]]:
    return [[user] for user in range(n)]


def test_coordinates_of_the_same_users_for_each_model() -> None:
    found = measured()
    assert list(found.coordinates) == list(SETTINGS)
    for at in found.coordinates.values():
        assert at.shape == (340, 2)
        assert at.dtype == np.float64
        assert np.isfinite(at).all()
    assert not np.array_equal(*found.coordinates.values())
    frame = found.to_frame()
    assert len(frame) == 2 * 340
    for column in ("user_id", "history_length", "cohort", "collaboration"):
        one, other = (frame.filter(model=name)[column].to_list() for name in SETTINGS)
        assert one == other
    ids = small_split().train.user_ids.ids
    assert set(frame["user_id"]) <= set(np.asarray(ids).tolist())


def test_the_same_seed_gives_the_same_map_and_another_another() -> None:
    again = latent_map(trained(), small_split().train, generator=gen())
    assert again.to_frame().equals(measured().to_frame())
    assert again.to_dict() == measured().to_dict()
    assert not np.array_equal(measured(1).coordinates["masking"], measured().coordinates["masking"])


def test_a_model_has_the_same_map_whatever_it_is_compared_with() -> None:
    alone = latent_map({"it": trained()["masking"]}, small_split().train, generator=gen())
    np.testing.assert_array_equal(alone.coordinates["it"], measured().coordinates["masking"])


def test_planted_groups_are_apart_on_the_map() -> None:
    n, groups = 90, np.arange(90) % 3
    noise = torch.randn(n, 5, generator=gen(3))
    centres = 20 * torch.eye(3, 5)[torch.from_numpy(groups)]
    users = interactions_of(users_of(n), n)
    models = {"groups": Known(noise + centres), "noise": Known(noise)}
    found = latent_map(models, users, generator=gen(), perplexity=10)
    at = torch.from_numpy(found.coordinates["groups"])
    distances = torch.cdist(at, at).fill_diagonal_(torch.inf)
    nearest = distances.topk(10, largest=False).indices.numpy()
    assert (groups[nearest] == groups[:, None]).mean() == 1
    assert found.neighbours_kept["groups"] > 0.5
    assert found.neighbours_expected == 10 / 89


def test_classes_follow_the_definitions() -> None:
    histories = random_histories(70, 60, seed=4, longest=25)[1:]
    users = interactions_of(histories, 60)
    model = VAE(ModelConfig(hidden_dims=(4,), latent_dim=3), 60).initialized(0)
    x = dense_of(histories, 60)
    distances = torch.cdist(x, x, p=1).numpy()
    shared = (x @ x.T).numpy()
    u, v = np.triu_indices(len(x), 1)  # fewer pairs than are sampled: all are taken
    near, far = np.quantile(distances[u, v], [0.05, 0.5])
    chosen = latent_map({"": model}, users, generator=gen(), perplexity=10).reference
    for reference in (None, 0, 7, 30):
        found = latent_map({"": model}, users, generator=gen(), perplexity=10, reference=reference)
        at = chosen if reference is None else reference
        assert found.reference == at
        for other, name in enumerate(found.classes):
            if other == at:
                expected = "reference"
            elif distances[at, other] <= near:
                expected = "local"
            elif shared[at, other] == 0:
                expected = "unrelated"
            else:
                expected = "global" if distances[at, other] > far else "between"
            assert name == expected, (reference, other)
        if reference is None:
            assert {"local", "global"} <= set(found.classes)


def test_a_reference_that_was_not_drawn_is_added() -> None:
    users = interactions_of([[], *users_of(400)], 400)
    model = Known(torch.randn(400, 4, generator=gen()))
    small = Budget(seconds=0.12)
    size = latent_map({"": model}, users, generator=gen(), budget=small, perplexity=5).sample.used
    assert size < 100
    for reference in (1, 200, 399, 400):
        found = latent_map(
            {"": model}, users, generator=gen(), budget=small, perplexity=5, reference=reference
        )
        assert found.sample.used == size == len(found.user_ids) == len(set(found.user_ids.tolist()))
        assert found.user_ids[found.reference] == reference
        assert found.classes[found.reference] == "reference"


def test_cohorts_are_those_of_the_evaluation() -> None:
    found = measured()
    by_name = {"5–10": (5, 10), "11–50": (11, 50), "51–100": (51, 100)}
    for name, length in zip(found.cohorts, found.lengths, strict=True):
        low, high = by_name.get(name, (0, 4))
        assert low <= length <= high


def test_figures_can_be_read_and_plotted() -> None:
    found = measured()
    json.dumps(found.to_dict(), allow_nan=False)
    assert found.warnings() == []
    assert "masking + PIA" in found.sentence()
    for name in SETTINGS:
        assert found.neighbours_expected < found.figures()[f"neighbours_kept/{name}"] <= 1
    figure = found.plot()
    assert len(figure.axes) == 4
    assert [axis.get_title() for axis in figure.axes] == [*SETTINGS, "", ""]
    dots = sum(len(c.get_offsets()) for c in figure.axes[2].collections)
    assert dots == 340


def test_a_collapsed_model_is_a_point_and_is_called_so() -> None:
    users = interactions_of(users_of(60), 60)
    models = {"dead": Known(torch.ones(60, 4)), "line": Known(torch.randn(60, 1, generator=gen()))}
    with pytest.raises(ConfigError, match="perplexity of at least 2"):
        latent_map(models, users, generator=gen(), perplexity=1)
    found = latent_map(models, users, generator=gen(), perplexity=5)
    assert not found.coordinates["dead"].any()
    assert found.coordinates["line"].std() > 0
    assert len(found.warnings()) == 1
    assert found.warnings()[0].startswith("No dimension of dead tells users apart")
    found.plot()
    replace(found, cohorts=np.full(60, ">100")).plot()


def test_bad_input() -> None:
    users = interactions_of([[], *users_of(40)], 40)
    model = Known(torch.randn(40, 4, generator=gen()))
    with pytest.raises(ConfigError, match="at least one model"):
        latent_map({}, users, generator=gen())
    for reference in (0, 41, -1):
        with pytest.raises(ConfigError, match="user with a history"):
            latent_map({"": model}, users, generator=gen(), perplexity=5, reference=reference)
    with pytest.raises(DataError, match="at least 92 users, got 40"):
        latent_map({"": model}, users, generator=gen())
    with pytest.raises(ConfigError, match="items"):
        latent_map({"": model}, interactions_of(users_of(39), 39), generator=gen(), perplexity=5)
