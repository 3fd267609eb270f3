"""What a model answers to a signals row: written, taken apart, read back."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from data_contracts.signals.output import SignalError, SignalOutput
from tasks.recipes.interface import Row

FIELDS = tuple(SignalOutput.model_fields)


ERROR_FIELDS = tuple(SignalError.model_fields)


NOISE_RELEVANCE = 0.1
"""A row, or an answer, of at most this relevance is noise (data_contracts/signals/rows.py)."""


@dataclass(frozen=True)
class Parsed:
    """An answer taken apart: one trace, then the six fields or the error. With neither, `problem` says what is wrong."""

    trace: str
    fields: dict[str, Any] | None
    problem: str = ""
    error: dict[str, str] | None = None
    row: Row | None = field(default=None, compare=False, repr=False)
    """The row that was asked, where it is known: a probe must know whether its label has a direction."""

    @property
    def answer(self) -> dict[str, Any] | None:
        """Whichever object was given; None when it cannot be read."""
        return self.fields or self.error


def malformed(row: Row) -> bool:
    """The input is not one headline and one question in English: the right answer is the error."""
    return row.get("error_code") is not None


def answer_of(row: Row) -> dict[str, Any]:
    """The object that the row expects, in the schema's order."""
    return {name: row[name] for name in (ERROR_FIELDS if malformed(row) else FIELDS)}


def completion(row: Row) -> str:
    """The answer as the model must write it: one trace, then one line of JSON."""
    return f"<think>\n{row['trace']}\n</think>\n\n{json.dumps(answer_of(row), ensure_ascii=False)}"


def parse_output(text: str, row: Row | None = None) -> Parsed:
    """Read an answer back: strict, because the program behind it will be. One schema fits every row; `row` is only noted."""
    return replace(_taken_apart(text), row=row)


def _taken_apart(text: str) -> Parsed:
    trace, closed, answer = text.strip().partition("</think>")
    trace = trace.strip().removeprefix("<think>").strip()
    if not closed:
        return Parsed("", None, "no closing </think>")
    if "</think>" in answer or "<think>" in trace:
        return Parsed(trace, None, "more than one trace")
    answer = answer.strip()
    schema: type[SignalError] | type[SignalOutput] = SignalError if re.match(r'\{\s*"error_', answer) else SignalOutput
    try:
        found = schema.model_validate_json(answer).model_dump()
    except ValidationError as error:
        first = error.errors()[0]
        return Parsed(trace, None, f"{'.'.join(map(str, first['loc'])) or 'answer'}: {first['msg']}")
    return Parsed(trace, None, error=found) if schema is SignalError else Parsed(trace, found)


def with_thoughts(text: str, thoughts: str = "") -> str:
    """An answer whose thoughts came apart from it, or that was given without any, as one text that `parse_output` reads.

    A text that holds its trace itself is left as it is.
    """
    return text if "</think>" in text else f"<think>\n{thoughts}\n</think>\n\n{text.strip()}"


def reads_back(row: Row) -> bool:
    """The answer that the row expects is read as the row has it."""
    parsed = parse_output(completion(row))
    return parsed.answer == answer_of(row) and parsed.trace == str(row["trace"]).strip()
