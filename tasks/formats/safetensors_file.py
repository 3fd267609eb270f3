"""safetensors files read and written one tensor at a time, so that memory is bounded by a tensor, not by a model.

The library's writer needs every tensor in memory at once, and its reader maps the file, whose touched pages count as
resident memory. The format is small enough to speak directly: 8 bytes of header length, a JSON header, the bytes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from data_contracts.verdict import Check, check
from tasks.core.errors import ArtifactError

if TYPE_CHECKING:
    import torch

if TYPE_CHECKING:
    import torch


_COPY_CHUNK_BYTES = 16 << 20
_MAX_HEADER_BYTES = 100 << 20  # the limit of the safetensors library itself
DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies."""

    name: str
    dtype: str
    """As safetensors names it: BF16, F16, F32, ..."""
    shape: tuple[int, ...]
    file: Path
    start_byte: int
    size_bytes: int

    def copy_to(self, out: BinaryIO) -> None:
        """Copy the tensor's bytes unchanged, in chunks."""
        with self.file.open("rb") as source:
            source.seek(self.start_byte)
            left = self.size_bytes
            while left:
                chunk = source.read(min(left, _COPY_CHUNK_BYTES))
                if not chunk:
                    raise ArtifactError(f"weights: {self.file.name} ended inside {self.name}. Get the file again.")
                out.write(chunk)
                left -= len(chunk)

    def read_bytes(self) -> bytearray:
        """The tensor's bytes, writable so that torch can use them without a copy."""
        data = bytearray(self.size_bytes)
        with self.file.open("rb") as source:
            source.seek(self.start_byte)
            if source.readinto(data) != self.size_bytes:
                raise ArtifactError(f"weights: {self.file.name} ended inside {self.name}. Get the file again.")
        return data

    def read(self) -> torch.Tensor:
        """The tensor, in its own dtype and shape, in memory of its own."""
        import torch

        if not self.size_bytes:
            return torch.empty(self.shape, dtype=torch_dtype(self.dtype))
        return torch.frombuffer(self.read_bytes(), dtype=torch_dtype(self.dtype)).reshape(self.shape)


def torch_dtype(name: str) -> torch.dtype:
    import torch

    names = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32"}
    names |= {"I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool"}
    return getattr(torch, names[name])


def read_entries(path: Path) -> dict[str, TensorEntry]:
    """The tensors of one safetensors file, after checking that the file is as long as its header says.

    Raises:
        ArtifactError: not safetensors, or truncated.
    """
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        header_bytes = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else -1
        if not 0 < header_bytes <= min(_MAX_HEADER_BYTES, size_bytes):
            raise ArtifactError(
                f"weights: {path.name} is not a safetensors file. Convert it with the safetensors library."
            )
        try:
            header = json.loads(file.read(header_bytes))
        except (ValueError, RecursionError) as error:
            raise ArtifactError(
                f"weights: the header of {path.name} is damaged ({error}). Get the file again."
            ) from None
    entries = _entries(path, header, 8 + header_bytes)
    expected_bytes = max((e.start_byte + e.size_bytes for e in entries.values()), default=8 + header_bytes)
    if size_bytes != expected_bytes:
        raise ArtifactError(
            f"weights: {path.name} is truncated or padded: {size_bytes:,} bytes, its header says {expected_bytes:,}. "
            "Get the file again."
        )
    return entries


def _entries(path: Path, header: Any, data_start: int) -> dict[str, TensorEntry]:
    entries = {}
    try:
        for name, about in header.items():
            if name == "__metadata__":
                continue
            if about["dtype"] not in DTYPE_BYTES:
                raise ArtifactError(
                    f"weights: {name} in {path.name} has the dtype {about['dtype']}, which is a quantised form. "
                    "Give 16- or 32-bit weights."
                )
            begin, end = about["data_offsets"]
            planned = PlannedTensor(name, about["dtype"], tuple(about["shape"]))
            if begin < 0 or end - begin != planned.size_bytes:
                raise ValueError(f"{name} has {end - begin:,} bytes, its shape needs {planned.size_bytes:,}")
            entries[name] = TensorEntry(name, planned.dtype, planned.shape, path, data_start + begin, end - begin)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"weights: the header of {path.name} is damaged ({error}). Get the file again.") from None
    return entries


def read_folder(folder: Path) -> dict[str, TensorEntry]:
    """The tensors of all safetensors files of a model folder, each in whole and indexed as promised.

    Raises:
        ArtifactError: a pickle lies there, no safetensors file, a shard of the index is missing, a tensor lies twice.
    """
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLE_SUFFIXES)
    if pickles:
        raise ArtifactError(
            f"weights: {folder.name} holds {len(pickles)} pickle file(s): {', '.join(pickles[:3])}. A pickle can run code "
            "when it is loaded and is never read here. Convert it to safetensors and remove it."
        )
    files = sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        promised = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
        if missing := promised - {p.name for p in files}:
            raise ArtifactError(
                f"weights: {len(missing)} of {len(promised)} shards are missing: {', '.join(sorted(missing))}."
            )
        files = [p for p in files if p.name in promised]
    if not files:
        raise ArtifactError(
            f"weights: no safetensors file in {folder.name}. Found {sorted(p.name for p in folder.iterdir())[:5]}."
        )
    entries: dict[str, TensorEntry] = {}
    for path in files:
        for name, entry in read_entries(path).items():
            if name in entries:
                raise ArtifactError(f"weights: {name} lies in {entries[name].file.name} and in {path.name}.")
            entries[name] = entry
    return entries


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor that will be written: its size is known before its bytes are."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        count = 1
        for side in self.shape:
            count *= side
        return count * DTYPE_BYTES[self.dtype]


def plan_shards(tensors: Iterable[PlannedTensor], max_shard_bytes: int) -> Iterator[list[PlannedTensor]]:
    """Group tensors, in order, into files of at most `max_shard_bytes` (one tensor at least)."""
    shard: list[PlannedTensor] = []
    size_bytes = 0
    for tensor in tensors:
        if shard and size_bytes + tensor.size_bytes > max_shard_bytes:
            yield shard
            shard, size_bytes = [], 0
        shard.append(tensor)
        size_bytes += tensor.size_bytes
    if shard:
        yield shard


def write_header(out: BinaryIO, tensors: list[PlannedTensor]) -> None:
    """Write the header of a safetensors file; the tensors' bytes must follow in the same order."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start_byte = 0
    for tensor in tensors:
        end_byte = start_byte + tensor.size_bytes
        header[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start_byte, end_byte]}
        start_byte = end_byte
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begins on 8 bytes, as the library writes it
    out.write(struct.pack("<Q", len(text)) + text)


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """A contiguous tensor's bytes, without a copy."""
    import torch

    return memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())


def check_same_tensors(base: dict[str, TensorEntry], other: dict[str, TensorEntry]) -> Check:
    """Both hold tensors of the same names and shapes."""
    lost = sorted(
        n for n in base.keys() | other.keys() if n not in base or n not in other or base[n].shape != other[n].shape
    )
    return check("tensor names and shapes that differ from the base", len(lost), "==", 0, detail=", ".join(lost[:3]))


def bits_equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    import torch

    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and torch.equal(*(one.contiguous().reshape(-1).view(torch.uint8) for one in (a, b)))
    )
