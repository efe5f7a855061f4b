"""Published figures, each with its source, by data set and model."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

LIANG_METRICS = ("recall_capped@20", "recall_capped@50", "ndcg@100")
"""What Liang et al. and all after them report; their Recall@R divides by min(R, held-out items)."""
GOWALLA_METRICS = ("recall@20", "ndcg@20")
"""Of the split published with LightGCN; this recall divides by all held-out items."""

LIANG = "Liang et al., WWW 2018 (arXiv 1802.05814)"
STECK = "Steck, WWW 2019 (arXiv 1905.03375)"
RECVAE = "Shenbin et al., WSDM 2020 (arXiv 1912.11160)"
H_VAMP = "Kim & Suh, RecSys 2019 (arXiv 1911.00936)"
VASP = "Vančura & Kordík, ICANN 2021 (arXiv 2102.05774)"
PIA = "Vuong et al., ICLR 2026 (arXiv 2511.06781)"
LIGHTGCN = "He et al., SIGIR 2020 (arXiv 2002.02126)"
ULTRAGCN = "Mao et al., CIKM 2021 (arXiv 2110.15114)"


@dataclass(frozen=True)
class Published:
    """What a paper reports of one model on one data set.

    Parameters
    ----------
    model
        Its name here; of models that coterie does not have, the paper's.
    source
        Where the figures stand.
    figures
        By metric; a metric that the source does not report is missing.
    """

    model: str
    source: str
    figures: Mapping[str, float]


def published(data: str) -> tuple[Published, ...]:
    """All figures known for a data set; none for most."""
    return _PUBLISHED.get(data, ())


def metrics_of(data: str) -> tuple[str, ...]:
    """The metrics in which a data set's results are reported."""
    return GOWALLA_METRICS if data == "gowalla" else LIANG_METRICS


def _liang(model: str, source: str, *figures: float | None) -> Published:
    return _row(model, source, LIANG_METRICS, figures)


def _gowalla(model: str, source: str, *figures: float) -> Published:
    return _row(model, source, GOWALLA_METRICS, figures)


def _row(
    model: str, source: str, metrics: tuple[str, ...], figures: tuple[float | None, ...]
) -> Published:
    known = {m: value for m, value in zip(metrics, figures, strict=True) if value is not None}
    return Published(model, source, MappingProxyType(known))


_PUBLISHED: Mapping[str, tuple[Published, ...]] = MappingProxyType(
    {
        "ml-20m": (
            _liang("multi-dae", LIANG, 0.387, 0.524, 0.419),
            _liang("multi-vae", LIANG, 0.395, 0.537, 0.426),
            _liang("multi-vae+pia", PIA, 0.408, None, 0.437),
            _liang("ease", STECK, 0.391, 0.521, 0.420),
            _liang("recvae", RECVAE, 0.414, 0.553, 0.442),
            _liang("h-vamp-gated", H_VAMP, 0.413, 0.551, 0.445),
            _liang("VASP", VASP, 0.414, 0.552, 0.448),
        ),
        "netflix": (
            _liang("multi-dae", LIANG, 0.344, 0.438, 0.380),
            _liang("multi-vae", LIANG, 0.351, 0.444, 0.386),
            _liang("multi-vae+pia", PIA, 0.360, None, 0.392),
            _liang("ease", STECK, 0.362, 0.445, 0.393),
            _liang("recvae", RECVAE, 0.361, 0.452, 0.394),
            _liang("h-vamp-gated", H_VAMP, 0.377, 0.463, 0.409),
            _liang("VASP", VASP, 0.372, 0.457, 0.406),
        ),
        "msd": (
            _liang("multi-dae", LIANG, 0.266, 0.363, 0.313),
            _liang("multi-vae", LIANG, 0.266, 0.364, 0.316),
            _liang("multi-vae+pia", PIA, None, None, 0.326),
            _liang("ease", STECK, 0.333, 0.428, 0.389),
            _liang("recvae", RECVAE, 0.276, 0.374, 0.326),
        ),
        "gowalla": (
            _gowalla("multi-vae", LIGHTGCN, 0.1641, 0.1335),
            _gowalla("LightGCN", LIGHTGCN, 0.1830, 0.1554),
            _gowalla("UltraGCN", ULTRAGCN, 0.1862, 0.1580),
        ),
    }
)
