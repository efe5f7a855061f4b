"""The best items by a coarse pass over all and an exact one over few; none is missed.

An int8 copy of the output layer scores all items several times faster than float32 does. Its best
few are scored again in float32. By Cauchy and Schwarz's inequality no coarse score is further from
the exact one than ``‖h − ĥ‖ ‖w‖ + ‖ĥ‖ ‖w − ŵ‖``, where hats are what int8 kept of the hidden layer
h and of an item's weights w. The k-th exact score so far, less this error, is what a coarse score
must reach for the item to be wanted; where the few do not hold all such items, they are added.
"""

import warnings
from typing import Self

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from coterie.models.model import Model
from coterie.models.vae import VAE
from coterie.ranking import NO_ITEM, TopK, refuse_nan, top_k

LEVELS = 63  # of the hidden layer on either side of 0: with 127, pairs overflow 16 bits on AVX2
WEIGHT_LEVELS = 127
FEW_ROWS = 8  # up to which PyTorch's selection of the shortlist is faster than ours (measured)
EXTRA = 64  # beyond twice the list: then more are rarely needed (measured on trained models)
LEAST_WORK = 38_400  # weights of the layer per candidate, from which on it pays (measured)

MOST_WEIGHTS = (1 << 31) - (1 << 26)  # an ONNX model in memory has 2 GiB at most
ROWS_AT_ONCE = 1 << 14


class Shortlist:
    """The output layer of a VAE, twice: in float32, and as int8 for ONNX Runtime.

    Parameters
    ----------
    table, bias
        The output layer, float32 ``[I, H]`` and ``[I]``, on a CPU; used as they are.
    threads
        Of the coarse pass.
    """

    def __init__(self, table: Tensor, bias: Tensor, threads: int) -> None:
        self.table, self.bias = table.detach(), bias.detach()
        kept, scales, lost = _narrowed(self.table)
        self._session = _session(kept.T.numpy(), scales.numpy(), threads)
        self._norm, self._lost = float(self.table.norm(dim=1).max()), lost
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch calls sparse tensors beta, once
            self._exact(torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, self.table.shape[1]))
        rounding = self.table.shape[1] * torch.finfo(torch.float32).eps
        self._rounding = rounding * self._norm, rounding * float(self.bias.abs().max())

    @classmethod
    def of(cls, model: Model) -> Self | None:
        """The shortlist of a model; None if it has no output layer on a CPU of a fit size."""
        if not isinstance(model, VAE) or model.device.type != "cpu":
            return None
        table, bias = model.decoder.table, model.decoder.bias
        fits = table.numel() < MOST_WEIGHTS
        return cls(table, bias, torch.get_num_threads()) if fits and _pays(table, 1) else None

    def pays(self, k: int) -> bool:
        """Whether two passes are faster than one for lists of k items."""
        return _pays(self.table, k)

    def coarse(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Scores ``[B, I]`` of hidden layers ``[B, H]``, and their largest errors ``[B, 1]``."""
        scale = hidden.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        scale /= LEVELS
        kept = (hidden / scale).round_()
        (found,) = self._session.run(None, {"hidden": (kept + LEVELS).to(torch.uint8).numpy()})
        scores = torch.from_numpy(found)
        torch.addcmul(self.bias, scores, scale, out=scores)
        kept.mul_(scale)
        error = (hidden - kept).norm(dim=1) * self._norm + kept.norm(dim=1) * self._lost
        error += hidden.norm(dim=1) * self._rounding[0] + self._rounding[1]
        return scores, error[:, None]

    def best(self, hidden: Tensor, coarse: Tensor, error: Tensor, k: Tensor) -> TopK:
        """The items with the best exact scores.

        Parameters
        ----------
        hidden
            float32 ``[B, H]``.
        coarse, error
            As :meth:`coarse` gave them; −inf where an item must not be recommended.
        k
            Lengths of the lists, int64 ``[B]``.

        Returns
        -------
        TopK
            Of the greatest of the lengths; the first k of each row are the best, whatever follows.
        """
        longest = int(k.max())
        items, reached = _foremost(coarse, min(candidates(longest), len(self.table)))
        exact = self._exact(items.clamp_min(0), hidden).masked_fill_(items == NO_ITEM, -torch.inf)
        refuse_nan(exact)
        order = exact.sort(stable=True, descending=True)  # equal scores by the lower item
        ranked = _named(items, TopK(order.indices[:, :longest], order.values[:, :longest]))
        least = ranked.scores.gather(1, k[:, None] - 1)  # no item below it less the error is wanted
        whole = (reached == -torch.inf) | (least - error > reached)
        for row in (~whole[:, 0]).nonzero()[:, 0].tolist():
            wanted = (coarse[row] > -torch.inf) & ~(coarse[row] < least[row] - error[row])
            more = wanted.nonzero()[:, 0]
            scores = self._exact(more[None], hidden[row : row + 1])
            list_ = _named(more[None], top_k(scores, longest))
            ranked.indices[row], ranked.scores[row] = list_.indices[0], list_.scores[0]
        return ranked

    def _exact(self, items: Tensor, hidden: Tensor) -> Tensor:
        """Float32 scores of n items ``[B, n]`` for each hidden layer ``[B, H]``.

        A product of which only some entries are computed: one call, and no copy of weights.
        """
        size, n = items.shape
        ends = torch.arange(0, size * n + 1, n) if n else torch.zeros(size + 1, dtype=torch.int64)
        wanted = torch.sparse_csr_tensor(
            ends,
            items.flatten(),
            self.bias[items.flatten()],
            (size, len(self.table)),
            check_invariants=False,
        )
        scores: Tensor = torch.sparse.sampled_addmm(wanted, hidden, self.table.T).values()
        return scores.view(size, n)


def _foremost(coarse: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The n items with the best scores, ascending ``[B, n]``, and the least of these ``[B, 1]``."""
    if len(coarse) <= FEW_ROWS:
        best = coarse.topk(n, sorted=False)
        items = best.indices.masked_fill_(best.values == -torch.inf, NO_ITEM)
        return items.sort(1).values, best.values.amin(1, keepdim=True)
    found = top_k(coarse, n)
    return found.indices.sort(1).values, found.scores[:, -1:]


def _named(items: Tensor, best: TopK) -> TopK:
    """The items ``[B, n]`` at the places that were found; none where the score is −inf."""
    nowhere = best.scores == -torch.inf
    named = items.gather(1, best.indices.clamp_min(0)).masked_fill_(nowhere, NO_ITEM)
    return TopK(named, best.scores)


def candidates(k: int) -> int:
    """How many items are scored exactly for a list of k."""
    return 2 * k + EXTRA


def _pays(table: Tensor, k: int) -> bool:
    return table.numel() >= LEAST_WORK * candidates(k)


def _narrowed(table: Tensor) -> tuple[Tensor, Tensor, float]:
    """The table as int8 ``[I, H]``, what its rows are multiples of, and the largest ``‖w − ŵ‖``."""
    kept, scales, lost = torch.empty_like(table, dtype=torch.int8), torch.empty(len(table)), 0.0
    for start in range(0, len(table), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        part = table[rows]
        scale = part.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        scale /= WEIGHT_LEVELS
        whole = (part / scale).round_()
        kept[rows], scales[rows] = whole.to(torch.int8), scale[:, 0]
        lost = max(lost, float((whole * scale).sub_(part).norm(dim=1).max()))
    return kept, scales, lost


def _session(weights: np.ndarray, scales: np.ndarray, threads: int) -> ort.InferenceSession:
    """From uint8 ``[B, H]`` around ``LEVELS`` to float32 ``[B, I]``; weights int8 ``[H, I]``."""
    nodes = [
        helper.make_node("MatMulInteger", ["hidden", "weights", "zero"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["one", "scales"], ["factors"]),  # so the three become one
        helper.make_node("Mul", ["numbers", "factors"], ["scores"]),
    ]
    constants = {
        "weights": np.ascontiguousarray(weights),
        "zero": np.array(LEVELS, dtype=np.uint8),
        "one": np.ones(1, dtype=np.float32),
        "scales": scales,
    }
    graph = helper.make_graph(
        nodes,
        "coarse",
        [helper.make_tensor_value_info("hidden", TensorProto.UINT8, ["B", weights.shape[0]])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["B", weights.shape[1]])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # cores are shared
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
