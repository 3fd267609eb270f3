"""PEFT LoRA adapters read from disk: which tensor of the base each pair of factors moves, and by how much."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.errors import ArtifactError
from tasks.engines.weights_file import TensorEntry, read_entries

if TYPE_CHECKING:
    import torch

_PREFIX = "base_model.model."
_UNSUPPORTED = ("use_dora", "modules_to_save", "layer_replication", "alora_invocation_tokens", "target_parameters")


@dataclass(frozen=True)
class LoraModule:
    """One adapted linear layer: W + scale · B · A, with A (rank, in) and B (out, rank)."""

    base_tensor: str
    """Name of the base's tensor it moves."""
    factor_a: TensorEntry
    factor_b: TensorEntry
    scale: float
    """alpha / rank, or alpha / sqrt(rank) for rank-stabilised LoRA (arXiv 2312.03732)."""

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.factor_b.shape[0], self.factor_a.shape[1])

    def delta(self) -> torch.Tensor:
        """scale · B · A, float32, (out, in)."""
        return (self.factor_b.read().float() @ self.factor_a.read().float()).mul_(self.scale)


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter as it lies on disk."""

    modules: dict[str, LoraModule]
    config: dict

    @property
    def base_name(self) -> str:
        return str(self.config.get("base_model_name_or_path") or "unnamed")

    @cached_property
    def by_base_tensor(self) -> dict[str, LoraModule]:
        """Modules by the base tensor that they move."""
        return {module.base_tensor: module for module in self.modules.values()}


def read_adapter(folder: Path) -> Adapter:
    """Read `adapter_config.json` and `adapter_model.safetensors`.

    Raises:
        ArtifactError: a file is missing or truncated; a key is not a LoRA factor; a factor lacks its partner; a form of
            adapter (DoRA, saved modules, expert parameters) that this merge does not do.
    """
    paths = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    if missing := [p.name for p in paths if not p.is_file()]:
        raise ArtifactError(
            f"adapter: {', '.join(missing)} is missing in {folder.name}. Save the adapter with PEFT, safetensors."
        )
    config = json.loads(paths[0].read_text("utf-8"))
    unsupported = [name for name in _UNSUPPORTED if config.get(name)]
    if unsupported or config.get("peft_type") != "LORA":
        raise ArtifactError(
            f"adapter: cannot merge a {config.get('peft_type')} adapter with {', '.join(unsupported) or 'this type'}. "
            "Train plain LoRA on linear layers, or merge it with PEFT and bring the result as a base."
        )
    factors, strangers = _pair_factors(read_entries(paths[1]))
    halves = [name for name, pair in factors.items() if len(pair) != 2]
    if strangers or halves or not factors:
        raise ArtifactError(
            f"adapter: {len(strangers)} keys are not LoRA factors (e.g. {strangers[:1]}), {len(halves)} factors lack their "
            f"partner (e.g. {halves[:1]}), {len(factors)} pairs found. A loader would skip them without a word; save it again."
        )
    modules = {
        name: LoraModule(f"{name}.weight", pair["A"], pair["B"], _scale(config, name, pair["A"].shape[0]))
        for name, pair in factors.items()
    }
    return Adapter(modules, config)


def _pair_factors(entries: dict[str, TensorEntry]) -> tuple[dict[str, dict[str, TensorEntry]], list[str]]:
    factors: dict[str, dict[str, TensorEntry]] = {}
    strangers = []
    for key, entry in entries.items():
        name, _, which = key.removesuffix(".weight").rpartition(".lora_")
        if not key.startswith(_PREFIX) or which not in ("A", "B"):
            strangers.append(key)
        else:
            factors.setdefault(name.removeprefix(_PREFIX), {})[which] = entry
    return factors, strangers


def _scale(config: dict, module: str, rank: int) -> float:
    alpha = next(
        (a for key, a in (config.get("alpha_pattern") or {}).items() if module.endswith(key)), config["lora_alpha"]
    )
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
