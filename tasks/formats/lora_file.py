"""PEFT LoRA adapters read from disk: which tensor of the base each pair of factors moves, and by how much.

A mixture of experts keeps the weights of all its experts in one tensor of three dimensions. PEFT adapts it as a parameter
(target_parameters): the factors of all experts lie side by side in one pair, under a key that names neither the parameter
(several on one module are told apart only by how deep they are nested) nor the order of its dimensions. train_lora takes
both from the live model and writes them into lineage.json.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.errors import ArtifactError
from tasks.formats.safetensors_file import TensorEntry, read_entries

if TYPE_CHECKING:
    import torch

_PREFIX = "base_model.model."
_UNSUPPORTED = ("use_dora", "modules_to_save", "layer_replication", "alora_invocation_tokens")
OUT_IN, EXPERTS_IN_OUT, EXPERTS_OUT_IN = "out,in", "experts,in,out", "experts,out,in"
"""Orders of a weight's dimensions."""


@dataclass(frozen=True)
class WrappedParameter:
    """A parameter that PEFT adapts as such (target_parameters), as the live model knew it."""

    name: str
    """Name of the base's tensor."""
    experts: int
    layout: str
    """One of the orders above."""


@dataclass(frozen=True)
class LoraModule:
    """One adapted weight: W + scale · B · A, with A (experts · rank, in) and B (out, rank · experts); one expert for a layer."""

    base_tensor: str
    """Name of the base's tensor it moves."""
    factor_a: TensorEntry
    factor_b: TensorEntry
    scale: float
    """alpha / rank, or alpha / sqrt(rank) for rank-stabilised LoRA (arXiv 2312.03732)."""
    experts: int = 1
    layout: str = OUT_IN

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the base's tensor, in its own order of dimensions."""
        sides = {"experts": self.experts, "out": self.factor_b.shape[0], "in": self.factor_a.shape[1]}
        return tuple(sides[side] for side in self.layout.split(","))

    def delta(self) -> torch.Tensor:
        """scale · B · A, float32, in the shape of the base's tensor."""
        import torch

        a, b = self.factor_a.read().float(), self.factor_b.read().float()
        if self.layout == OUT_IN:
            return (b @ a).mul_(self.scale)
        a = a.reshape(self.experts, -1, a.shape[1])  # (experts, rank, in)
        b = b.reshape(b.shape[0], -1, self.experts).permute(2, 0, 1)  # (experts, out, rank): experts vary fastest in B
        swap = self.layout == EXPERTS_IN_OUT
        return (torch.bmm(a.mT, b.mT) if swap else torch.bmm(b, a)).mul_(self.scale)

    def untouched_experts(self) -> int:
        """Experts whose B is still zero: no training row was routed to them."""
        b = self.factor_b.read()
        return int((b.reshape(b.shape[0], -1, self.experts).abs().amax((0, 1)) == 0).sum())


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

    @cached_property
    def moves(self) -> set[str]:
        """Names of the base's tensors that it moves."""
        return set(self.by_base_tensor)

    def delta(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """What it adds to a tensor of the base; float32."""
        return self.by_base_tensor[name].delta()

    def exact(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """The moved tensor, float32, before it is rounded to any other type."""
        return self.delta(name, weight).add_(weight.float())


def read_adapter(folder: Path) -> Adapter:
    """Read `adapter_config.json`, `adapter_model.safetensors` and, for adapted parameters, `lineage.json`.

    Raises:
        ArtifactError: a file is missing or truncated; a key is not a LoRA factor; a factor lacks its partner; a form of
            adapter (DoRA, saved modules) that this merge does not do; parameters that nothing tells apart.
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
    wrapped = _wrapped_parameters(folder, config)
    modules = [_module(config, name, pair, wrapped.get(name)) for name, pair in factors.items()]
    return Adapter({module.base_tensor.removesuffix(".weight"): module for module in modules}, config)


def _module(config: dict, name: str, pair: dict[str, TensorEntry], wrapped: WrappedParameter | None) -> LoraModule:
    experts = wrapped.experts if wrapped else 1
    scale = _scale(config, name, pair["A"].shape[0] // experts)
    if wrapped is None:
        return LoraModule(f"{name}.weight", pair["A"], pair["B"], scale)
    return LoraModule(wrapped.name, pair["A"], pair["B"], scale, experts, wrapped.layout)


def _wrapped_parameters(folder: Path, config: dict) -> dict[str, WrappedParameter]:
    if not config.get("target_parameters"):
        return {}
    path = folder / "lineage.json"
    told = json.loads(path.read_text("utf-8")).get("wrapped_parameters") if path.is_file() else None
    if not told:
        raise ArtifactError(
            f"adapter: it adapts the parameters {', '.join(config['target_parameters'])}, and no lineage.json says which keys "
            "belong to which of them. Train it here, or merge it with PEFT and bring the result as a base."
        )
    return {key: WrappedParameter(**one) for key, one in told.items()}


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
