"""What train_lora made, read from disk: an adapter on a base, or a whole model in the base's place.

Both offer the same: `moves`, the base's tensors that training moved; `delta(name, weight)`, by how much; `exact(name,
weight)`, to what, in float32. So the merge and its checks know one thing and not two.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.errors import ArtifactError
from tasks.formats.lora_file import Adapter, read_adapter
from tasks.formats.safetensors_file import TensorEntry, read_folder

if TYPE_CHECKING:
    import torch

LINEAGE = "lineage.json"
"""Beside the weights: base, rows and prompt contract that they were made from."""


@dataclass(frozen=True)
class WholeModel:
    """A model of which every tensor was trained, float32."""

    entries: dict[str, TensorEntry]

    @cached_property
    def moves(self) -> set[str]:
        """Names of its tensors."""
        return set(self.entries)

    def delta(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """How far training moved a tensor of the base; float32."""
        return self.exact(name, weight).sub_(weight.float())

    def exact(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """The trained tensor, float32."""
        return self.entries[name].read().float()


Trained = Adapter | WholeModel


def is_adapter(folder: Path) -> bool:
    """An adapter, to be loaded on its base; else a whole model."""
    return (folder / "adapter_config.json").is_file()


def read_trained(folder: Path) -> Trained:
    """The weights that training wrote.

    Raises:
        ArtifactError: a file is missing, truncated or of a form that is not merged here.
    """
    return read_adapter(folder) if is_adapter(folder) else WholeModel(read_folder(folder))


def read_mergeable(base_folder: Path, trained_folder: Path, base_digest: str) -> tuple[dict[str, TensorEntry], Trained]:
    """The base's tensors and what was trained on them, once it is sure that they belong together.

    Raises:
        ArtifactError: a quantised base; weights trained on another base, be it of other shapes or only of other values; a
            tensor that one has and the other lacks.
    """
    config = json.loads((base_folder / "config.json").read_text("utf-8"))
    if "quantization_config" in config:
        raise ArtifactError(
            f"merge_adapter: the base is quantised ({config['quantization_config'].get('quant_method', 'unknown method')}), "
            "and merging into it would round the update away. Give the 16-bit base that it was quantised from."
        )
    base = read_folder(base_folder)
    packed = [e.name for e in base.values() if e.dtype in ("U8", "I8") or e.name.endswith((".absmax", ".quant_map"))]
    if packed:
        raise ArtifactError(
            f"merge_adapter: {len(packed)} of {len(base)} base tensors are packed 4- or 8-bit weights, e.g. {packed[0]}. "
            "Give the 16-bit base that it was quantised from."
        )
    trained = read_trained(trained_folder)
    if whole := isinstance(trained, WholeModel):
        form, named, shapes = "model", LINEAGE, {name: entry.shape for name, entry in trained.entries.items()}
    else:
        form, named = "adapter", f"adapter_config.json ({trained.base_name})"
        shapes = {name: update.shape for name, update in trained.by_base_tensor.items()}
    wrong = [
        f"{name} is {base[name].shape} in the base, {shape} in the {form}"
        if name in base
        else f"{name} is not in the base"
        for name, shape in shapes.items()
        if name not in base or base[name].shape != shape
    ]
    wrong += [f"{name} is only in the base" for name in base if whole and name not in shapes]
    if wrong:
        raise ArtifactError(
            f"merge_adapter: the {form} was made for another base: {len(wrong)} of {len(shapes)} "
            f"{'tensors' if whole else 'modules'} do not fit: {'; '.join(wrong[:3])}. Give the base named in {named}."
        )
    _refuse_another_base(trained_folder, base_digest)
    return base, trained


def _refuse_another_base(folder: Path, base_digest: str) -> None:
    """Same shapes prove nothing: a sister model or a later revision fits every module, and the merge would be noise."""
    path = folder / LINEAGE
    trained_on = json.loads(path.read_text("utf-8"))["base_digest"] if path.is_file() else "no base (no lineage.json)"
    if trained_on != base_digest:
        raise ArtifactError(
            f"merge_adapter: what was trained was made for another base: it names {trained_on[:26]}, this base is "
            f"{base_digest[:26]}. Give the base it was trained on, or train it again on this one."
        )
