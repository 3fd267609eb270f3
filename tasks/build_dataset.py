"""Build a recipe's training and held-out rows.

Reads:    the recipe's sources (hand-written examples, a synthetic world).
Writes:   train.jsonl, heldout.jsonl: one flat JSON object a line.
Verifies: the same seed gives the same bytes; no input of the held-out rows is in training; every row renders through
          the prompt contract; the rendered answer reads back to the row.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from pydantic import Field, model_validator

from data_contracts.verdict import Check, check, report
from tasks.core.errors import ConfigError
from tasks.core.stage import Job, Settings, Stage, child_main
from tasks.recipes import load_recipe

SPLITS = ("train", "heldout")


class DatasetConfig(Settings):
    """Which rows, and how many."""

    source: str = "gold"
    """Where rows come from: "file" for your own, or a source of the recipe (signals: nano, gold)."""
    rows_file: str | None = None
    """source file: a .jsonl or .parquet of rows; shuffled by the seed, then split."""
    train_rows: int = Field(default=200, ge=1)
    """Rows to train on."""
    heldout_rows: int = Field(default=200, ge=1)
    """Rows that no model here is trained on; every score is measured on them."""
    seed: int = Field(default=42, ge=0)
    """Same seed, same bytes."""

    @model_validator(mode="after")
    def _file_is_there(self) -> DatasetConfig:
        if (self.source == "file") != (self.rows_file is not None):
            raise ValueError("source file and rows_file belong together: give both or neither")
        if self.rows_file is not None and not Path(self.rows_file).is_file():
            raise ValueError(f"rows_file {self.rows_file!r} is not there; give the path of a .jsonl or .parquet file")
        return self


def build_dataset(config: DatasetConfig, job: Job) -> dict:
    """Write both splits to `job.out`."""
    for name, text in zip(SPLITS, _texts(config, job.recipe), strict=True):
        (job.out / f"{name}.jsonl").write_text(text, "utf-8")
    return {"source": config.source}


def _texts(config: DatasetConfig, recipe: str) -> list[str]:
    if config.source == "file":
        splits = _split_file(config)
    else:
        splits = load_recipe(recipe).build_rows(config.source, config.train_rows, config.heldout_rows, config.seed)
    return ["".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows) for rows in splits]


def _split_file(config: DatasetConfig) -> tuple[list[dict], list[dict]]:
    from data_contracts.rows_file import read_rows

    rows = read_rows(Path(config.rows_file)).to_dicts()
    wanted = config.train_rows + config.heldout_rows
    if len(rows) < wanted:
        raise ConfigError(
            f"build_dataset: {config.train_rows:,} + {config.heldout_rows:,} rows asked for, {Path(config.rows_file).name} "
            f"holds {len(rows):,}. Lower dataset.train_rows or dataset.heldout_rows, or add rows."
        )
    random.Random(config.seed).shuffle(rows)
    return rows[config.heldout_rows : wanted], rows[: config.heldout_rows]


def read_split(folder: Path, name: str) -> list[dict]:
    """The rows of one split."""
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text("utf-8").splitlines()]


def verify_dataset(config: DatasetConfig, job: Job) -> list[Check]:
    """Measure the written files; see the module's docstring."""
    recipe = load_recipe(job.recipe)
    train, heldout = (read_split(job.out, name) for name in SPLITS)
    again = _texts(config, job.recipe)
    same = sum((job.out / f"{name}.jsonl").read_text("utf-8") == text for name, text in zip(SPLITS, again, strict=True))
    inputs = {_input(job, row) for row in train}
    shared = [row for row in heldout if _input(job, row) in inputs]
    wordings = {recipe.wording(row) for row in train} - {None}
    known = [row for row in heldout if recipe.wording(row) in wordings]
    unread = [i for i, row in enumerate(train + heldout) if not _reads_back(recipe, row)]
    wanted = config.train_rows + config.heldout_rows
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
            len(SPLITS),
            fix="Something in build_rows draws from an unseeded source.",
        ),
        check(
            "held-out inputs that are also in training",
            len(shared),
            "==",
            0,
            detail=f"e.g. {_input(job, shared[0])[:80]!r}" if shared else "",
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
        report("prompt contract", job.prompt.digest[:12]),
    ]


def _input(job: Job, row: dict) -> str:
    """The whole rendered prompt, case and spaces folded: rendering it also proves that the row can be rendered."""
    return " ".join(job.prompt.messages(row)[-1]["content"].lower().split())


def _reads_back(recipe, row: dict) -> bool:
    parsed = recipe.parse_output(recipe.completion(row))
    return parsed.answer == recipe.answer_of(row) and parsed.trace == row["trace"].strip()


STAGE = Stage(
    name="build_dataset",
    kind="dataset",
    version=1,
    work=build_dataset,
    verify=verify_dataset,
    contract=("prompt.md", "output.py", "examples/gold.jsonl", "examples/heldout.jsonl"),
    uses_recipe=True,
    outside=lambda config: [config.rows_file] if config.rows_file else [],
)

if __name__ == "__main__":
    raise SystemExit(child_main(STAGE, DatasetConfig))
