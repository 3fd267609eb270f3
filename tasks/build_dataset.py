"""Build a recipe's training and held-out rows.

Reads:    the recipe's sources (hand-written examples, a synthetic world); a teacher's answers, where one is configured.
Writes:   train.jsonl, heldout.jsonl: one flat JSON object a line; with a teacher, refused.jsonl: what was not accepted.
Verifies: the same seed, and the same answers, give the same bytes; no input of the held-out rows is in training; every
          row renders through the prompt contract; the rendered answer reads back to the row; each teacher's row keeps
          the row contract, each prompt was answered once, and each seed became a row or has a reason.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field, model_validator

from data_contracts.prompting.prompt import load_prompt
from data_contracts.verdict import Check, check, report
from tasks.core.errors import ConfigError, ContractError
from tasks.core.settings import Settings
from tasks.core.stage import Job, Stage
from tasks.core.stage_process import child_main
from tasks.distillation.teacher_rows import REFUSED, ask_teacher, asked_of, refuse_too_few, teacher_checks
from tasks.distillation.teacher_settings import TeacherSettings
from tasks.formats.jsonl import as_lines, read_lines
from tasks.recipes import load_recipe

SPLITS = ("train", "heldout")


class DatasetConfig(Settings):
    """Which rows, and how many."""

    source: str = "gold"
    """Where rows come from: "file" for your own, or a source of the recipe (nano, gold, ...)."""
    rows_file: str | None = None
    """source file: a .jsonl or .parquet of rows; shuffled by the seed, then split."""
    train_rows: int = Field(default=200, ge=1)
    """Rows to train on."""
    heldout_rows: int = Field(default=200, ge=1)
    """Rows that no model here is trained on; every score is measured on them."""
    seed: int = Field(default=42, ge=0)
    """Same seed, same bytes."""
    teacher: TeacherSettings | None = Field(default=None, title="Teacher")
    """Further training rows, whose traces a larger model writes; none when left out."""

    @model_validator(mode="after")
    def _file_is_there(self) -> DatasetConfig:
        if (self.source == "file") != (self.rows_file is not None):
            raise ValueError("source file and rows_file belong together: give both or neither")
        if self.rows_file is not None and not Path(self.rows_file).is_file():
            raise ValueError(f"rows_file {self.rows_file!r} is not there; give the path of a .jsonl or .parquet file")
        return self


def build_dataset(config: DatasetConfig, job: Job) -> dict:
    """Write both splits, and what was refused of a teacher's rows, to `job.out`.

    Raises:
        ContractError: your rows, or the seeds, break the row contract, or too few of the teacher's rows keep it.
        ConfigError, TransientError: the teacher's endpoint refuses, or gives no answer.
    """
    if config.teacher is None:
        made = _Made(*_own_rows(config, job.recipe))
    else:
        train, heldout = _own_rows(config, job.recipe)
        with config.teacher.open_source() as source:
            taught = ask_teacher(config.teacher, job, train + heldout, source)
        refuse_too_few(config.teacher, job, taught)
        made = _Made(train + taught.rows, heldout, taught.refused, taught.facts)
    for name, text in made.texts.items():
        (job.out / f"{name}.jsonl").write_text(text, "utf-8")
    return {"source": config.source} | ({"teacher": made.facts} if config.teacher else {})


@dataclass
class _Made:
    """Everything that is written."""

    train: list[dict]
    heldout: list[dict]
    refused: list[dict] | None = None
    """None without a teacher."""
    facts: dict = field(default_factory=dict)

    @property
    def texts(self) -> dict[str, str]:
        """Name -> what its .jsonl holds."""
        parts = {"train": self.train, "heldout": self.heldout} | (
            {} if self.refused is None else {REFUSED: self.refused}
        )
        return {name: as_lines(rows) for name, rows in parts.items()}


def _own_rows(config: DatasetConfig, recipe: str) -> tuple[list[dict], list[dict]]:
    if config.source == "file":
        return _split_file(config, recipe)
    return load_recipe(recipe).build_rows(config.source, config.train_rows, config.heldout_rows, config.seed)


def _split_file(config: DatasetConfig, recipe: str) -> tuple[list[dict], list[dict]]:
    path = Path(str(config.rows_file))
    rows = _rows_of_file(path, recipe)
    refuse_too_few_rows(config, len(rows))
    random.Random(config.seed).shuffle(rows)
    return rows[config.heldout_rows : config.heldout_rows + config.train_rows], rows[: config.heldout_rows]


def refuse_too_few_rows(config: DatasetConfig, n_rows: int) -> None:
    """Raises ConfigError when the user's file holds fewer rows than both splits need."""
    if n_rows < config.train_rows + config.heldout_rows:
        raise ConfigError(
            f"build_dataset: {config.train_rows:,} + {config.heldout_rows:,} rows asked for, "
            f"{Path(str(config.rows_file)).name} holds {n_rows:,}. Lower dataset.train_rows or dataset.heldout_rows, or add rows."
        )


def _rows_of_file(path: Path, recipe: str) -> list[dict]:
    """Rows that keep their contract, in the order of the file: once they are shuffled, no row can be named by its line."""
    from data_contracts.limits import load_limits
    from data_contracts.rows.contract import check_rows
    from data_contracts.rows.findings import format_table
    from data_contracts.rows.rows_file import read_batch

    batch = read_batch(path)
    limits = load_limits(recipe).model_copy(update={"min_rows": 1})
    findings = check_rows(recipe, batch.frame, limits, batch.texts)
    if findings.broken:
        raise ContractError(
            f"build_dataset: {findings.n_rejected:,} of {findings.n_rows:,} rows of {path} break their contract. Correct them "
            f"in that file (corrections.yaml is for rows that keep it and are wrong).\n{format_table(findings, path)}"
        )
    return findings.frame.to_dicts()


def verify_dataset(config: DatasetConfig, job: Job) -> list[Check]:
    """Measure the written files; see the module's docstring."""
    recipe = load_recipe(job.recipe)
    train, heldout = (read_lines(job.out / f"{name}.jsonl") for name in SPLITS)
    again = _Made(*_own_rows(config, job.recipe))
    if config.teacher:
        more = ask_teacher(config.teacher, job, again.train + again.heldout, source=None)
        again = _Made(again.train + more.rows, again.heldout, more.refused)
    same = sum((job.out / f"{name}.jsonl").read_text("utf-8") == text for name, text in again.texts.items())
    taught = train[config.train_rows :]
    inputs = {asked_of(job, row) for row in train}
    shared = [row for row in heldout if asked_of(job, row) in inputs]
    wordings = {recipe.wording(row) for row in train} - {None}
    known = [row for row in heldout if recipe.wording(row) in wordings]
    unread = [i for i, row in enumerate(train + heldout) if not recipe.reads_back(row)]
    wanted = config.train_rows + config.heldout_rows + len(taught if config.teacher else [])
    return [
        check(
            "rows written",
            len(train) + len(heldout),
            "==",
            wanted,
            detail=f"{len(train)} train, {len(heldout)} held out",
        ),
        check(
            "splits that a second build repeats byte for byte",
            same,
            "==",
            len(again.texts),
            fix="Something in build_rows draws from an unseeded source.",
        ),
        check(
            "held-out inputs that are also in training",
            len(shared),
            "==",
            0,
            detail=f"e.g. {asked_of(job, shared[0])[:80]!r}" if shared else "",
        ),
        check(
            "held-out wording combinations that are also in training",
            len(known),
            "==",
            0,
            detail=f"{len(wordings)} combinations in training",
        ),
        check(
            "rows whose rendered answer does not read back to the row",
            len(unread),
            "==",
            0,
            detail=f"e.g. rows {unread[:5]}" if unread else "",
        ),
        report("prompt words", load_prompt(job.recipe).words_digest[:12]),
        *(teacher_checks(config.teacher, job, taught) if config.teacher else ()),
    ]


_LOCAL_STACK = ("torch", "transformers", "llama_cpp_python")

STAGE = Stage(
    name="build_dataset",
    kind="dataset",
    version=1,
    redo_failed=lambda config: config.teacher is not None,
    work=build_dataset,
    verify=verify_dataset,
    optional_stack=lambda config: _LOCAL_STACK if config.teacher and config.teacher.local_model else (),
    contract=("prompt.md", "output.py", "rows.py", "limits.yaml"),
    recipe_files=lambda recipe: load_recipe(recipe).ROW_FILES,
    named_secrets=lambda config: [config.teacher.api_key_env] if config.teacher and config.teacher.base_url else [],
    outside=lambda config: [
        *([config.rows_file] if config.rows_file else []),
        *(config.teacher.files if config.teacher else []),
    ],
)

if __name__ == "__main__":
    raise SystemExit(child_main(STAGE, DatasetConfig))
