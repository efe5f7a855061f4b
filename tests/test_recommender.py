import numpy as np

from coterie.data.batches import user_batch
from coterie.data.ids import IdMap
from coterie.data.interactions import Interactions
from coterie.models.vae import VAE, ModelConfig
from coterie.recommender import Recommender


def test_scores_are_the_models_logits_from_the_posterior_mean():
    data = Interactions(
        np.array([0, 2, 3]), np.array([0, 3, 1], dtype=np.int32), IdMap([7, 8]), IdMap(range(5))
    )
    model = VAE(ModelConfig(hidden_dims=(4,), latent_dim=3), 5).initialized(1)
    scores = Recommender(model, data.item_ids, data.item_counts()).score(data)
    assert scores.equal(model(user_batch(data, np.arange(2))).detach())
