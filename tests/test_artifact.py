import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

from coterie.data.ids import IdMap
from coterie.errors import ArtifactError, ConfigError, StorageError
from coterie.files import sha256
from coterie.models.config import ModelConfig
from coterie.models.vae import VAE
from coterie.recommender import Recommender

N_ITEMS = 12
HISTORIES = [[100, 103], [111], []]


def recommender(
    *,
    config: ModelConfig | None = None,
    anchors: bool = True,
    item_ids: IdMap | None = None,
    metadata: dict[str, Any] | None = None,
) -> Recommender:
    config = config or ModelConfig(hidden_dims=(5, 4), latent_dim=3)
    ids = item_ids or IdMap(range(100, 100 + N_ITEMS))
    return Recommender(
        VAE(config, N_ITEMS).initialized(1),
        ids,
        np.arange(N_ITEMS),
        items=pl.DataFrame({"item_id": ids.ids, "title": [f"T{n}" for n in range(N_ITEMS)]}),
        anchors=torch.ones(N_ITEMS, config.latent_dim) if anchors else None,
        metadata=metadata or {"seed": 7, "validation": {"ndcg@100": 0.41}},
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return recommender().save(tmp_path / "model")


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the manifest and keep it consistent with the files that are there."""
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


def rehash(path: Path) -> None:
    """What somebody would do who edits a file knowingly: write its size and hash down."""

    def change(manifest: dict[str, Any]) -> None:
        for name in manifest["files"]:
            file = path / name
            manifest["files"][name] = {"bytes": file.stat().st_size, "sha256": sha256(file)}

    edit(path, change)


def edit_tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(tensors, path / "model.safetensors")
    rehash(path)


def load(path: Path, **options: Any) -> Recommender:
    return Recommender.load(path, device="cpu", **options)


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(hidden_dims=(5, 4), latent_dim=3),
        ModelConfig(hidden_dims=(), latent_dim=3),
        ModelConfig(name="multi-dae", hidden_dims=(6,), latent_dim=2),
    ],
)
@pytest.mark.parametrize("anchors", [True, False])
def test_what_is_loaded_is_what_was_saved(tmp_path, config, anchors):
    before = recommender(config=config, anchors=anchors)
    after = load(before.save(tmp_path / "a[1]" / "model"))  # brackets are no pattern
    given, got = before.recommend(HISTORIES, k=5), after.recommend(HISTORIES, k=5)
    np.testing.assert_array_equal(given.scores, got.scores)
    assert given.to_frame().equals(got.to_frame())
    weights = after.model.state_dict()
    assert all(weights[name].equal(w) for name, w in before.model.state_dict().items())
    assert before.similar_items([100]).to_frame().equals(after.similar_items([100]).to_frame())
    assert after.item_ids == before.item_ids
    assert after.item_counts.tolist() == before.item_counts.tolist()
    assert after.items.equals(before.items)
    assert (after.anchors is not None) == anchors
    assert after.info() == before.info()


def test_text_ids_and_no_item_table(tmp_path):
    ids = IdMap([f"ü{n}" for n in range(N_ITEMS)])
    before = Recommender(recommender().model, ids, np.zeros(N_ITEMS, dtype=np.int64))
    after = load(before.save(tmp_path / "model"))
    assert after.item_ids == ids
    assert after.items is None
    assert after.recommend(["ü3"]).to_lists() == before.recommend(["ü3"]).to_lists()


def test_a_loaded_model_can_be_saved_again_and_overwritten(saved, tmp_path):
    again = load(saved).save(tmp_path / "again")
    load(again).save(again, overwrite=True)
    assert load(again).info() == load(saved).info()


def test_the_folder_holds_no_pickle_and_says_what_it_is(saved):
    names = {file.name for file in saved.iterdir()}
    assert names == {"manifest.json", "model.safetensors", "items.parquet", "item_table.parquet"}
    manifest = json.loads((saved / "manifest.json").read_text())
    assert (manifest["format"], manifest["version"], manifest["n_items"]) == (
        "coterie-model",
        2,
        12,
    )
    config = ModelConfig(hidden_dims=(5, 4), latent_dim=3)
    assert manifest["model"] == config.model_dump(mode="json")
    assert manifest["sizes"] == {}
    assert set(manifest["versions"]) == {"python", "coterie", "torch", "numpy", "safetensors"}
    assert manifest["tensors"]["item_counts"] == {"dtype": "I64", "shape": [12]}
    assert manifest["tensors"]["model.decoder.table"] == {"dtype": "F32", "shape": [12, 5]}
    assert manifest["metadata"]["validation"] == {"ndcg@100": 0.41}


def test_an_existing_folder_is_kept_unless_asked(saved):
    with pytest.raises(StorageError, match="exists already"):
        recommender().save(saved)
    recommender(metadata={"seed": 8}).save(saved, overwrite=True)
    assert load(saved).metadata == {"seed": 8}


def test_metadata_that_json_cannot_hold_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="what JSON can hold"):
        recommender(metadata={"data": np.zeros(3)}).save(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="does not exist"):
        load(tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match=r"manifest\.json is missing"):
        load(tmp_path)


def test_an_unknown_device_is_refused(saved):
    with pytest.raises(ConfigError, match=r"abacus"):
        Recommender.load(saved, device="abacus")  # type: ignore[arg-type]


@pytest.mark.parametrize("file", ["model.safetensors", "items.parquet", "item_table.parquet"])
def test_a_missing_truncated_or_edited_file_is_named(saved, file):
    part = saved / file
    whole = part.read_bytes()
    part.write_bytes(whole[:-1])
    with pytest.raises(ArtifactError, match=rf"{file} is truncated or edited"):
        load(saved)
    part.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ArtifactError, match=rf"{file} was edited"):
        load(saved)
    part.unlink()
    with pytest.raises(ArtifactError, match=rf"names '{file}', which is not there"):
        load(saved)


@pytest.mark.parametrize("file", ["model.safetensors", "items.parquet", "item_table.parquet"])
@pytest.mark.parametrize("content", [b"", b"\x00", b"\xff" * 100, b"PAR1" * 20])
def test_a_file_of_another_kind_is_named_even_if_its_hash_fits(saved, file, content):
    (saved / file).write_bytes(content)
    rehash(saved)
    with pytest.raises(ArtifactError, match=rf"{file} is not a readable"):
        load(saved)


def test_every_truncation_of_the_weights_is_noticed_without_hashes(saved):
    whole = (saved / "model.safetensors").read_bytes()
    for length in range(0, len(whole), 97):
        (saved / "model.safetensors").write_bytes(whole[:length])
        rehash(saved)
        with pytest.raises(ArtifactError, match=r"model\.safetensors"):
            load(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.encoder.bias"), "lacks the tensor 'model.encoder.bias'"),
        (lambda t: t.pop("item_counts"), "lacks the tensor 'item_counts'"),
        (lambda t: t.pop("anchors"), "lacks the tensor 'anchors'"),
        (lambda t: t.update(extra=torch.ones(1)), "unexpected tensor 'extra'"),
        (
            lambda t: t.update({"model.decoder.bias": torch.ones(11)}),
            r"'model.decoder.bias' should be F32 \[12\] by the model's configuration, "
            r"got F32 \[11\]",
        ),
        (
            lambda t: t.update({"model.encoder.table": torch.ones(12, 5).half()}),
            r"'model.encoder.table' should be F32 \[12, 5\].*got F16",
        ),
        (lambda t: t.update(item_counts=torch.ones(12)), "'item_counts' should be I64"),
        (lambda t: t.update(anchors=torch.ones(12, 4)), r"'anchors' should be F32 \[12, 3\]"),
    ],
)
@pytest.mark.parametrize("verify", [True, False])
def test_a_wrong_tensor_is_named(saved, change, message, verify):
    edit_tensors(saved, change)
    with pytest.raises(ArtifactError, match=message):
        load(saved, verify=verify)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format="coterie-split"), "expected the format coterie-model, got"),
        (
            lambda m: (m.update(version=1), m.pop("sizes")),
            "version 1 of the format coterie-model, .* made by an older version of coterie. "
            "Make it again: `coterie train`",
        ),
        (lambda m: m.pop("files"), "is damaged: it lacks 'files'"),
        (lambda m: m.pop("version"), "is damaged: it lacks 'version'"),
        (lambda m: m.pop("sizes"), "is damaged: it lacks 'sizes'"),
        (lambda m: m.update(files=[]), "is damaged"),
        (lambda m: m.update(files={"model.safetensors": 3}), "is damaged"),
        (lambda m: m.update(files={}), "does not name model.safetensors"),
        (lambda m: m["files"].pop("items.parquet"), "does not name items.parquet"),
        (lambda m: m["files"].update({"../x": {"bytes": 1, "sha256": ""}}), r"names '\.\./x'"),
        (
            lambda m: m["files"].update({"/etc/hosts": {"bytes": 1, "sha256": ""}}),
            "names '/etc/hosts'",
        ),
        (lambda m: m.pop("model"), "lacks 'model'"),
        (lambda m: m.pop("tensors"), "lacks 'tensors'"),
        (lambda m: m.update(tensors=[]), "'tensors' must be a table"),
        (lambda m: m.update(metadata="none"), "'metadata' must be a table"),
        (lambda m: m.update(n_items="12"), "'n_items' must be a count"),
        (lambda m: m.update(n_items=-1), "'n_items' must be a count"),
        (lambda m: m.update(n_items=13), r"items.parquet has 12 ids, the model has 13 items"),
        (lambda m: m["model"].update(latent=3), "'model' is not valid.*did you mean 'latent_dim'"),
        (lambda m: m["model"].update(latent_dim=0), "'model' is not valid.*latent_dim"),
        (lambda m: m["model"].update(latent_dim=10**12), "should be F32|sizes too large"),
        (lambda m: m["model"].update(latent_dim=10**30), "'model' is not valid: sizes too large"),
        (lambda m: m["model"].update(name="multi-dae"), "'model' is not valid.*a point code"),
        (lambda m: m["model"].update(hidden_dims=[5]), r"safetensors (lacks|holds)"),
        (
            lambda m: m.update(sizes={"nnz": 3}),
            r"'sizes' must be counts of nothing, got \{'nnz': 3",
        ),
        (lambda m: m["model"].update(name=["ease"]), "'model' is not valid"),
        (lambda m: m.update(model={"name": "ease"}), r"holds an unexpected|lacks the tensor"),
        (lambda m: m["tensors"].pop("item_counts"), "'tensors' does not describe"),
        (lambda m: m["tensors"].pop("anchors"), "unexpected tensor 'anchors'"),
    ],
)
def test_a_wrong_manifest_is_explained(saved, change, message):
    edit(saved, change)
    with pytest.raises(ArtifactError, match=f"(?s){message}"):
        load(saved)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", '"x"', "{}", "\udcff"])
def test_a_manifest_that_is_none_is_refused(saved, text):
    (saved / "manifest.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ArtifactError, match=r"manifest\.json is damaged"):
        load(saved)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pl.DataFrame({"id": range(11)}), "items.parquet has 11 ids, the model has 12 items"),
        (pl.DataFrame({"id": [1] * 12}), "1 stands more than once"),
        (pl.DataFrame({"id": [None, *range(11)]}), "1 ids are missing"),
        (pl.DataFrame({"id": [n / 2 for n in range(12)]}), "Float64"),
        (pl.DataFrame({"name": range(12)}), r"one column 'id', it has \['name'\]"),
    ],
)
def test_a_wrong_id_map_is_explained(saved, table, message):
    table.write_parquet(saved / "items.parquet")
    rehash(saved)
    with pytest.raises(ArtifactError, match=message):
        load(saved)


def test_an_item_table_without_ids_is_refused(saved):
    pl.DataFrame({"title": ["x"]}).write_parquet(saved / "item_table.parquet")
    rehash(saved)
    with pytest.raises(ArtifactError, match=r"item_table\.parquet needs a column 'item_id'"):
        load(saved)


def test_without_verifying_an_edit_that_keeps_the_form_passes(saved):
    weights = bytearray((saved / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (saved / "model.safetensors").write_bytes(weights)
    with pytest.raises(ArtifactError, match="was edited"):
        load(saved)
    assert load(saved, verify=False).n_items == N_ITEMS


def test_foreign_folders_are_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(StorageError, match="coterie did not write"):
        recommender().save(tmp_path, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
