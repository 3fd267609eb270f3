"""A GGUF file as bytes: which tensors it holds, of which types, and what its quantisation's name promises."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from data_contracts.errors import ArtifactError, ConfigError

_CHUNK_ROWS = 1024
_EXPERT = re.compile(r"\.experts\.\d+\.")


@dataclass(frozen=True)
class Recipe:
    """What a quantisation is called in llama.cpp, and the tensor types that its name promises."""

    file_type: int
    """llama_ftype, written to `general.file_type`."""
    types: frozenset[str]
    """Types that llama.cpp's rule picks when every row length fits (src/llama-quant.cpp); any other is a fallback."""


RECIPES = {
    "f16": Recipe(1, frozenset({"F16"})),
    "q8_0": Recipe(7, frozenset({"Q8_0"})),
    "q4_k_m": Recipe(15, frozenset({"Q4_K", "Q5_K", "Q6_K"})),
    "q5_k_m": Recipe(17, frozenset({"Q5_K", "Q6_K"})),
    "q6_k": Recipe(18, frozenset({"Q6_K"})),
}


@dataclass(frozen=True)
class GgufTensor:
    """One tensor; `data` is a map of the file, read when touched."""

    name: str
    type: str
    """As ggml names it: F32, F16, Q8_0, Q4_K, ..."""
    shape: tuple[int, ...]
    """In the order of safetensors: rows first, row length last."""
    elements: int
    size_bytes: int
    data: Any

    def is_zero(self) -> bool:
        """True when every value is zero after dequantising; looks no further than the first rows that are not."""
        from numpy import count_nonzero

        quants = _gguf().quants
        rows = self.data.reshape(-1, self.data.shape[-1])
        kind = _gguf().GGMLQuantizationType[self.type]
        return not any(
            count_nonzero(quants.dequantize(rows[start : start + _CHUNK_ROWS], kind))
            for start in range(0, len(rows), _CHUNK_ROWS)
        )


def read_header(path: Path, key: str) -> str | None:
    """A text of the header by its key; None when it is not there.

    Raises:
        ArtifactError: the file is not GGUF.
    """
    field = _reader(path).get_field(key)
    return None if field is None else str(field.contents())


def _reader(path: Path) -> Any:
    try:
        return _gguf().GGUFReader(path)
    except (ValueError, IndexError, KeyError, OSError) as error:
        raise ArtifactError(
            f"gguf: {path.name} cannot be read as GGUF: {error}. It is damaged or truncated; export it again."
        ) from error


def read_tensors(path: Path) -> dict[str, GgufTensor]:
    """The tensors of a GGUF file by name.

    Raises:
        ArtifactError: the file is not GGUF, or ends before its last tensor does.
    """
    return {
        one.name: GgufTensor(
            name=one.name,
            type=one.tensor_type.name,
            shape=tuple(int(side) for side in reversed(one.shape)),
            elements=int(one.n_elements),
            size_bytes=int(one.n_bytes),
            data=one.data,
        )
        for one in _reader(path).tensors
    }


def bits_per_weight(tensors: dict[str, GgufTensor]) -> float:
    """Bits in the tensors' data over the number of weights: what the file really costs."""
    return 8 * sum(t.size_bytes for t in tensors.values()) / sum(t.elements for t in tensors.values())


def fallback_tensors(tensors: dict[str, GgufTensor], f16: dict[str, GgufTensor], quantization: str) -> list[GgufTensor]:
    """Tensors whose type is not one that the quantisation's name promises.

    llama.cpp replaces a K-quant silently where the row length is not a multiple of 256 (Q4_K by Q5_0, Q6_K by Q8_0).
    Tensors that are float32 in the float16 file (norms, routers) are never quantised and are not counted.
    """
    promised = RECIPES[quantization].types
    return [t for t in tensors.values() if f16[t.name].type != "F32" and t.type not in promised]


@dataclass(frozen=True)
class NameMatch:
    """How the tensors of a safetensors folder and of a GGUF file pair up."""

    pairs: dict[str, list[str]]
    """GGUF name -> the safetensors names it was made from (several for stacked experts)."""
    wrong: list[str]
    """A tensor without its partner, or of another shape; in words."""
    leftover: tuple[int, int]
    """Weights in tensors that llama.cpp's name table does not know: (safetensors, GGUF). Equal when none got lost."""


def match_names(
    hf: dict[str, tuple[int, ...]], gguf: dict[str, GgufTensor], architecture: str, tied: bool
) -> NameMatch:
    """Pair safetensors names and shapes with GGUF tensors by llama.cpp's own table of names."""
    table = _name_table(architecture, 1 + max((int(n) for k in hf for n in re.findall(r"\.(\d+)\.", k)), default=0))
    pairs: dict[str, list[str]] = {}
    unknown = 0
    for name in hf:
        if tied and name == "lm_head.weight":
            continue
        target = table.get_name(_EXPERT.sub(".experts.", name), try_suffixes=(".weight", ".bias"))
        if target is None:
            unknown += _count(hf[name])
        else:  # a parameter that is no layer's weight (fused experts, attention sinks) gets that suffix from the converter
            bare = target not in gguf and f"{target}.weight" in gguf
            pairs.setdefault(f"{target}.weight" if bare else target, []).append(name)
    wrong = []
    for target, names in pairs.items():
        shape = hf[names[0]] if len(names) == 1 else (len(names), *hf[names[0]])
        if target not in gguf:
            wrong.append(f"{target} is missing (from {names[0]})")
        elif _plain(gguf[target].shape) not in (_plain(shape), _turned(shape)):
            wrong.append(f"{target} is {gguf[target].shape}, {names[0]} is {shape}")
    extra = sum(t.elements for t in gguf.values() if t.name not in pairs and not t.name.startswith("rope_"))
    return NameMatch(pairs, wrong, (unknown, extra))


def _plain(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without sides of length one, which the two formats write differently."""
    return tuple(side for side in shape if side != 1)


def _turned(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Of experts fused as (experts, in, out), the shape in which the converter writes them: (experts, out, in)."""
    return (shape[0], shape[2], shape[1]) if len(shape) == 3 else None


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total


def _name_table(architecture: str, blocks: int) -> Any:
    gguf = _gguf()
    known = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}
    if architecture not in known:
        raise ArtifactError(
            f"gguf: llama.cpp's table of tensor names does not know the architecture {architecture!r}. Found "
            f"{len(known)} others. Use the gguf-py that belongs to the llama.cpp that wrote the file."
        )
    return gguf.get_tensor_name_map(known[architecture], blocks)


@cache
def _gguf() -> Any:
    """gguf-py of the very llama.cpp that the converter comes from, whatever other version is installed."""
    folder = str(llama_cpp_folder() / "gguf-py")
    sys.path.insert(0, folder)
    try:
        import gguf
        import gguf.quants
    finally:
        sys.path.remove(folder)
    return gguf


def llama_cpp_folder() -> Path:
    """Where llama.cpp's converter and gguf-py lie: PLUMBLINE_LLAMA_CPP, or share/llama.cpp of this environment.

    Raises:
        ConfigError: it is not there.
    """
    folder = Path(os.environ.get("PLUMBLINE_LLAMA_CPP") or Path(sys.prefix) / "share" / "llama.cpp")
    missing = [name for name in ("convert_hf_to_gguf.py", "conversion", "gguf-py") if not (folder / name).exists()]
    if missing:
        raise ConfigError(
            f"export_gguf: llama.cpp's converter is not complete: {', '.join(missing)} missing. Expected beside "
            "each other in share/llama.cpp of the environment. Run the set-up again, or set PLUMBLINE_LLAMA_CPP."
        )
    return folder
