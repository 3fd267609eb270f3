"""What a trained adapter must be, measured on its files and on the base it moves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data_contracts.prompting.prompt import load_prompt
from data_contracts.verdict import Check, check, report
from tasks.core.stage import Job
from tasks.formats.lora_file import read_adapter
from tasks.formats.token_rows import read_token_rows
from tasks.prompts.prompt_digest import contract_digest
from tasks.runtimes import hf_model
from tasks.training.batches import check_collated
from tasks.training.memory import report_memory
from tasks.training.targets import matches


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


def check_behaviour(job: Job) -> list[Check]:
    """Held-out loss fell and logits moved: the base and the trained model side by side, one in memory at a time."""
    heldout = read_token_rows(job.inputs["rows"] / "heldout.parquet")
    with hf_model.quiet():
        dtype = hf_model.widest_dtype(job.inputs["base"])
        model = hf_model.load_model(job.inputs["base"], dtype)
        base_loss, before = hf_model.completion_loss(model, heldout), hf_model.logits(model, heldout[0][0])
        del model
        model = hf_model.load_model(job.inputs["base"], dtype, adapter=job.out)
        tuned_loss, after = hf_model.completion_loss(model, heldout), hf_model.logits(model, heldout[0][0])
    moved = (after - before).abs().max().item()
    return [
        check(
            "held-out loss",
            tuned_loss,
            "<",
            base_loss,
            unit="nats a token",
            detail=f"base {base_loss:.4f}, {len(heldout)} rows",
            fix="The adapter learned nothing that holds on new rows: check the data, then the learning rate",
        ),
        check(
            "largest logit difference that the adapter makes",
            moved,
            ">",
            1e-3,
            fix="Its keys match nothing in the base",
        ),
    ]
