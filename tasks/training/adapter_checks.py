"""What a trained adapter must be, measured on its files and on the base it moves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from data_contracts.prompting.prompt import load_prompt
from data_contracts.verdict import Check, check, report
from tasks.core.progress import Beat, named
from tasks.core.stage import Job
from tasks.formats.lora_file import read_adapter
from tasks.formats.token_rows import TokenRow, read_token_rows
from tasks.prompts.prompt_digest import contract_digest
from tasks.runtimes import hf_model
from tasks.training.advice import Fit
from tasks.training.batches import check_collated
from tasks.training.memory import report_memory
from tasks.training.targets import matches

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_FIT_ROWS = 32
"""Training rows whose loss is measured: a forward pass each, of two models."""


def check_run(outcome: dict, lineage: dict, job: Job, completion_only: bool = True) -> list[Check]:
    """The run did what was asked, on the rows and the base that it was given."""
    return [
        check(
            "optimizer steps run",
            outcome["steps_run"],
            "==",
            outcome["steps_asked"],
            detail=f"resumed from step {outcome['resumed_from_step']}",
        ),
        *check_collated(outcome, completion_only),
        *([Check(**outcome["packs"])] if outcome["packs"] else []),
        check("base that the adapter names", lineage["base_digest"][:16], "==", job.digests["base"][:16]),
        check(
            "prompt contract that the adapter names",
            lineage["prompt_contract"][:16],
            "==",
            contract_digest(load_prompt(job.recipe), job.inputs["base"])[:16],
            fix="The rows were made with other words or another tokenizer; run validate_dataset again",
        ),
        report(
            "checkpoints refused",
            len(outcome["refused_checkpoints"]),
            detail="; ".join(outcome["refused_checkpoints"][:3]),
        ),
        report_memory(outcome["memory"]),
    ]


def check_factors(adapter_folder: Path, expected: set[str]) -> list[Check]:
    """Every expected module has a pair of finite factors, and B has left zero, where it starts."""
    import torch

    adapter = read_adapter(adapter_folder)
    found = set(adapter.modules)
    zero, bad, idle, experts = [], [], 0, 0
    for name, module in adapter.modules.items():
        a, b = module.factor_a.read(), module.factor_b.read()
        if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
            bad.append(name)
        elif not b.abs().max() > 0:
            zero.append(name)
        if module.experts > 1:
            experts, idle = experts + module.experts, idle + module.untouched_experts()
    odd = sorted(expected ^ found)
    told = [report("experts that no training row reached", idle, detail=f"of {experts}")] if experts else []
    return [
        check(
            "adapted modules that differ from those asked for",
            len(odd),
            "==",
            0,
            enough=bool(expected),
            detail=f"{len(found)} found, {len(expected)} expected; e.g. {odd[:2]}",
        ),
        check(
            "modules with a non-finite factor",
            len(bad),
            "==",
            0,
            detail=f"of {len(found)}; e.g. {bad[:2]}",
            fix="Lower train.learning_rate",
        ),
        check(
            "modules whose B factor is all zero",
            len(zero),
            "==",
            0,
            detail=f"of {len(found)}; e.g. {zero[:2]}",
            fix="They were never trained: check target_modules and the labels",
        ),
        *told,
    ]


def expected_modules(
    base_folder: Path, target_modules: list[str] | str, target_parameters: Sequence[str] = ()
) -> set[str]:
    """Names of the base's layers (without ".weight") and parameters that an adapter should move, from its architecture."""
    linear, parameters = hf_model.layer_shapes(base_folder)
    if target_modules != "all-linear":
        linear = {name for name in linear if matches(name, target_modules)}
    return linear | {name.removesuffix(".weight") for name in parameters if matches(name, target_parameters)}


@dataclass(frozen=True)
class Behaviour:
    """What base and trained model do on gold rows."""

    base: Fit
    tuned: Fit
    largest_logit_difference: float
    heldout_rows: int


def measure_behaviour(job: Job) -> Behaviour:
    """The base and the trained model side by side on gold rows, one in memory at a time."""
    heldout = read_token_rows(job.inputs["rows"] / "heldout.parquet")
    train = read_token_rows(job.inputs["rows"] / "train.parquet", _FIT_ROWS)
    dtype = hf_model.widest_dtype(job.inputs["base"])

    def measured(which: str, adapter: Path | None) -> tuple[Fit, torch.Tensor]:
        with hf_model.quiet():
            model = hf_model.load_model(job.inputs["base"], dtype, adapter, job.beat)
        beat = named(job.beat, f"loss on gold rows, {which} model")
        return _fit(model, train, heldout, beat), hf_model.logits(model, heldout[0][0])

    base, before = measured("base", None)
    tuned, after = measured("tuned", job.out)
    return Behaviour(base, tuned, (after - before).abs().max().item(), len(heldout))


def _fit(model: PreTrainedModel, train: Sequence[TokenRow], heldout: Sequence[TokenRow], beat: Beat) -> Fit:
    import torch

    nats = hf_model.completion_nats(model, [*train, *heldout], beat=beat)
    seen, unseen = nats[: len(train)], nats[len(train) :]
    ends = [math.exp(-row[-1].item()) for row in unseen if len(row)]
    return Fit(
        train_nats=float(torch.cat(seen).double().mean()),
        heldout_nats=float(torch.cat(unseen).double().mean()),
        end_probability=fmean(ends) if ends else 0.0,
    )


def check_behaviour(found: Behaviour) -> list[Check]:
    """Held-out loss fell and logits moved."""
    base, tuned = found.base, found.tuned
    return [
        check(
            "held-out loss",
            tuned.heldout_nats,
            "<",
            base.heldout_nats,
            unit="nats a token",
            detail=f"base {base.heldout_nats:.4f}, {found.heldout_rows} rows",
            fix="The adapter learned nothing that holds on new rows: check the data, then the learning rate",
        ),
        report(
            "loss on training rows",
            tuned.train_nats,
            unit="nats a token",
            detail=f"base {base.train_nats:.4f}, the first {_FIT_ROWS} rows at most",
        ),
        report(
            "mean probability of the end token where held-out gold answers end",
            tuned.end_probability,
            detail=f"base {base.end_probability:.4f}",
        ),
        check(
            "largest logit difference that the adapter makes",
            found.largest_logit_difference,
            ">",
            1e-3,
            fix="Its keys match nothing in the base",
        ),
    ]
