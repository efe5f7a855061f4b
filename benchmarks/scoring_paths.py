"""Ways from a user's hidden layer to the 20 best items: how fast, and whether they are the best.

    python benchmarks/scoring_paths.py --data ../shared/data --out scoring_paths.json
    python benchmarks/scoring_paths.py --rounds 3 --epochs 1 --large 100000   # does it work?

Speed is measured on models trained briefly on invented data of 20 000 items with histories of
about 60, the ways in turns, and is the median of the rounds. It counts the encoder and leaving the
history out, which are the same for all. Overlap with float32 is measured on MovieLens-1M, if given.
`fp32` is what `Recommender.recommend` does; the server does `shortlist` where that pays, else `one
pass`. Ways whose library is missing or which this processor emulates are marked.

Large catalogues have drawn tables, in groups as real ones are; an index (faiss, if installed) is
searched as deeply as an overlap of 0.99 needs.
"""

import argparse
import json
import logging
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor

import coterie
from coterie.data.batches import UserBatch, user_batch
from coterie.data.interactions import Interactions
from coterie.data.readers import read_interactions
from coterie.data.synthetic import SyntheticConfig, synthetic
from coterie.devices import has_bf16_units
from coterie.models.vae import VAE
from coterie.ranking import exclude_, top_k
from coterie.serving.graph import Layers
from coterie.serving.output_layer import OutputLayer
from coterie.serving.shortlist import Shortlist
from coterie.serving.vae_lists import VaeLists
from coterie.training.config import Experiment

K = 20
ITEMS, MEDIAN = 20_000, 60
BATCHES = (1, 8, 64)
CANDIDATES = 200  # of the ways that rescore without a bound
OVERLAP = 0.99
Scores = Callable[[Tensor], Tensor]  # hidden [B, H] to scores [B, I]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder with ml-1m")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--epochs", type=int, default=10, help="of the models' training")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--large", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.getLogger().setLevel(logging.ERROR)  # quantize_dynamic recommends another step
    warnings.filterwarnings("ignore", message=".*(deprecated|quantized tensor)")
    figures: dict[str, Any] = {
        "cores": os.cpu_count(),
        "processor": torch.cpu.get_capabilities()["cpu_name"],
        "bf16_units": has_bf16_units(torch.device("cpu")),
        "load": os.getloadavg()[0],
        "versions": {"torch": torch.__version__, "onnxruntime": ort.__version__},
        "python": platform.python_version(),
        "speed_ms": {},
        "quality": {},
    }
    shape = SyntheticConfig(n_users=4000, n_items=ITEMS, mean_history=1.2 * MEDIAN)
    invented = synthetic(shape, rng=0).interactions
    with torch.inference_mode():
        for name in ("multi-vae", "recvae"):
            figures["speed_ms"][name] = speed(trained(name, invented, args.epochs), invented, args)
            if args.data is not None and (args.data / "ml-1m").exists():
                real = read_interactions(args.data / "ml-1m" / "ratings.parquet")
                figures["quality"][name] = quality(trained(name, real, 2 * args.epochs), real, args)
        figures["large"] = {str(items): large(items, args) for items in args.large}
    print(json.dumps(figures, indent=2))
    if args.out is not None:
        args.out.write_text(json.dumps(figures, indent=2) + "\n")


def trained(name: str, data: Interactions, epochs: int) -> VAE:
    """A model of the published sizes."""
    settings = {"model": {"name": name}, "training": {"epochs": epochs, "batch_size": 500}}
    with torch.inference_mode(mode=False):
        return coterie.train(data, None, Experiment.read(settings)).recommender.vae


def speed(vae: VAE, data: Interactions, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Milliseconds per batch, by number of users and way."""
    found = {}
    for size in BATCHES:
        users = np.random.default_rng(size).choice(data.n_users, size, replace=False)
        batch = user_batch(data, users)
        run = runs(vae, batch, args.threads)
        found[str(size)] = in_turns(run, args.rounds, repeats=max(1, 8 // size))
    return found


def runs(vae: VAE, batch: UserBatch, threads: int) -> dict[str, Callable[[], Tensor]]:
    """By name: from histories to lists of items."""
    found = {way: whole(vae, batch, best) for way, best in ways(vae, threads).items()}
    weights = {name: tensor.numpy() for name, tensor in vae.state_dict().items()}
    lists = VaeLists.of(vae.config, weights, vae.n_items, threads)
    table, bias = weights["decoder.table"], weights["decoder.bias"]
    short = Shortlist(table, bias, threads, layers=Layers(vae.config, weights))
    found["shortlist"] = by_server(lists, short, batch)  # also where it does not pay
    return {**found, "one pass": by_server(lists, lists.layer(vae.n_items), batch)}


def by_server(lists: VaeLists, layer: OutputLayer, batch: UserBatch) -> Callable[[], Tensor]:
    """As the server does, in one or two passes over the items."""
    histories = np.split(batch.indices.long().numpy(), batch.indptr[1:-1].numpy())
    rows = np.repeat(np.arange(batch.n_users), batch.lengths.numpy())
    excluded = np.stack([rows, np.concatenate(histories)], 1)
    lengths = np.full(batch.n_users, K)

    def run() -> Tensor:
        sums, scale = lists.sums(histories)
        return torch.from_numpy(layer.best(sums, lengths, excluded, scale=scale)[0])

    return run


def whole(vae: VAE, batch: UserBatch, best: Callable[..., Tensor]) -> Callable[[], Tensor]:
    """From histories to lists of items."""
    places = batch.indptr.numpy(), batch.indices.numpy()

    def run() -> Tensor:
        hidden = vae.decoder.hidden(vae.encode(batch).mu)
        return best(hidden, lambda scores: exclude_(scores, *places))

    return run


def quality(vae: VAE, data: Interactions, args: argparse.Namespace) -> dict[str, Any]:
    """Overlap of lists with float32's, and the share of lists that are the same in order."""
    users = np.random.default_rng(0).choice(data.n_users, min(2048, data.n_users), replace=False)
    batch = user_batch(data, users)
    lists = {way: run() for way, run in runs(vae, batch, args.threads).items()}
    return {
        way: {
            "overlap": overlap(lists["fp32"], one),
            "same_lists": float((one == lists["fp32"]).all(1).float().mean()),
        }
        for way, one in lists.items()
    }


def ways(vae: VAE, threads: int) -> dict[str, Callable[..., Tensor]]:
    """By name: from a hidden layer, and what leaves items out, to the best items ``[B, K]``."""
    table, bias = vae.decoder.table.detach(), vae.decoder.bias.detach()

    def fp32(hidden: Tensor) -> Tensor:
        return F.linear(hidden, table, bias)

    coarse: dict[str, Scores] = {
        "fp32": fp32,
        "bf16": bf16(table, bias),
        "torch int8": torch_int8(table, bias),
        "onnxruntime fp32": onnx_layer(table, bias, threads),
        "onnxruntime int8": onnx_int8(table, bias, threads),
    }
    found: dict[str, Callable[..., Tensor]] = {
        name: (lambda hidden, out, scores=scores: top_k(out(scores(hidden)), K).indices)
        for name, scores in coarse.items()
    }
    for name in ("bf16", "torch int8"):
        found[f"{name} + {CANDIDATES} in fp32"] = rescored(coarse[name], table, bias)
    return found


def rescored(coarse: Scores, table: Tensor, bias: Tensor) -> Callable[..., Tensor]:
    """A fixed number of candidates, ranked in float32."""

    def best(hidden: Tensor, out: Callable[[Tensor], Tensor]) -> Tensor:
        items = top_k(out(coarse(hidden)), CANDIDATES).indices.sort(1).values
        exact = torch.stack([
            torch.addmv(bias[row], table.index_select(0, row), one)
            for row, one in zip(items, hidden, strict=True)
        ])  # fmt: skip
        return items.gather(1, top_k(exact, K).indices)

    return best


def bf16(table: Tensor, bias: Tensor) -> Scores:
    """The output layer in bf16."""
    narrow, offset = table.bfloat16(), bias.bfloat16()
    return lambda hidden: F.linear(hidden.bfloat16(), narrow, offset).float()


def torch_int8(table: Tensor, bias: Tensor) -> Scores:
    """PyTorch's own int8 product, whose tensors are deprecated."""
    scale = (table.abs().amax(1) / 127).clamp_min(1e-30).double()
    zero = torch.zeros(len(table), dtype=torch.int64)
    narrow = torch.quantize_per_channel(table, scale, zero, 0, torch.qint8)
    packed = torch.ops.quantized.linear_prepack(narrow, bias)
    return lambda hidden: torch.ops.quantized.linear_dynamic(hidden, packed, True)


def onnx_layer(table: Tensor, bias: Tensor, threads: int) -> Scores:
    """ONNX Runtime in float32."""
    return of_session(bytes_of_layer(table, bias), threads)


def onnx_int8(table: Tensor, bias: Tensor, threads: int) -> Scores:
    """ONNX Runtime's own dynamic quantisation."""
    with TemporaryDirectory() as folder:
        whole, narrow = Path(folder) / "layer.onnx", Path(folder) / "narrow.onnx"
        whole.write_bytes(bytes_of_layer(table, bias))
        quantize_dynamic(whole, narrow, per_channel=True, weight_type=QuantType.QUInt8)
        return of_session(onnx.load(narrow).SerializeToString(), threads)


def bytes_of_layer(table: Tensor, bias: Tensor) -> bytes:
    """The output layer as an ONNX model."""
    nodes = [
        helper.make_node("MatMul", ["hidden", "table"], ["products"]),
        helper.make_node("Add", ["products", "bias"], ["scores"]),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "layer",
        [info("hidden", TensorProto.FLOAT, ["B", table.shape[1]])],
        [info("scores", TensorProto.FLOAT, ["B", len(table)])],
        [
            numpy_helper.from_array(np.ascontiguousarray(table.T.numpy()), "table"),
            numpy_helper.from_array(bias.numpy(), "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    content: bytes = model.SerializeToString()
    return content


def of_session(content: bytes, threads: int) -> Scores:
    """What an ONNX model gives."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda hidden: torch.from_numpy(session.run(None, {"hidden": hidden.numpy()})[0])


def large(n_items: int, args: argparse.Namespace) -> dict[str, Any]:
    """A catalogue of this size with 200 latent numbers per item, by both passes and by an index."""
    draw = torch.Generator().manual_seed(0)
    groups = torch.randn(200, 200, generator=draw)
    own = torch.randint(200, (n_items,), generator=draw)
    table = (groups[own] + torch.randn(n_items, 200, generator=draw)) / 14
    bias = torch.randn(n_items, generator=draw)
    users = groups[torch.randint(200, (64, 3), generator=draw)].mean(1)
    users += 0.5 * torch.randn(64, 200, generator=draw)
    shortlist = Shortlist(table.numpy(), bias.numpy(), args.threads)
    lengths, nothing = np.full(64, K), np.empty((0, 2), dtype=np.int64)
    run = {
        "fp32": lambda: top_k(F.linear(users, table, bias), K).indices,
        "shortlist": lambda: torch.from_numpy(shortlist.best(users.numpy(), lengths, nothing)[0]),
    }
    exact = run["fp32"]()
    found: dict[str, Any] = {"overlap": {"shortlist": overlap(exact, run["shortlist"]())}}
    index = index_of(table, bias, args.threads)
    if index is not None:
        asked = torch.cat([users, torch.ones(64, 1)], 1).numpy()
        for index.nprobe in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024):
            near = torch.from_numpy(index.search(asked, K)[1])
            if overlap(exact, near) >= OVERLAP:
                break
        found["overlap"]["index"] = overlap(exact, near)
        found["index_lists"], found["index_probes"] = index.nlist, index.nprobe
        run["index"] = lambda: torch.from_numpy(index.search(asked, K)[1])
    return {**found, "ms_per_64": in_turns(run, max(3, args.rounds // 3), repeats=1)}


def index_of(table: Tensor, bias: Tensor, threads: int) -> Any:
    """An inverted file over the items' inner products; None without faiss."""
    try:
        import faiss
    except ImportError:
        return None
    faiss.omp_set_num_threads(threads)
    rows = torch.cat([table, bias[:, None]], 1).numpy()
    lists = round(2 * len(rows) ** 0.5)
    coarse = faiss.IndexFlatIP(rows.shape[1])
    index = faiss.IndexIVFFlat(coarse, rows.shape[1], lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.niter = 5
    index.train(rows[: 50 * lists])
    index.add(rows)
    return index


def in_turns(
    run: dict[str, Callable[[], Tensor]], rounds: int, *, repeats: int
) -> dict[str, float]:
    """Median milliseconds of each, after one run to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in run}
    for _ in range(rounds):
        for name, one in run.items():
            one()
            began = time.perf_counter()
            for _ in range(repeats):
                one()
            seconds[name].append((time.perf_counter() - began) / repeats)
    return {name: 1000 * statistics.median(values) for name, values in seconds.items()}


def overlap(expected: Tensor, found: Tensor) -> float:
    """Mean share of the expected items that were found."""
    return float((expected[:, :, None] == found[:, None, :]).any(2).float().mean())


if __name__ == "__main__":
    main()
