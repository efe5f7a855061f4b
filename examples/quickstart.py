"""From a log of interactions to recommendations: python quickstart.py ratings.csv."""

import sys

import coterie
from coterie.training.config import Experiment


def main(log: str, held_out: int = 300) -> None:
    """Read ``log`` (columns user_id and item_id), split, train, evaluate, recommend."""
    data = coterie.read_interactions(log)
    split = coterie.strong_generalization(
        data, n_validation_users=held_out, n_test_users=held_out, rng=0
    )
    experiment = Experiment.read(
        {"objective": {"alignment": {"end": 0.1}}, "training": {"epochs": 20, "batch_size": 100}}
    )
    result = coterie.train(split.train, split.validation, experiment)
    print(coterie.evaluate(result.recommender, split.test)["ndcg@100"])

    history = data.item_ids.to_ids(data.row(0)).to_list()
    print(result.recommender.recommend([history], k=5).to_frame())
    result.recommender.save("model", overwrite=True)


if __name__ == "__main__":
    main(sys.argv[1])
