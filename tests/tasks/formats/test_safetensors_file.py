"""Streamed safetensors: what is written is what the library reads, and no damaged or foreign file is taken for weights."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tasks.core.errors import ArtifactError
from tasks.formats import safetensors_file
from tasks.formats.safetensors_file import PlannedTensor
from tasks.merge_adapter import MergeConfig, merge_adapter
from tests.fixtures.tiny_chain import failed, merge_job

TENSORS = {
    "b.matrix": torch.arange(12, dtype=torch.float32).reshape(3, 4).to(torch.bfloat16),
    "a.half": torch.tensor([[1.5, -2.25]], dtype=torch.float16),
    "c.scalar": torch.tensor(3.5),
    "d.empty": torch.zeros(0, 4),
    "e.ids": torch.tensor([1, -2], dtype=torch.int64),
    "f.transposed": torch.arange(6, dtype=torch.float64).reshape(2, 3).T,
    "g.mask": torch.tensor([True, False, True]),
}
NAMES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32", torch.float64: "F64"}
NAMES |= {torch.int64: "I64", torch.bool: "BOOL"}


def write(path: Path, tensors: dict = TENSORS) -> Path:
    planned = [PlannedTensor(name, NAMES[one.dtype], tuple(one.shape)) for name, one in tensors.items()]
    with path.open("wb") as out:
        safetensors_file.write_header(out, planned)
        for one in tensors.values():
            out.write(safetensors_file.tensor_bytes(one))
    return path


def test_the_library_reads_what_was_streamed(tmp_path):
    path = write(tmp_path / "model.safetensors")
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert set(file.keys()) == set(TENSORS)
        for name, wanted in TENSORS.items():
            found = file.get_tensor(name)
            assert found.dtype == wanted.dtype
            assert torch.equal(found, wanted), name


def test_streamed_reading_gives_what_the_library_wrote(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({name: one.contiguous() for name, one in TENSORS.items()}, path)
    entries = safetensors_file.read_entries(path)
    assert set(entries) == set(TENSORS)
    for name, wanted in TENSORS.items():
        found = entries[name].read()
        assert found.dtype == wanted.dtype
        assert found.shape == wanted.shape
        assert torch.equal(found, wanted), name


def test_bytes_are_copied_unchanged_in_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(safetensors_file, "_COPY_CHUNK_BYTES", 5)
    entry = safetensors_file.read_entries(write(tmp_path / "model.safetensors"))["b.matrix"]
    with (tmp_path / "copy").open("wb") as out:
        entry.copy_to(out)
    assert (tmp_path / "copy").read_bytes() == bytes(safetensors_file.tensor_bytes(TENSORS["b.matrix"]))


def header_and_data(header: object, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: str = "F32", shape: tuple = (2,), offsets: tuple = (0, 8)) -> dict:
    return {"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not a safetensors file"),
        (b"PK\x03\x04 a zip of pickles, as torch.save writes it", "is not a safetensors file"),
        (struct.pack("<Q", 10) + b"{not json}", "header of model.safetensors is damaged"),
        (header_and_data(entry(), b"1234"), "truncated or padded: 73 bytes, its header says 77"),
        (header_and_data(entry(), b"123456789"), "truncated or padded"),
        (header_and_data([1, 2]), "header of model.safetensors is damaged"),
        (header_and_data({"w": {"dtype": "F32"}}), "header of model.safetensors is damaged"),
        (header_and_data(entry(shape=(3,)), b"12345678"), "w has 8 bytes, its shape needs 12"),
        (header_and_data(entry(offsets=(-8, 0)), b""), "header of model.safetensors is damaged"),
        (header_and_data(entry("F8_E4M3", (8,)), b"12345678"), "dtype F8_E4M3, which is a quantised form"),
    ],
)
def test_what_is_no_whole_weights_file_gets_its_own_message(tmp_path, content, said):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=said):
        safetensors_file.read_folder(tmp_path)


def test_a_file_that_shrinks_while_it_is_read_is_not_padded_with_zeros(tmp_path):
    path = write(tmp_path / "model.safetensors")
    entry = safetensors_file.read_entries(path)["b.matrix"]
    path.write_bytes(path.read_bytes()[: entry.start_byte + 4])
    with pytest.raises(ArtifactError, match="ended inside b.matrix"):
        entry.read()
    with (tmp_path / "copy").open("wb") as out, pytest.raises(ArtifactError, match="ended inside b.matrix"):
        entry.copy_to(out)


def test_a_folder_with_a_pickle_is_not_touched(tmp_path):
    write(tmp_path / "model.safetensors")
    (tmp_path / "training_args.bin").write_bytes(b"cos\nsystem\n")
    with pytest.raises(ArtifactError, match="1 pickle file.*training_args.bin.*can run code"):
        safetensors_file.read_folder(tmp_path)


def test_a_folder_without_weights_or_without_a_shard_or_with_a_tensor_twice(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"no safetensors file.*config\.json"):
        safetensors_file.read_folder(tmp_path)
    write(tmp_path / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"x": "model-00001-of-00002.safetensors", "y": "model-00002-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ArtifactError, match="1 of 2 shards are missing: model-00002"):
        safetensors_file.read_folder(tmp_path)
    write(tmp_path / "model-00002-of-00002.safetensors")
    with pytest.raises(ArtifactError, match="lies in model-00001-of-00002.safetensors and in model-00002"):
        safetensors_file.read_folder(tmp_path)


def test_shards_hold_at_most_their_limit_and_every_tensor_once_in_order():
    tensors = [PlannedTensor(str(i), "BF16", (size,)) for i, size in enumerate([10, 10, 10, 50, 1])]
    shards = list(safetensors_file.plan_shards(tensors, max_shard_bytes=40))
    assert [[one.name for one in shard] for shard in shards] == [["0", "1"], ["2"], ["3"], ["4"]]


def test_a_sharded_merge_loads_in_transformers_and_passes_every_check(tiny_base, tiny_rows, tiny_adapter, tmp_path):
    from tasks.merge_adapter import verify_merge
    from tasks.runtimes.hf_model import load_model

    config = MergeConfig(dtype="float32", max_shard_bytes=1 << 20)
    # the smallest shard that the config allows holds the whole tiny model
    assert merge_adapter(config, merge_job(tmp_path, tiny_base, tiny_rows, tiny_adapter.out))["shards"] == 1
    big = grow_vocabulary(tiny_base, tmp_path / "big", embedding_rows=6000)
    job = merge_job(tmp_path / "sharded", big, tiny_rows, tiny_adapter.out)
    facts = merge_adapter(config, job)
    assert facts["shards"] > 1
    index = json.loads((job.out / "model.safetensors.index.json").read_text())
    files = sorted(job.out.glob("model-*.safetensors"))
    assert len(files) == facts["shards"]
    assert set(index["weight_map"].values()) == {path.name for path in files}
    in_shards = {name: one for path in files for name, one in load_file(path).items()}
    assert index["metadata"]["total_size"] == sum(one.numel() * one.element_size() for one in in_shards.values())
    loaded = load_model(job.out).state_dict()
    for name, one in in_shards.items():
        assert torch.equal(loaded[name], one), name
    assert not failed(verify_merge(config, job))


def grow_vocabulary(base: Path, folder: Path, embedding_rows: int) -> Path:
    """The same model with unused embedding rows after its own."""
    import shutil

    from tests.fixtures.tiny_chain import edit_tensors
    from tests.fixtures.tiny_model import edit_json

    def grow(tensors: dict) -> None:
        old = tensors["model.embed_tokens.weight"]
        new = torch.zeros(embedding_rows, old.shape[1], dtype=old.dtype)
        new[: old.shape[0]] = old
        tensors["model.embed_tokens.weight"] = new

    shutil.copytree(base, folder)
    edit_tensors(folder / "model.safetensors", grow)
    edit_json(folder / "config.json", lambda config: config.update(vocab_size=embedding_rows))
    return folder
