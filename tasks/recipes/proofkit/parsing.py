"""What a model answers to a proofkit row, taken apart."""

from __future__ import annotations

import json
from dataclasses import dataclass

from data_contracts.proofkit.house_rules import read_json
from data_contracts.proofkit.output import SCHEMAS
from tasks.recipes.interface import Row


@dataclass(frozen=True)
class Parsed:
    """An answer read back. `answer` is its JSON object where the task has one; `problem` says why it cannot be read."""

    text: str
    row: Row
    """The row that was asked, whose anchors and company the answer is held to."""
    answer: dict | None = None
    problem: str = ""


def completion(row: Row) -> str:
    """The answer as the model must write it."""
    return str(row["target"])


def parse_output(text: str, row: Row) -> Parsed:
    """Read an answer back: JSON strictly, since the program behind it will be strict; text as it stands."""
    text = text.strip()
    if not text:
        return Parsed(text, row, problem="the answer is empty")
    if row["task"] not in SCHEMAS:
        return Parsed(text, row)
    found = read_json(str(row["task"]), text)
    return Parsed(text, row, problem=found) if isinstance(found, str) else Parsed(text, row, found.model_dump())


def reads_back(row: Row) -> bool:
    """The answer that the row expects is read as the row has it, to the byte."""
    parsed = parse_output(completion(row), row)
    again = parsed.text if parsed.answer is None else json.dumps(parsed.answer, ensure_ascii=False)
    return not parsed.problem and again == row["target"]
