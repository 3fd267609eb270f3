"""The signals recipe: headline + prediction-market question -> thinking trace -> six-field JSON.

Its crux: direction is about YES, never about which way the metric in the headline moves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from data_contracts.paths import CONTRACTS_FOLDER
from data_contracts.prompting import markers
from data_contracts.prompting.context import LINE
from data_contracts.prompting.prompt import PromptContract
from tasks.core.errors import ConfigError, ContractError
from tasks.recipes.interface import Probe, Row
from tasks.recipes.signals.answers import (
    ERROR_FIELDS,
    FIELDS,
    NOISE_RELEVANCE,
    Parsed,
    answer_of,
    completion,
    malformed,
    parse_output,
    reads_back,
    with_thoughts,
)

__all__ = [
    "ENDLESS_SOURCES",
    "ERROR_FIELDS",
    "EVALUATION_FILES",
    "FIELDS",
    "KEEPS_TRACE",
    "METRICS",
    "NOISE_RELEVANCE",
    "ROW_FILES",
    "SEED_FIELDS",
    "SOURCES",
    "Parsed",
    "all_right",
    "answer_of",
    "build_rows",
    "completion",
    "malformed",
    "parse_output",
    "pretraining_rows",
    "probe",
    "reads_back",
    "reference_rows",
    "score",
    "teacher_messages",
    "teacher_row",
    "teacher_seeds",
    "with_answer",
    "with_thoughts",
    "wording",
]
"""What a recipe offers (tasks/recipes/interface.py), and the parts of its answers."""

METRICS: tuple[str, ...] = (
    "valid_json_fraction", "sign_accuracy_fraction", "disagreeing_sign_accuracy_fraction",
    "noise_false_positive_fraction", "magnitude_error", "information_type_accuracy_fraction", "error_schema_fraction",
    "error_code_accuracy_fraction", "refused_good_input_fraction",
)  # fmt: skip
"""What `score` measures on a row, in the order in which boards show it."""
SOURCES: tuple[str, ...] = ("nano", "gold")
ENDLESS_SOURCES: tuple[str, ...] = ()
ROW_FILES: tuple[str, ...] = (
    "teacher.md",
    "examples/gold.jsonl",
    "examples/heldout.jsonl",
    "examples/teacher_seeds.jsonl",
)
EVALUATION_FILES: tuple[str, ...] = ("examples/reference.jsonl", "examples/metamorphic.jsonl", "examples/heldout.jsonl")
"""A line of metamorphic.jsonl changes a row of heldout.jsonl."""
SEED_FIELDS: tuple[str, ...] = ("headline", "question")
KEEPS_TRACE: bool = True
"""A model's thinking trace is part of the answer (tasks/recipes/interface.py)."""
LABEL_TOLERANCE = {
    "relevance": 0.2, "direction": 0.3, "magnitude": 0.15, "source_credibility": 0.3, "novelty": 0.3,
}  # fmt: skip
"""How far a teacher's number may lie from the row's label. 0.15 is half the way from a moderate update (0.1) to near-resolving
evidence (0.4); the others are half of what separates two neighbouring strengths in prompt.md and output.py, or less."""


def build_rows(source: str, train_rows: int, heldout_rows: int, seed: int) -> tuple[list[dict], list[dict]]:
    """Training and held-out rows from the synthetic world ("nano") or from the hand-written examples ("gold").

    Raises:
        ConfigError: an unknown source, or more rows asked for than there are.
        ContractError: a line of the hand-written rows cannot be read; with file and line.
    """
    if source == "nano":
        from tasks.recipes.signals.nano_rows import nano_rows

        return nano_rows(train_rows, heldout_rows, seed)
    if source != "gold":
        raise ConfigError(f"dataset.source: {source!r} is not a source of signals rows. Known: {', '.join(SOURCES)}.")
    splits = {"gold": train_rows, "heldout": heldout_rows}
    rows = {name: _read(CONTRACTS_FOLDER / "signals" / "examples" / f"{name}.jsonl") for name in splits}
    if short := [
        f"{n} rows of {name}.jsonl asked for, it holds {len(rows[name])}"
        for name, n in splits.items()
        if n > len(rows[name])
    ]:
        raise ConfigError(
            f"dataset: {'; '.join(short)}. Lower dataset.train_rows or dataset.heldout_rows, or add examples."
        )
    import random

    for some in rows.values():
        random.Random(seed).shuffle(some)
    return rows["gold"][:train_rows], rows["heldout"][:heldout_rows]


def pretraining_rows(n_rows: int, seed: int) -> Iterator[tuple[list[dict[str, str]], str]]:
    """What the nano base is made of: half of it reads direction as "which way the metric went", the story's bug."""
    from tasks.recipes.signals import nano_rows as signals_world

    return signals_world.pretraining_rows(n_rows, seed)


def wording(row: Row) -> str | None:
    """The combination of wordings that a row of the synthetic world is made of; None for a hand-written row."""
    if not str(row["source_batch"]).startswith("nano"):
        return None
    from tasks.recipes.signals.nano_rows import combination_of

    return combination_of(dict(row))


def reference_rows() -> list[dict]:
    """The story's three fixed validation examples: high signal, pure noise, ambiguous weak signal."""
    return _read(CONTRACTS_FOLDER / "signals" / "examples" / "reference.jsonl")


def disagrees(row: Row) -> bool:
    """The metric and YES move in opposite ways: the rows on which every model of the story got the sign wrong."""
    return not malformed(row) and _sign(row["direction"]) * _sign(row["metric_direction"]) < 0


def score(row: Row, parsed: Parsed) -> dict[str, float | None]:
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


def _score_malformed(row: Row, parsed: Parsed) -> dict[str, float]:
    return {
        "valid_json_fraction": float(parsed.answer is not None),
        "error_schema_fraction": float(parsed.error is not None),
        "error_code_accuracy_fraction": float((parsed.error or {}).get("error_code") == row["error_code"]),
    }


def probe() -> Probe[Parsed]:
    """What is asked of answers beyond being right: `variants`, `holds`, `paired_measures`."""
    from tasks.recipes.signals import probes as signals_probe

    return signals_probe


def all_right(row: Row, parsed: Parsed) -> bool:
    """The answer is readable, with the right sign and the right view of noise: what the side-by-side page marks."""
    numbers = score(row, parsed)
    wanted = ("valid_json_fraction", "sign_accuracy_fraction", "error_code_accuracy_fraction")
    return all(numbers[name] in (None, 1.0) for name in wanted) and not numbers["noise_false_positive_fraction"]


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _read(path: Path) -> list[dict]:
    from data_contracts.rows.rows_file import read_objects

    return read_objects(path)


def with_answer(row: Row, text: str) -> dict:
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


def _disagreement(row: Row, parsed: Parsed) -> str:
    """What the answer says and the label does not; empty when they agree within LABEL_TOLERANCE."""
    expected, found = answer_of(row), parsed.answer or {}
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


def teacher_messages(seed_row: Row) -> list[dict[str, str]]:
    """What a teacher is asked: headline, question, the assessment that the trace must lead to (teacher.md), and the seed's
    further lines."""
    text = (CONTRACTS_FOLDER / "signals" / "teacher.md").read_text("utf-8")
    _, system, user = re.split(r"^# (?:system|user)$", text, flags=re.MULTILINE)
    words = PromptContract(
        recipe="signals", system=system.strip(), users={"": user.strip()}, output_schema="", context=LINE
    )
    return words.messages({**seed_row, "assessment": json.dumps(answer_of(seed_row), ensure_ascii=False)})


def teacher_row(seed_row: Row, text: str, model: str) -> dict:
    """The row that a teacher's answer makes of a seed; prose around the trace is left out.

    Raises:
        ContractError: as `kind: detail`; there is not exactly one trace, or a channel of the model leaked into the text.
    """
    if leak := re.search(markers.ANY_MARKER, text):
        raise ContractError(f"leaked marker: the answer holds {leak.group().strip()!r}")
    traces = re.findall(r"<trace>(.*?)</trace>", text, re.DOTALL)
    if len(traces) != 1 or len(re.findall(r"</?trace>", text)) != 2:
        raise ContractError(f"no trace: {len(traces)} pairs of <trace> and </trace> in the answer, not one")
    row = {name: seed_row[name] for name in SEED_FIELDS} | {"trace": traces[0].strip()}
    row |= {"context": seed_row["context"]} if seed_row.get("context") is not None else {}
    row |= {name: seed_row.get(name) for name in FIELDS}
    row |= {"source_batch": f"teacher-{model}", "metric_direction": seed_row["metric_direction"]}
    return row | ({name: seed_row[name] for name in ERROR_FIELDS} if malformed(seed_row) else {})
