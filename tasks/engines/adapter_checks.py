"""What a trained adapter must be, measured on its files and on the base it moves."""

from __future__ import annotations

import re
from pathlib import Path

from data_contracts.verdict import Check, check, report
from tasks.core.stage import Job
from tasks.engines import hf_engine
from tasks.engines.adapter_file import read_adapter
from tasks.engines.prompt_digest import contract_digest
from tasks.engines.token_rows import read_token_rows
from tasks.engines.weights_file import read_folder

_LAYER_WEIGHT = re.compile(r"\.layers\.\d+\..*\.weight$")


def check_run(outcome: dict, lineage: dict, job: Job) -> list[Check]:
    """The run did what was asked, on the rows and the base that it was given."""
    return [
        check(
            "optimizer steps run",
            outcome["steps_run"],
            "==",
            outcome["steps_asked"],
            detail=f"resumed from step {outcome['resumed_from_step']}",
        ),
        check(
            "rows of collated batches whose labels are exactly the answer and its end token",
            outcome["collated_rows_right"],
            "==",
            outcome["collated_rows"],
        ),
        check("base that the adapter names", lineage["base_digest"][:16], "==", job.digests["base"][:16]),
        check(
            "prompt contract that the adapter names",
            lineage["prompt_contract"][:16],
            "==",
            contract_digest(job.prompt, job.inputs["base"])[:16],
            fix="The rows were made with other words or another tokenizer; run validate_dataset again",
        ),
        report(
            "checkpoints refused",
            len(outcome["refused_checkpoints"]),
            detail="; ".join(outcome["refused_checkpoints"][:3]),
        ),
    ]


def check_factors(adapter_folder: Path, base_folder: Path, target_modules: list[str] | str) -> list[Check]:
    """Every expected module has a pair of finite factors, and B has left zero, where it starts."""
    import torch

    adapter = read_adapter(adapter_folder)
    expected = expected_modules(base_folder, target_modules)
    found = set(adapter.modules)
    zero, bad = [], []
    for name, module in adapter.modules.items():
        a, b = module.factor_a.read(), module.factor_b.read()
        if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
            bad.append(name)
        elif not b.abs().max() > 0:
            zero.append(name)
    odd = sorted(expected ^ found)
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
    ]


def expected_modules(base_folder: Path, target_modules: list[str] | str) -> set[str]:
    """Names, without ".weight", of the base's layers that an adapter should move."""
    weights = [e for e in read_folder(base_folder).values() if len(e.shape) == 2 and _LAYER_WEIGHT.search(e.name)]
    names = {entry.name.removesuffix(".weight") for entry in weights}
    if target_modules == "all-linear":
        return names
    return {name for name in names if name.rpartition(".")[2] in target_modules}


def check_behaviour(job: Job) -> list[Check]:
    """Held-out loss fell and logits moved: base and base+adapter side by side."""
    heldout = read_token_rows(job.inputs["rows"] / "heldout.parquet")
    with hf_engine.quiet():
        model = hf_engine.load_model(job.inputs["base"], adapter=job.out)
        tuned_loss, after = hf_engine.completion_loss(model, heldout), hf_engine.logits(model, heldout[0][0])
        with model.disable_adapter():
            base_loss, before = hf_engine.completion_loss(model, heldout), hf_engine.logits(model, heldout[0][0])
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
