"""Weights packed as MXFP4 (gpt-oss) written out in bfloat16, tensor by tensor, and compared with the format's definition.

A tensor `x` of shape (experts, in, out) lies in two: `x_blocks` (experts, out, in / 32, 16) uint8, two values a byte, the low
half first, and `x_scales` (experts, out, in / 32) uint8, one power of two for 32 values. A value is FP4 E2M1 (sign, two bits
of exponent, one of mantissa), a scale E8M0 with a bias of 127: OCP Microscaling Formats (MX) Specification 1.0, section 5.
bfloat16 holds each product exactly.

Not by loading and saving the model: that needs all of it in memory, and transformers 5.17 saves every layer's experts under
the one name "gate_up_proj$" (its known second bug of the dequantising save path).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from data_contracts.verdict import Check, check, report
from tasks.core.child import Beat, silent
from tasks.core.errors import ArtifactError, ConfigError
from tasks.formats import model_folder
from tasks.formats.safetensors_file import PlannedTensor, TensorEntry, read_folder, tensor_bytes

if TYPE_CHECKING:
    import torch

_BLOCKS, _SCALES = "_blocks", "_scales"
_BLOCK_VALUES = 32


def dequantise(source: Path, out: Path, beat: Beat = silent) -> int:
    """Write the model of `source` to `out`, packed tensors as bfloat16, every other one as it is; returns how many were packed.

    Raises:
        ConfigError: the source is not packed as MXFP4.
        ArtifactError: blocks without scales, or of shapes that do not belong together.
    """
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    about = json.loads((source / "config.json").read_text("utf-8")).get("quantization_config") or {}
    entries = read_folder(source)
    packed = _packed(entries)
    if about.get("quant_method") != "mxfp4" or not packed:
        raise ConfigError(
            f"prepare_base: base.dequantise is mxfp4, and the repository is {about.get('quant_method') or 'not quantised'}, with "
            f"{len(packed)} packed tensors. Leave base.dequantise out, or choose a repository that is packed as MXFP4."
        )

    def write(file: BinaryIO, tensor: PlannedTensor) -> None:
        if tensor.name in packed:
            blocks, scales = (one.read() for one in packed[tensor.name])
            file.write(tensor_bytes(convert_moe_packed_tensors(blocks, scales)))
        else:
            entries[tensor.name].copy_to(file)

    kept = [e for n, e in entries.items() if n.removesuffix(_BLOCKS).removesuffix(_SCALES) not in packed]
    planned = [PlannedTensor(e.name, e.dtype, e.shape) for e in kept]
    planned += [PlannedTensor(name, "BF16", _shape(blocks)) for name, (blocks, _) in packed.items()]
    planned.sort(key=lambda one: one.name)
    model_folder.write_like(source, out, planned, "bfloat16", write, beat=beat)
    return len(packed)


def check_dequantised(source: Path, out: Path) -> list[Check]:
    """Each packed tensor, decoded here by the definition, equals the written one bit for bit; the others came along unchanged."""
    import torch

    entries, written = read_folder(source), read_folder(out)
    packed = _packed(entries)
    equal = sum(
        name in written
        and written[name].dtype == "BF16"
        and torch.equal(decode(blocks.read(), scales.read()), written[name].read().float())
        for name, (blocks, scales) in packed.items()
    )
    others = [n for n in entries if n.removesuffix(_BLOCKS).removesuffix(_SCALES) not in packed]
    same = sum(n in written and written[n].read_bytes() == entries[n].read_bytes() for n in others)
    left = len(written) - len(packed) - len(others)
    return [
        check("packed tensors that equal their definition in bfloat16", equal, "==", len(packed), enough=bool(packed)),
        check("tensors that were not packed, bit-equal", same, "==", len(others)),
        check("tensors that are in no source", left, "==", 0),
        report("tensors dequantised from MXFP4", len(packed)),
    ]


def decode(blocks: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """(experts, in, out) float32, from the bits of E2M1 and E8M0.

    A value is (-1)^sign · m · 2^(scale - 127), with m = mantissa / 2 where the exponent is 0, else
    2^(exponent - 1) · (1 + mantissa / 2).
    """
    import torch

    codes = torch.stack([blocks & 0xF, blocks >> 4], dim=-1).flatten(-2).int()  # (experts, out, in / 32, 32)
    sign, exponent, mantissa = 1 - 2 * (codes >> 3), (codes >> 1) & 3, codes & 1
    size = torch.where(exponent == 0, 0.5 * mantissa, torch.exp2(exponent - 1.0) * (1 + mantissa / 2))
    values = sign * size * torch.exp2(scales.float() - 127)[..., None]
    return values.flatten(-2).mT.contiguous()


def _packed(entries: dict[str, TensorEntry]) -> dict[str, tuple[TensorEntry, TensorEntry]]:
    found, wrong = {}, []
    for name, blocks in entries.items():
        if not name.endswith(_BLOCKS):
            continue
        stem = name.removesuffix(_BLOCKS)
        scales = entries.get(stem + _SCALES)
        if scales is None or scales.shape != blocks.shape[:-1] or 2 * blocks.shape[-1] != _BLOCK_VALUES:
            wrong.append(stem)
        else:
            found[stem] = (blocks, scales)
    if wrong:
        raise ArtifactError(
            f"prepare_base: {len(wrong)} of {len(wrong) + len(found)} packed tensors lack the scales of their blocks, "
            f"e.g. {wrong[0]}. A file is missing or damaged: fetch the repository again."
        )
    return found


def _shape(blocks: TensorEntry) -> tuple[int, ...]:
    experts, rows, groups, _ = blocks.shape
    return experts, groups * _BLOCK_VALUES, rows
