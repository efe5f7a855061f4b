from coterie.models.baselines.popularity import PopularityConfig, fit
from histories import batch_of, interactions_of


def test_scores_are_the_items_users_for_everybody() -> None:
    model = fit(
        interactions_of([[0, 1], [1], [1, 3]], 4), PopularityConfig(), lambda done, total: None
    )
    assert model(batch_of([[2], []], 4)).tolist() == [[1, 3, 0, 1], [1, 3, 0, 1]]
