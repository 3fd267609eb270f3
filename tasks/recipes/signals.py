"""The signals recipe: headline + prediction-market question -> thinking trace -> six-field JSON.

Its crux: direction is about YES, never about which way the metric in the headline moves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType

from pydantic import ValidationError

from data_contracts import markers
from data_contracts.context import LINE
from data_contracts.prompt import CONTRACTS_FOLDER, PromptContract
from data_contracts.signals.output import SignalError, SignalOutput
from tasks.core.errors import ConfigError, ContractError

FIELDS = tuple(SignalOutput.model_fields)
ERROR_FIELDS = tuple(SignalError.model_fields)
METRICS = (
    "valid_json_fraction", "sign_accuracy_fraction", "disagreeing_sign_accuracy_fraction",
    "noise_false_positive_fraction", "magnitude_error", "information_type_accuracy_fraction", "error_schema_fraction",
    "error_code_accuracy_fraction", "refused_good_input_fraction",
)  # fmt: skip
"""What `score` measures on a row, in the order in which boards show it."""
KEEPS_TRACE = True
"""A model's thinking trace is part of the answer (tasks/recipes/__init__.py)."""
LABEL_TOLERANCE = {
    "relevance": 0.2, "direction": 0.3, "magnitude": 0.15, "source_credibility": 0.3, "novelty": 0.3,
}  # fmt: skip
"""How far a teacher's number may lie from the row's label. 0.15 is half the way from a moderate update (0.1) to near-resolving
evidence (0.4); the others are half of what separates two neighbouring strengths in prompt.md and output.py, or less."""
NOISE_RELEVANCE = 0.1
"""A row, or an answer, of at most this relevance is noise (data_contracts/signals/rows.py)."""


@dataclass(frozen=True)
class Parsed:
    """An answer taken apart: one trace, then the six fields or the error. With neither, `problem` says what is wrong."""

    trace: str
    fields: dict[str, float | str] | None
    problem: str = ""
    error: dict[str, str] | None = None
    row: Mapping[str, object] | None = field(default=None, compare=False, repr=False)
    """The row that was asked, where it is known: a probe must know whether its label has a direction."""

    @property
    def answer(self) -> dict[str, float | str] | None:
        """Whichever object was given; None when it cannot be read."""
        return self.fields or self.error


def build_rows(source: str, train_rows: int, heldout_rows: int, seed: int) -> tuple[list[dict], list[dict]]:
    """Training and held-out rows from the synthetic world ("nano") or from the hand-written examples ("gold").

    Raises:
        ConfigError: an unknown source, or more rows asked for than there are.
        ContractError: a line of the hand-written rows cannot be read; with file and line.
    """
    if source == "nano":
        from tasks.recipes.signals_world import nano_rows

        return nano_rows(train_rows, heldout_rows, seed)
    if source != "gold":
        raise ConfigError(f"dataset.source: {source!r} is not a source of signals rows. Known: nano, gold.")
    splits = {"gold": train_rows, "heldout": heldout_rows}
    rows = {name: _read(CONTRACTS_FOLDER / "signals" / "examples" / f"{name}.jsonl") for name in splits}
    if short := [
        f"{n} rows of {name}.jsonl asked for, it holds {len(rows[name])}"
        for name, n in splits.items()
        if n > len(rows[name])
    ]:
        raise ConfigError(f"dataset: {'; '.join(short)}. Lower train_rows or heldout_rows, or add examples.")
    import random

    for some in rows.values():
        random.Random(seed).shuffle(some)
    return rows["gold"][:train_rows], rows["heldout"][:heldout_rows]


def pretraining_rows(n_rows: int, seed: int) -> Iterator[tuple[list[dict[str, str]], str]]:
    """What the nano base is made of: half of it reads direction as "which way the metric went", the story's bug."""
    from tasks.recipes import signals_world

    return signals_world.pretraining_rows(n_rows, seed)


def wording(row: Mapping[str, object]) -> str | None:
    """The combination of wordings that a row of the synthetic world is made of; None for a hand-written row."""
    if not str(row["source_batch"]).startswith("nano"):
        return None
    from tasks.recipes.signals_world import combination_of

    return combination_of(row)


def reference_rows() -> list[dict]:
    """The story's three fixed validation examples: high signal, pure noise, ambiguous weak signal."""
    return _read(CONTRACTS_FOLDER / "signals" / "examples" / "reference.jsonl")


def malformed(row: Mapping[str, object]) -> bool:
    """The input is not one headline and one question in English: the right answer is the error."""
    return row.get("error_code") is not None


def answer_of(row: Mapping[str, object]) -> dict[str, float | str]:
    """The object that the row expects, in the schema's order."""
    return {name: row[name] for name in (ERROR_FIELDS if malformed(row) else FIELDS)}


def completion(row: Mapping[str, object]) -> str:
    """The answer as the model must write it: one trace, then one line of JSON."""
    return f"<think>\n{row['trace']}\n</think>\n\n{json.dumps(answer_of(row), ensure_ascii=False)}"


def parse_output(text: str, row: Mapping[str, object] | None = None) -> Parsed:
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
    schema = SignalError if re.match(r'\{\s*"error_', answer) else SignalOutput
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


def reads_back(row: Mapping[str, object]) -> bool:
    """The answer that the row expects is read as the row has it."""
    parsed = parse_output(completion(row))
    return parsed.answer == answer_of(row) and parsed.trace == str(row["trace"]).strip()


def disagrees(row: Mapping[str, object]) -> bool:
    """The metric and YES move in opposite ways: the rows on which every model of the story got the sign wrong."""
    return not malformed(row) and _sign(row["direction"]) * _sign(row["metric_direction"]) < 0


def score(row: Mapping[str, object], parsed: Parsed) -> dict[str, float | None]:
    """Per-row numbers; None where the row, or an unreadable answer, says nothing about the metric.

    A sign that cannot be read is wrong, not missing: a model must not gain by answering garbage on hard rows.
    """
    if malformed(row):
        return {**dict.fromkeys(METRICS), **_score_malformed(row, parsed)}
    got = parsed.fields
    noise = row["relevance"] <= NOISE_RELEVANCE
    sign_right = float(got is not None and _sign(got["direction"]) == _sign(row["direction"]))
    called_noise = got is not None and got["relevance"] <= NOISE_RELEVANCE
    return {
        "valid_json_fraction": float(parsed.answer is not None),
        "sign_accuracy_fraction": None if noise else sign_right,
        "disagreeing_sign_accuracy_fraction": sign_right if disagrees(row) else None,
        "noise_false_positive_fraction": float(not called_noise) if noise else None,
        "magnitude_error": None if got is None or noise else abs(got["magnitude"] - row["magnitude"]),
        "information_type_accuracy_fraction": float(
            got is not None and got["information_type"] == row["information_type"]
        ),
        "error_schema_fraction": None,
        "error_code_accuracy_fraction": None,
        "refused_good_input_fraction": float(parsed.error is not None),
    }


def _score_malformed(row: Mapping[str, object], parsed: Parsed) -> dict[str, float]:
    return {
        "valid_json_fraction": float(parsed.answer is not None),
        "error_schema_fraction": float(parsed.error is not None),
        "error_code_accuracy_fraction": float((parsed.error or {}).get("error_code") == row["error_code"]),
    }


def probe() -> ModuleType:
    """What is asked of answers beyond being right: `variants`, `holds`, `paired_measures`."""
    from tasks.recipes import signals_probe

    return signals_probe


def all_right(row: Mapping[str, object], parsed: Parsed) -> bool:
    """The answer is readable, with the right sign and the right view of noise: what the side-by-side page marks."""
    numbers = score(row, parsed)
    wanted = ("valid_json_fraction", "sign_accuracy_fraction", "error_code_accuracy_fraction")
    return all(numbers[name] in (None, 1.0) for name in wanted) and not numbers["noise_false_positive_fraction"]


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _read(path: Path) -> list[dict]:
    from data_contracts.rows_file import read_objects

    return read_objects(path)


def with_answer(row: Mapping[str, object], text: str) -> dict:
    """The row with a teacher's trace and fields in place of its own.

    Raises:
        ContractError: as `kind: detail`; the answer cannot be read, or says something else than the row's label.
    """
    parsed = parse_output(text)
    if parsed.answer is None:
        raise ContractError(f"unreadable: {parsed.problem}")
    if told := _disagreement(row, parsed):
        raise ContractError(f"disagrees with the label: {told}")
    empty = dict.fromkeys((name for name in (*FIELDS, *ERROR_FIELDS) if name in row), None)
    return {**row, **empty, "trace": parsed.trace, **parsed.answer}


def _disagreement(row: Mapping[str, object], parsed: Parsed) -> str:
    """What the answer says and the label does not; empty when they agree within LABEL_TOLERANCE."""
    expected, found = answer_of(row), parsed.answer
    if malformed(row) or parsed.error:
        same = found.get("error_code") == expected.get("error_code")
        return "" if same else f"error_code is {found.get('error_code')}, not {expected.get('error_code')}"
    if _sign(found["direction"]) != _sign(expected["direction"]):
        return f"direction is {found['direction']:g}, not {expected['direction']:g}: another sign"
    if (found["relevance"] <= NOISE_RELEVANCE) != (expected["relevance"] <= NOISE_RELEVANCE):
        return f"relevance is {found['relevance']:g}, not {expected['relevance']:g}: noise and signal are mixed up"
    if found["information_type"] != expected["information_type"]:
        return f"information_type is {found['information_type']}, not {expected['information_type']}"
    far = [name for name, most in LABEL_TOLERANCE.items() if abs(found[name] - expected[name]) > most + 1e-9]
    return ", ".join(f"{n} is {found[n]:g}, not {expected[n]:g} (± {LABEL_TOLERANCE[n]:g})" for n in far)


def teacher_seeds() -> Path:
    """The seeds that a teacher writes traces for when a config names no file of its own."""
    return CONTRACTS_FOLDER / "signals" / "examples" / "teacher_seeds.jsonl"


def teacher_messages(seed_row: Mapping[str, object]) -> list[dict[str, str]]:
    """What a teacher is asked: headline, question, the assessment that the trace must lead to (teacher.md), and the seed's
    further lines."""
    text = (CONTRACTS_FOLDER / "signals" / "teacher.md").read_text("utf-8")
    _, system, user = re.split(r"^# (?:system|user)$", text, flags=re.MULTILINE)
    words = PromptContract(
        recipe="signals", system=system.strip(), users={"": user.strip()}, output_schema="", context=LINE
    )
    return words.messages({**seed_row, "assessment": json.dumps(answer_of(seed_row), ensure_ascii=False)})


def teacher_row(seed_row: Mapping[str, object], text: str, model: str) -> dict:
    """The row that a teacher's answer makes of a seed; prose around the trace is left out.

    Raises:
        ContractError: as `kind: detail`; there is not exactly one trace, or a channel of the model leaked into the text.
    """
    if leak := re.search(markers.ANY_MARKER, text):
        raise ContractError(f"leaked marker: the answer holds {leak.group().strip()!r}")
    traces = re.findall(r"<trace>(.*?)</trace>", text, re.DOTALL)
    if len(traces) != 1 or len(re.findall(r"</?trace>", text)) != 2:
        raise ContractError(f"no trace: {len(traces)} pairs of <trace> and </trace> in the answer, not one")
    row = {name: seed_row[name] for name in ("headline", "question")} | {"trace": traces[0].strip()}
    row |= {"context": seed_row["context"]} if seed_row.get("context") is not None else {}
    row |= {name: seed_row.get(name) for name in FIELDS}
    row |= {"source_batch": f"teacher-{model}", "metric_direction": seed_row["metric_direction"]}
    return row | ({name: seed_row[name] for name in ERROR_FIELDS} if malformed(seed_row) else {})
