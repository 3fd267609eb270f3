"""Onto which base a QLoRA adapter is best merged, measured: the 16-bit weights are not those it was trained beside.

Merging into the 4-bit weights themselves is refused (tasks/merge_adapter.py). What is left is a choice between the 16-bit
base, which is exact but new to the adapter, and the 4-bit base written out in 16 bits, which it knows but which is coarse
(silent-failures.md, class 6; peft issue 2105).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data_contracts.verdict import Check, report
from tasks.engines import hf_engine
from tasks.engines.gguf_parity import Parity

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel

TRAINED, EXACT, DEQUANTISED = "its 4-bit training base", "the 16-bit base", "the dequantised base"
_KL_ROWS = 8


def compare_bases(base: Path, adapter: Path, rows: Sequence[tuple[list[int], int]]) -> list[Check]:
    """Held-out loss on each base, and mean KL of the two candidates to the model as it was trained; all float32.

    `rows`: (token ids, length of the prompt in tokens). One model is in memory at a time.
    """
    losses: dict[str, float] = {}
    expected: list[np.ndarray] = []
    parities = {EXACT: Parity(), DEQUANTISED: Parity()}
    for name, load in ((TRAINED, load_nf4), (DEQUANTISED, load_dequantised), (EXACT, hf_engine.load_model)):
        with hf_engine.quiet():
            model = hf_engine.with_adapter(load(base), adapter).eval()
        losses[name] = hf_engine.completion_loss(model, rows)
        found = [hf_engine.logits(model, ids).numpy() for ids, _ in rows[:_KL_ROWS]]
        expected = expected or found
        if name in parities:
            for ours, theirs in zip(expected, found, strict=True):
                parities[name].add(ours, theirs)
    best = min((EXACT, DEQUANTISED), key=losses.__getitem__)
    told = [report(f"held-out loss on {name}", round(loss, 6), unit="nats a token") for name, loss in losses.items()]
    told += [
        report(f"mean KL to the trained model on {n}", p.mean_kl, unit="nats a token") for n, p in parities.items()
    ]
    apart = abs(losses[EXACT] - losses[DEQUANTISED])
    return [
        *told,
        report("better base to merge onto", best, detail=f"by {apart:.2g} nats a token; the 16-bit one is used"),
    ]


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


def load_dequantised(folder: Path) -> PreTrainedModel:
    """The same weights, rounded to NF4 and written out again in float32."""
    from bitsandbytes.functional import dequantize_4bit

    model = hf_engine.load_model(folder)
    weights = dict(model.named_parameters())
    for name, parameter in load_nf4(folder).named_parameters():
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            exact = weights[name]
            exact.data.copy_(dequantize_4bit(parameter.data, state).reshape(exact.shape))
    return model
