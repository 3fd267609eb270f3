"""4-bit bases: onto which one a QLoRA adapter is best merged, and what a merge into the 4-bit weights themselves loses.

The 16-bit weights are not those that a QLoRA adapter was trained beside. Merging into the 4-bit ones is refused
(tasks/merge_adapter.py), and done on purpose only to be compared (tasks/merge_into_nf4.py). What is left is a choice between
the 16-bit base, which is exact but new to the adapter, and the 4-bit base written out in 16 bits, which it knows but which
is coarse (silent-failures.md, class 6; peft issue 2105).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from data_contracts.verdict import Check, check, report
from tasks.engines import hf_engine
from tasks.engines.adapter_file import Adapter
from tasks.engines.gguf_parity import Parity
from tasks.engines.scoring import difference_interval

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedModel

TRAINED, EXACT, DEQUANTISED = "its 4-bit training base", "the 16-bit base", "the dequantised base"
NEITHER = "neither"
_INTERVAL_FRACTION = 0.95
_KL_ROWS = 8


def compare_bases(
    base: Path, adapter: Path, rows: Sequence[tuple[list[int], int]], max_loss_increase_nats: float
) -> list[Check]:
    """Held-out loss on each base, and mean KL of the two candidates to the model as it was trained; all float32.

    `rows`: (token ids, length of the prompt in tokens). One model is in memory at a time. The merge is onto the 16-bit base
    whatever comes out; how much that may cost beside the training base has a limit. KL has none: it is small for the
    dequantised base by construction, as its weights are those that the adapter was trained beside.
    """
    losses: dict[str, list[tuple[float, int]]] = {}
    expected: list[np.ndarray] = []
    parities = {EXACT: Parity(), DEQUANTISED: Parity()}
    for name, load in ((TRAINED, load_nf4), (DEQUANTISED, load_dequantised), (EXACT, hf_engine.load_model)):
        with hf_engine.quiet():
            model = hf_engine.with_adapter(load(base), adapter).eval()
        losses[name] = hf_engine.completion_losses(model, rows)
        found = [hf_engine.logits(model, ids).numpy() for ids, _ in rows[:_KL_ROWS]]
        expected = expected or found
        if name in parities:
            for ours, theirs in zip(expected, found, strict=True):
                parities[name].add(ours, theirs)
    means = {name: sum(nats for nats, _ in each) / sum(n for _, n in each) for name, each in losses.items()}
    told = [report(f"held-out loss on {name}", round(loss, 6), unit="nats a token") for name, loss in means.items()]
    told += [
        report(f"mean KL to the trained model on {n}", p.mean_kl, unit="nats a token") for n, p in parities.items()
    ]
    lost = check(
        "held-out loss lost by leaving the 4-bit training base",
        round(means[EXACT] - means[TRAINED], 6),
        "<=",
        max_loss_increase_nats,
        unit="nats a token",
        fix="Train with base_precision 16bit, or at a lower learning rate: the adapter repairs what 4 bits broke, "
        "and that is not broken in the 16-bit base",
    )
    return [*told, _better_base(losses), lost]


def _better_base(losses: Mapping[str, Sequence[tuple[float, int]]]) -> Check:
    """Which base has the lower loss, if the interval of the difference, paired by row, says so."""
    per_row = {name: [nats / max(tokens, 1) for nats, tokens in losses[name]] for name in (EXACT, DEQUANTISED)}
    mean, low, high = difference_interval(per_row[EXACT], per_row[DEQUANTISED], _INTERVAL_FRACTION)
    better = DEQUANTISED if low > 0 else EXACT if high < 0 else NEITHER
    told = f"16-bit minus dequantised: {mean:+.2g} ({low:+.2g} to {high:+.2g}) nats a token, by row"
    return report("better base to merge onto", better, detail=f"{told}; the 16-bit one is used")


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
    with hf_engine.quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns of just what is wanted here: "may get different generations"
        return dequantised(hf_engine.with_adapter(load_nf4(base), adapter).merge_and_unload())


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
    model = hf_engine.load_model(folder)
    weights = dict(model.named_parameters())
    for name, weight in dequantised(load_nf4(folder)).items():
        weights[name].data.copy_(weight())
    return model
