"""Check rows against their data contract and turn them into exactly what the trainer will see.

Reads:    dataset (train.jsonl, heldout.jsonl), base (tokenizer and chat template).
Writes:   the accepted rows again; train.parquet, heldout.parquet: token ids and where each completion begins;
          contract.json: digests of the words, the answer schema and the tokenizer files that made them.
Verifies: row rules; set-level audit; no input in both splits; no row longer than max_length_tokens; the supervised span
          decodes to exactly the answer and ends on the end-of-turn token. Gates that so few held-out rows cannot tell are
          reported.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from data_contracts.gates import load_gates
from data_contracts.prompting.context import count_labels
from data_contracts.prompting.prompt import load_prompt
from data_contracts.verdict import Check, check, failures, report
from tasks.core.errors import ContractError
from tasks.core.settings import ChecksOnly, Settings
from tasks.core.stage import Job, Stage
from tasks.core.stage_process import child_main
from tasks.evaluation.gating import gates_that_can_tell
from tasks.formats.jsonl import write_json
from tasks.formats.token_rows import CONTRACT_FILE, TokenRow, read_token_rows, write_token_rows
from tasks.prompts import chat
from tasks.prompts.plain_tokenizer import PlainTokenizer
from tasks.prompts.prompt_digest import contract_digest, contract_parts
from tasks.recipes import load_recipe
from tasks.runtimes import hf_model

if TYPE_CHECKING:
    import polars as pl

SPLITS = ("train", "heldout")


class ValidateConfig(Settings):
    """Which limits rows must keep."""

    limits: str = "default"
    """Profile of data_contracts/<recipe>/limits.yaml."""
    max_length_tokens: ChecksOnly[int] = Field(default=2048, ge=16)
    """Longest row, prompt and answer together; a longer one is refused, never cut: a cut row teaches not to stop."""


def validate_dataset(config: ValidateConfig, job: Job) -> dict:
    """Accept the rows or raise with the table of broken rules; then write them as token ids.

    Raises:
        ContractError: rows or the set break the contract; every rejected row is in rejected-<split>.jsonl with its reasons;
            or an entry of corrections.yaml does not fit exactly one row of both splits, which are the whole build.
    """
    frames, corrections = _accepted_rows(job.recipe, config.limits, job.inputs["dataset"], job.work)
    tokenizer = hf_model.load_tokenizer(job.inputs["base"])
    recipe = load_recipe(job.recipe)
    for split in SPLITS:
        frames[split].write_ndjson(job.out / f"{split}.jsonl")
        rows = [
            chat.token_row(tokenizer, load_prompt(job.recipe), recipe, row)
            for row in frames[split].iter_rows(named=True)
        ]
        write_token_rows(job.out / f"{split}.parquet", rows)
    parts = contract_parts(load_prompt(job.recipe), job.inputs["base"])
    write_json(job.out / CONTRACT_FILE, parts)
    facts: dict[str, Any] = {f"{split}_rows": frames[split].height for split in SPLITS}
    if corrections.detail:
        facts["corrections"] = corrections.detail
    if (
        load_prompt(job.recipe).context is not None
    ):  # the card says which lines the model has read, and which it never has
        train = frames["train"]
        facts["context_labels"] = count_labels(train["context"] if "context" in train.columns else [])
    return facts


def _accepted_rows(recipe: str, profile: str, dataset: Path, work: Path) -> tuple[dict[str, pl.DataFrame], Check]:
    """Split -> its corrected rows, all of which keep the row rules; and what was corrected.

    Raises:
        ContractError: as `validate_dataset`.
    """
    from data_contracts.limits import load_limits
    from data_contracts.rows.contract import check_rows
    from data_contracts.rows.corrections import Corrector
    from data_contracts.rows.findings import format_table, write_rejected
    from data_contracts.rows.rows_file import read_rows

    limits = load_limits(recipe, profile)
    paths = {split: dataset / f"{split}.jsonl" for split in SPLITS}
    # One for both: a batch may lie in both splits, and the row that an entry means is in one of them.
    corrector = Corrector(recipe)
    corrected = {split: corrector.apply(read_rows(path)) for split, path in paths.items()}
    (corrections,) = corrector.close(whole_build=True)
    tables, frames = [], {}
    for split, path in paths.items():
        findings = check_rows(recipe, corrected[split], limits)
        frames[split] = findings.frame
        if findings.broken:
            rejected = work / f"rejected-{split}.jsonl"
            write_rejected(findings, rejected)
            tables.append(format_table(findings, path.name, rejected))
    if tables:
        raise ContractError("validate_dataset: rows break their contract.\n" + "\n".join(tables))
    return frames, corrections


def check_contract(recipe: str, profile: str, dataset: Path, work: Path) -> dict[str, int]:
    """Hold built rows to the row rules and the audit, for which no base model is needed; split -> its number of rows.

    Raises:
        ContractError: as `validate_dataset` and `verify_rows`; rejected rows are written to `work`.
    """
    frames, _ = _accepted_rows(recipe, profile, dataset, work)
    _refuse_failed(_audit(recipe, profile, frames["train"], frames["heldout"]), recipe, profile)
    return {split: frame.height for split, frame in frames.items()}


def _audit(recipe: str, profile: str, train: pl.DataFrame, heldout: pl.DataFrame) -> list[Check]:
    from data_contracts.audit.audit import audit_rows, audit_splits
    from data_contracts.limits import load_limits

    limits = load_limits(recipe, profile)
    return [*audit_rows(train, limits), *audit_splits(train, heldout, limits)]


def _refuse_failed(checks: list[Check], recipe: str, profile: str) -> None:
    if bad := failures(checks):
        sentences = "\n".join(f"  - {one.sentence()}" for one in bad)
        where = f"data_contracts/{recipe}/limits.yaml, profile {profile}"
        raise ContractError(
            f"validate_dataset: {len(bad)} of {len(checks)} checks on the set did not pass ({where}).\n{sentences}"
        )


def verify_rows(config: ValidateConfig, job: Job) -> list[Check]:
    """Measure the written files; see the module's docstring.

    Raises:
        ContractError: an audit check failed or could not tell.
    """
    from data_contracts.rows.rows_file import read_rows

    train, heldout = (read_rows(job.out / f"{split}.jsonl") for split in SPLITS)
    checks = _audit(job.recipe, config.limits, train, heldout)
    tokenizer = hf_model.load_tokenizer(job.inputs["base"])
    for split, frame in zip(SPLITS, (train, heldout), strict=True):
        rows = read_token_rows(job.out / f"{split}.parquet")
        checks += token_checks(
            config, tokenizer, load_recipe(job.recipe), list(frame.iter_rows(named=True)), rows, split
        )
    carried = json.loads((job.out / CONTRACT_FILE).read_text("utf-8"))["digest"]
    expected = contract_digest(load_prompt(job.recipe), job.inputs["base"])
    checks.append(check("prompt contract that the rows carry", carried[:16], "==", expected[:16]))
    asked = list(heldout.iter_rows(named=True))
    checks.append(gates_that_can_tell(load_gates(job.recipe), load_recipe(job.recipe), asked))
    _refuse_failed(checks, job.recipe, config.limits)
    return checks


def check_tokens(recipe: str, rows: list[dict], model_folder: Path, max_length_tokens: int) -> list[Check]:
    """The same on rows of any file, by the tokenizer and chat template of a model folder; needs no torch.

    Raises:
        ConfigError: the folder holds no tokenizer or no chat template.
    """
    tokenizer, module, prompt = PlainTokenizer(model_folder), load_recipe(recipe), load_prompt(recipe)
    ids = [chat.token_row(tokenizer, prompt, module, row) for row in rows]
    return token_checks(ValidateConfig(max_length_tokens=max_length_tokens), tokenizer, module, rows, ids, "file's")


def token_checks(
    config: ValidateConfig, tokenizer, recipe, rows: list[dict], ids: list[TokenRow], split: str
) -> list[Check]:
    """What the trainer will be supervised on, decoded and compared with the answer, row by row."""
    longest = max((len(row) for row, _ in ids), default=0)
    too_long = [i for i, (row, _) in enumerate(ids) if len(row) > config.max_length_tokens]
    pairs = list(zip(rows, ids, strict=False))  # a difference in number is the first check
    header = chat.answer_header(tokenizer)
    wrong_text = [
        i
        for i, (row, (token_ids, start)) in enumerate(pairs)
        if tokenizer.decode(token_ids[start:-1]) != header + recipe.completion(row)
    ]
    no_end = [i for i, (row, _) in enumerate(ids) if row[-1:] != [tokenizer.eos_token_id]]
    supervised = sum(len(row) - start for row, start in ids)
    every = sum(len(row) for row, _ in ids)
    return [
        check(f"{split} rows written as token ids", len(ids), "==", len(rows), enough=bool(rows)),
        check(
            f"{split} rows longer than max_length_tokens",
            len(too_long),
            "==",
            0,
            detail=f"longest {longest} tokens of {config.max_length_tokens}",
            fix="Shorten the rows or raise validate_rows.max_length_tokens",
        ),
        check(
            f"{split} rows whose supervised span is not exactly the answer",
            len(wrong_text),
            "==",
            0,
            enough=bool(ids),
            detail=f"rows {wrong_text[:5]}",
        ),
        check(
            f"{split} rows that do not end on the end-of-turn token",
            len(no_end),
            "==",
            0,
            enough=bool(ids),
            detail=f"rows {no_end[:5]}",
        ),
        report(f"supervised share of {split} tokens", round(supervised / max(every, 1), 4), detail=f"{every:,} tokens"),
    ]


STAGE = Stage(
    name="validate_dataset",
    kind="token-rows",
    version=1,
    work=validate_dataset,
    verify=verify_rows,
    stack=("transformers", "tokenizers", "pandera", "polars"),
    contract=("prompt.md", "output.py", "rows.py", "limits.yaml", "corrections.yaml"),
    checks_contract=("gates.yaml", "examples/heldout.jsonl", "examples/reference.jsonl"),
)

if __name__ == "__main__":
    raise SystemExit(child_main(STAGE, ValidateConfig))
