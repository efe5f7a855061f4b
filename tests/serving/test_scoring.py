"""One pass for many requests gives what the library gives for each."""

import numpy as np
import pytest
from served_models import FIRST, N_ITEMS, SCRIPT, small_community, small_model

from coterie.data.ids import IdMap
from coterie.models.baselines.ease import EaseConfig
from coterie.recommender import Recommender
from coterie.serving.scoring import Ask, answer
from coterie.serving.served import SPARSE, ItemIndex, Parts, ServedModel
from coterie.serving.settings import ItemFilter


def served(recommender, filters=None, community=None):
    return ServedModel.of(
        Parts.of(recommender),
        name="m",
        version="v",
        filters=filters or {},
        community=community,
        threads=1,
    )


def ask(model, history, k=5, *, deny=(), allow=None, exclude_seen=True, barred=None):
    known, _ = model.find(history)
    excluded = np.concatenate([known if exclude_seen else known[:0], model.find(deny)[0]])
    allowed = None if allow is None else model.find(allow)[0]
    return Ask(model, known, k, excluded, allowed, None if barred is None else model.barred[barred])


def random_requests(rng, count):
    """Everything that a request may say, at random, also nothing and unknown ids."""
    every = np.arange(FIRST - 3, FIRST + N_ITEMS)
    for _ in range(count):
        picked = rng.permutation(every).tolist()
        yield {
            "histories": [picked[: rng.integers(0, 12)]],
            "k": int(rng.choice([1, 3, 7, 80])),
            "allow": picked[20 : 20 + rng.integers(1, 30)] if rng.random() < 0.4 else None,
            "deny": picked[10 : 10 + rng.integers(0, 10)],
            "exclude_seen": bool(rng.random() < 0.7),
        }


@pytest.mark.parametrize("kind", ["vae", "ease"])
def test_a_mixed_batch_over_two_models_equals_the_library_one_by_one(kind):
    rng = np.random.default_rng(5)
    if kind == "vae":
        recommenders = [small_model(0), small_model(1)]
    else:
        data = small_community()
        recommenders = [Recommender.fit(EaseConfig(l2=l2), data) for l2 in (1.0, 50.0)]
    models = [served(one) for one in recommenders]
    requests = list(random_requests(rng, 60))
    asks = []
    for at, one in enumerate(requests):
        settings = {key: one[key] for key in ("k", "deny", "allow", "exclude_seen")}
        asks.append(ask(models[at % 2], one["histories"][0], **settings))
    for at, (one, best) in enumerate(zip(requests, answer(asks), strict=True)):
        expected = recommenders[at % 2].recommend(**one)
        there = expected.item_index[0] >= 0
        assert best.index == expected.item_index[0][there].tolist()
        assert best.scores == pytest.approx(expected.scores[0][there].tolist(), rel=1e-4, abs=1e-5)
        assert best.fallback == expected.fallback[0]
    assert sum(not one["histories"][0] for one in requests) > 0


def test_a_named_filter_is_its_lists():
    rules = ItemFilter(allow=(1003, "1004", 1005, 1006, "nothing"), deny=(1005,))
    model = served(small_model(), {"some": rules})
    best = answer([ask(model, [1003, 1050], 10, barred="some"), ask(model, [1003], 10)])
    assert {model.ids[place] for place in best[0].index} == {1004, 1006}
    assert len(best[1].index) == 10
    (both,) = answer([ask(model, [1050], 10, allow=[1004, 1005, 1007], barred="some")])
    assert [model.ids[place] for place in both.index] == [1004]


def test_many_rows_are_scored_a_part_at_a_time(monkeypatch):
    model = served(small_model())
    asks = [ask(model, [FIRST + at % N_ITEMS], 3) for at in range(20)]
    whole = answer(asks)
    monkeypatch.setattr("coterie.serving.scoring.rows_at_once", lambda items: 3)
    assert [one.index for one in answer(asks)] == [one.index for one in whole]


@pytest.mark.parametrize("ids", ["integers", "strings", "digits"])
def test_ids_are_found_as_the_id_map_finds_them(ids):
    values = {
        "integers": list(range(FIRST, FIRST + N_ITEMS)),
        "strings": [f"tt{place}" for place in range(N_ITEMS)],
        "digits": [str(place) if place % 2 else f"0{place}" for place in range(N_ITEMS)],
    }[ids]
    recommender = small_model(ids=IdMap(values))
    model = served(recommender)
    asked = [
        values[3], str(values[3]), "01001", 1001, "1001", " 1001", "+1001", 7, "7", "07", "006",
        "tt5", "", "-1", -1, 2**70, "9" * 30, "1_001", "١", "0x3", values[0],
    ]  # fmt: skip
    oracle = [int(recommender.item_ids.to_index([str(one)])[0]) for one in asked]
    found, unknown = model.find(asked)
    assert found.dtype == np.int64
    assert sorted(found.tolist()) == sorted({place for place in oracle if place >= 0})
    lost = [one for one, place in zip(asked, oracle, strict=True) if place < 0]
    assert unknown == list(dict.fromkeys(lost))


@pytest.mark.parametrize("step", [1, 3, SPARSE + 1, 1 << 40])
@pytest.mark.parametrize(
    ("kind", "least"),
    [(int, -40), (int, 0), (str, 0), (str, 1 << 40), (str, (1 << 63) - 2), (str, 1 << 63)],
)
def test_whole_numbers_are_found_alone_and_among_unknown_ones(step, kind, least):
    ids = [least + step * place for place in range(60)]
    index = ItemIndex([kind(one) for one in ids])
    assert index.places([ids[7], ids[0], ids[7], ids[59]]) == [7, 0, 7, 59]
    strangers = [
        ids[0] - 1,
        *([ids[7] + 1] if step > 1 else ()),
        ids[59] + 1,
        -(1 << 63),
        1 << 70,
        -(1 << 70),
    ]
    for stranger in (*strangers, "x", str(ids[3])):
        place = 3 if stranger == str(ids[3]) else None
        assert index.places([ids[7], stranger]) == [7, place]
        assert index.places([stranger, ids[7]]) == [place, 7]
    assert index.places([]) == []
    assert ItemIndex([]).places([1]) == [None]


def test_a_long_number_among_other_ids_is_found_as_it_is():
    index = ItemIndex(["x", "12345678901234567890", "y1", "7"])
    assert index.places([12345678901234567890, 7, "y1", "12345678901234567890"]) == [1, 3, 2, 1]


def test_titles_stay_with_their_items():
    model = served(small_model())
    assert model.titles[0] == SCRIPT
    assert model.titles[model.find([FIRST + 9])[0][0]] == "Title 9"
    nameless = small_model()
    nameless.items = None
    nameless.__dict__.pop("catalogue", None)
    assert set(served(nameless).titles) == {None}
