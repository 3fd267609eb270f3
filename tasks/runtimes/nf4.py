"""A base held in NF4, as QLoRA trains on it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.formats.lora_file import Adapter
from tasks.runtimes import hf_model

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def load_nf4(folder: Path, dtype: str = "float32") -> PreTrainedModel:
    """The base held in 4 bits (NF4, double quantisation), as QLoRA trains beside it."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    compute = getattr(torch, dtype)
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute, bnb_4bit_use_double_quant=True
    )
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=compute, use_safetensors=True, trust_remote_code=False, quantization_config=nf4
    )


Weights = Mapping[str, Callable[[], "torch.Tensor"]]
"""Name of a base's tensor -> its weight, read or computed when called: one is in memory at a time."""


def merged_into_nf4(base: Path, adapter: Path) -> Weights:
    """The story's bug, by the libraries' own hands: PEFT merges into the 4-bit layers and rounds each sum to NF4 again."""
    with hf_model.quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns of just what is wanted here: "may get different generations"
        return dequantised(hf_model.with_adapter(load_nf4(base), adapter).merge_and_unload())


def dequantised(model: PreTrainedModel) -> Weights:
    """The float32 weight of every layer that a model holds in 4 bits."""
    from bitsandbytes.functional import dequantize_4bit

    def weight(parameter: torch.Tensor) -> torch.Tensor:
        state = parameter.quant_state
        return dequantize_4bit(parameter.data, state).float().reshape(state.shape).cpu()

    held = [(name, one) for name, one in model.named_parameters() if getattr(one, "quant_state", None) is not None]
    return {name: partial(weight, parameter) for name, parameter in held}


@dataclass(frozen=True)
class Survival:
    """What is left of an adapter's update U = scale·B·A in merged weights W', against the weights W that it was added to."""

    kept_fraction: float
    """<W' - W, U> / <U, U>, over all modules: 1 when nothing was lost along the update's direction."""
    error_ratio: float
    """||W' - W - U|| / ||U||, over all modules: 0 for an exact merge, 1 for an error as large as the update."""


def survival(adapter: Adapter, started: Weights, merged: Weights) -> Survival:
    """Measured tensor by tensor over the modules of the adapter."""
    along = size = error = 0.0
    for name, module in adapter.by_base_tensor.items():
        update = module.delta().double()
        moved = merged[name]().double() - started[name]().double()
        along += (moved * update).sum().item()
        size += (update * update).sum().item()
        error += ((moved - update) ** 2).sum().item()
    size = max(size, 1e-300)
    return Survival(round(along / size, 6), round((error / size) ** 0.5, 6))


def load_dequantised(folder: Path) -> PreTrainedModel:
    """The same weights, rounded to NF4 and written out again in float32."""
    model = hf_model.load_model(folder)
    weights = dict(model.named_parameters())
    for name, weight in dequantised(load_nf4(folder)).items():
        weights[name].data.copy_(weight())
    return model
