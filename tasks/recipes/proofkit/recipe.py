"""The proofkit recipe: seven writing tasks around a work sample for a fictional company, five answered in text and two in JSON.

Its crux: an answer is made from what the applicant typed (target = f(input)) and keeps the house rules of its contract.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from data_contracts.paths import CONTRACTS_FOLDER
from data_contracts.prompting import markers
from tasks.core.errors import ConfigError, ContractError
from tasks.recipes.interface import Probe, Row
from tasks.recipes.proofkit.gates import GATE_METRICS, PASS_METRIC, gate_scores, problems
from tasks.recipes.proofkit.parsing import Parsed, completion, parse_output, reads_back

__all__ = [
    "ENDLESS_SOURCES",
    "EVALUATION_FILES",
    "KEEPS_TRACE",
    "METRICS",
    "ROW_FILES",
    "SOURCES",
    "Parsed",
    "all_right",
    "build_rows",
    "completion",
    "parse_output",
    "pretraining_rows",
    "probe",
    "reads_back",
    "reference_rows",
    "score",
    "with_answer",
    "wording",
]
"""What a recipe offers (tasks/recipes/interface.py), and the parts of its answers."""

METRICS: tuple[str, ...] = (PASS_METRIC, *GATE_METRICS)
"""What `score` measures on a row, in the order in which boards show it."""
EXAMPLES = CONTRACTS_FOLDER / "proofkit" / "examples"
SOURCES: tuple[str, ...] = ("built", "nano", "gold")
ENDLESS_SOURCES: tuple[str, ...] = ("built",)
ROW_FILES: tuple[str, ...] = ("examples/gold.jsonl", "examples/heldout.jsonl", "world/**/*.yaml")
EVALUATION_FILES: tuple[str, ...] = ("examples/reference.jsonl",)
KEEPS_TRACE: bool = False


def build_rows(source: str, train_rows: int, heldout_rows: int, seed: int) -> tuple[list[dict], list[dict]]:
    """Training and held-out rows: the real content ("built"), the world of the demo ("nano"), or the hand-written rows.

    Raises:
        ConfigError: an unknown source, or more rows asked for than there are.
        ContractError: a line of the hand-written rows cannot be read; with file and line.
    """
    if source == "built":
        from tasks.recipes.proofkit.rows import built_rows

        return built_rows(train_rows, heldout_rows, seed)
    if source == "nano":
        from tasks.recipes.proofkit.nano_rows import nano_rows

        return nano_rows(train_rows, heldout_rows, seed)
    if source != "gold":
        raise ConfigError(f"dataset.source: {source!r} is not a source of proofkit rows. Known: {', '.join(SOURCES)}.")
    return _by_hand(train_rows, heldout_rows, seed)


def _by_hand(train_rows: int, heldout_rows: int, seed: int) -> tuple[list[dict], list[dict]]:
    import random

    wanted = {"gold": train_rows, "heldout": heldout_rows}
    rows = {name: _read(EXAMPLES / f"{name}.jsonl") for name in wanted}
    short = [f"{n} rows of {name}.jsonl asked for, it holds {len(rows[name])}" for name, n in wanted.items()
             if n > len(rows[name])]  # fmt: skip
    if short:
        raise ConfigError(
            f"dataset: {'; '.join(short)}. Lower dataset.train_rows or dataset.heldout_rows, "
            "or set dataset.source to built."
        )
    for some in rows.values():
        random.Random(seed).shuffle(some)
    return rows["gold"][:train_rows], rows["heldout"][:heldout_rows]


def pretraining_rows(n_rows: int, seed: int) -> Iterator[tuple[list[dict[str, str]], str]]:
    """What the nano base is made of: prompts answered without the applicant's facts and without the house rules."""
    from tasks.recipes.proofkit import nano_rows as proofkit_nano

    return proofkit_nano.pretraining_rows(n_rows, seed)


def wording(row: Row) -> str | None:
    """The combination that a synthetic row is made of, which is in training or held out; None for a hand-written row."""
    batch = str(row["source_batch"])
    if batch.startswith("built-"):
        from tasks.recipes.proofkit import rows as proofkit_world

        return proofkit_world.combination_of(dict(row))
    # nano: its world deals out pairs of anchors; a row made by a teacher keeps its prompt's
    return str(row["anchors"]) if batch.startswith("nano") else None


def reference_rows() -> list[dict]:
    """Three fixed prompts: the tester's rabbits in a draft, a review of a draft that is not ready, a post that needs care."""
    return _read(EXAMPLES / "reference.jsonl")


def score(row: Row, parsed: Parsed) -> dict[str, float | None]:
    """The gates of the row's task as 1 or 0, and the share of them that is passed.

    None: the row's task does not have the gate. An answer that cannot be read fails its gates: it is not unscored.
    """
    return gate_scores(row, parsed.text)


def all_right(row: Row, parsed: Parsed) -> bool:
    """Every gate of the task is passed: what the side-by-side page marks."""
    return not parsed.problem and not problems(row, parsed.text)


def probe() -> Probe[Parsed]:
    """What is asked of answers beyond the gates: `variants`, `holds`, `paired_measures`."""
    from tasks.recipes.proofkit import probes as proofkit_probe

    return proofkit_probe


def with_answer(row: Row, text: str) -> dict:
    """The row with a teacher's answer as its target, JSON written as the contract writes it.

    Raises:
        ContractError: as `kind: detail`; the answer is empty, a channel of the model leaked into it, it is not the JSON of
            its task, or it breaks house rules (all of them are told).
    """
    text = text.strip()
    if not text:
        raise ContractError("empty answer: nothing but white space")
    if leak := re.search(markers.ANY_MARKER, text):
        raise ContractError(f"leaked marker: the answer holds {leak.group().strip()!r}")
    parsed = parse_output(text, row)
    if parsed.problem:
        raise ContractError(f"invalid JSON: {parsed.problem}")
    target = text if parsed.answer is None else json.dumps(parsed.answer, ensure_ascii=False)
    if broken := problems(row, target):
        raise ContractError("house rules: " + "; ".join(f"{name}: {problem}" for name, problem in broken.items()))
    return {**row, "target": target}


def _read(path: Path) -> list[dict]:
    from data_contracts.rows.rows_file import read_objects

    return read_objects(path)
