"""A model folder made from its base: other weights, tensor by tensor, and everything else that the base has.

Not with the library's save_pretrained: it needs the whole model in memory, it rewrites configs, and it names tensors by its
own conversions, which in transformers 5.17 loses every expert of a dequantised model under the one name "gate_up_proj$".
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

from tasks.core.child import Beat, silent
from tasks.formats import safetensors_file
from tasks.formats.safetensors_file import PlannedTensor, TensorEntry

DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
"""A 16- or 32-bit type as torch and config.json name it -> as safetensors does."""
MAX_SHARD_BYTES = 4 << 30
"""Largest safetensors file, in bytes."""


def planned_as(tensors: Iterable[TensorEntry], dtype: str) -> list[PlannedTensor]:
    """The same tensors, those of a float type in `dtype` (as torch names it)."""
    floats = DTYPES.values()
    return [PlannedTensor(e.name, DTYPES[dtype] if e.dtype in floats else e.dtype, e.shape) for e in tensors]


def write_like(
    base: Path,
    out: Path,
    planned: list[PlannedTensor],
    dtype: str,
    write: Callable[[BinaryIO, PlannedTensor], None],
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    beat: Beat = silent,
) -> int:
    """Write `out` as a model folder in the base's likeness; `write` gives the bytes of each planned tensor in turn.

    Returns the number of safetensors files.
    """
    copy_companions(base, out)
    shards = list(safetensors_file.plan_shards(planned, max_shard_bytes))
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        with (out / name).open("wb") as file:
            safetensors_file.write_header(file, shard)
            for tensor in shard:
                write(file, tensor)
                weight_map[tensor.name] = name
                beat(len(weight_map), len(planned), {})
    if len(shards) > 1:
        total_bytes = sum(tensor.size_bytes for tensor in planned)
        index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
        (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), "utf-8")
    _write_dtype(out / "config.json", dtype)
    return len(shards)


def copy_companions(base: Path, out: Path) -> None:
    """Tokenizer, chat template, configs: everything but weights, and nothing executable."""
    for path in sorted(base.rglob("*")):
        relative = path.relative_to(base)
        left_behind = ".safetensors" in path.name or path.suffix in (".py", *safetensors_file.PICKLE_SUFFIXES)
        if path.is_dir() or relative.parts[0] == "manifests" or left_behind:
            continue
        (out / relative).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, out / relative)


def _write_dtype(path: Path, dtype: str) -> None:
    config = json.loads(path.read_text("utf-8"))
    for name in ("torch_dtype", "quantization_config"):  # the weights beside it are neither now
        config.pop(name, None)
    path.write_text(json.dumps({**config, "dtype": dtype}, indent=2) + "\n", "utf-8")
