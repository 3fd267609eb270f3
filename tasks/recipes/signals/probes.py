"""What answers say about each other: how magnitudes are scaled, whether length stands for relevance, and what a change of
the input does to the answer (metamorphic checks: the right answer need not be known, only how it must change).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from data_contracts.prompting import markers
from data_contracts.signals.metamorphic import Variant, load_variants
from tasks.recipes.interface import Pairs, Row, Trace
from tasks.recipes.signals import nano_rows as signals_world
from tasks.recipes.signals.answers import NOISE_RELEVANCE, Parsed, malformed, parse_output

NUMBERS = ("relevance", "direction", "magnitude", "source_credibility", "novelty")
TOLERANCE = {
    # Another question about the same event: its update may differ by half a moderate one (prompt.md: 0.1 is moderate).
    "negated_question": 0.05,
    # The nano world is a closed table, each of whose subjects is trained alike: "nothing may change" is meant literally.
    "swapped_subject": 0.0,
    # Another name or date is other tokens, and may tip a number. The hand-written labels grade in steps of 0.05 (of their
    # relevances, directions, credibilities and novelties 82 % are multiples of it): less than a step says the same.
    "swapped_names": 0.04,
    "moved_date": 0.04,
    # Not one word is another: what changes then is an effect of order alone, and no size of it is harmless.
    "reordered_context": 0.0,
}
"""Kind of change -> largest difference of a number of the answer; for a negated question, of its magnitude."""


def paired_measures(rows: Sequence[Row], parsed: Sequence[Parsed]) -> dict[str, tuple[str, Pairs]]:
    """Name of a measure -> (statistic of tasks/measures/bootstrap.py, the pairs it is taken over).

    The slope of predicted on true magnitude is 1 for a calibrated model; the story's larger models had 2 to 4.
    """
    read = [(row, one, one.fields) for row, one in zip(rows, parsed, strict=True) if one.fields]
    moved = [(row, fields) for row, _, fields in read if not malformed(row) and row["relevance"] > NOISE_RELEVANCE]
    return {
        "magnitude_calibration_slope": (
            "slope_through_origin",
            [(float(row["magnitude"]), float(fields["magnitude"])) for row, fields in moved],
        ),
        "trace_length_relevance_rank_correlation": (
            "rank_correlation",
            [(float(len(one.trace)), float(fields["relevance"])) for _, one, fields in read],
        ),
    }


def traces(answers: Sequence[str], rows: Sequence[Row]) -> list[Trace]:
    """The reasoning of each answer to its row. A chat template may open the trace itself: then the answer only closes it."""
    import polars as pl

    from data_contracts.audit.consistency import agreement
    from data_contracts.signals.conclusions import concluded

    fields = [parse_output(text, row).fields or {} for text, row in zip(answers, rows, strict=True)]
    shown = [_shown(text) for text in answers]
    told = concluded(pl.Series([text for text, _, _ in shown], dtype=pl.String))
    signs = [_sign(one["direction"]) if one else None for one in fields]
    agrees = agreement(told, signs, [one.get("magnitude") for one in fields])
    follows = [one and _one_story(answer) for one, answer in zip(agrees, fields, strict=True)]
    return [Trace(*one, agreed) for one, agreed in zip(shown, follows, strict=True)]


def _one_story(fields: Row) -> bool:
    """The answer calls the headline noise in every field or in none, as rows must (data_contracts/signals/rows.py): one that
    is unrelated and moves YES follows from no reasoning."""
    noise = fields["relevance"] <= NOISE_RELEVANCE
    return noise == (fields["information_type"] == "unrelated") and not (noise and fields["direction"])


def _shown(answer: str) -> tuple[str, bool, bool]:
    """(what stands before the JSON as far as it went, whether a tag opens or closes it, whether it is one whole trace)"""
    answer = answer.strip()
    before, closed, rest = answer.removeprefix("<think>").partition("</think>")
    begun = bool(closed) or answer.startswith("<think>")
    text = before.strip() if begun or not answer.startswith("{") else ""
    again = re.search(markers.THINK_TAGS, f"{before}{rest}")
    return text, begun, bool(closed and text and not again)


def variants(row: Row) -> dict[str, Row]:
    """The same row with its input changed in one way and the answer with it, by the name of the way.

    Its trace is left as it was. A row of the nano world is changed by its grammar, a hand-written one as
    data_contracts/signals/examples/metamorphic.jsonl says. Empty for a row that neither knows. The nano world has no
    names to swap, and its rows no further lines to reorder: with lines its base no longer learned to compare (measured).

    Raises:
        ContractError: the file of variants is wrong, with every problem in it.
    """
    if str(row["source_batch"]).startswith("nano"):
        changes = {} if malformed(row) else _CHANGES
        return {kind: {**row, **change(row)} for kind, change in changes.items()}
    written = _written().get((str(row["headline"]), str(row["question"])), [])
    return {one.kind: _changed(row, one) for one in written}


def holds(kind: str, before: Parsed, after: Parsed) -> bool:
    """Whether the answer changed as it must: a negated question turns the sign and keeps the magnitude, any other change
    alters nothing beyond TOLERANCE. An error stays the same error; an answer that cannot be read holds nothing. Nor does an
    answer without a direction to a negated question, unless its row's label has none: 0 has no sign that could turn."""
    if before.error and after.error:
        return kind != "negated_question" and before.error["error_code"] == after.error["error_code"]
    if before.fields is None or after.fields is None:
        return False
    one, other = before.fields, after.fields
    allowed = {"magnitude"} if kind == "negated_question" else NUMBERS
    far = [name for name in allowed if round(abs(one[name] - other[name]), 6) > TOLERANCE[kind]]
    turned = -1 if kind == "negated_question" else 1
    if far or _sign(one["direction"]) != turned * _sign(other["direction"]):
        return False
    if kind == "negated_question" and not other["direction"]:
        return after.row is not None and after.row["direction"] == 0
    return kind == "negated_question" or _view(one) == _view(other)


def _view(fields: Row) -> tuple[bool, object]:
    """What no tolerance covers: whether the headline is noise, and the kind of information."""
    return float(str(fields["relevance"])) <= NOISE_RELEVANCE, fields["information_type"]


@cache
def _written() -> dict[tuple[str, str], list[Variant]]:
    """The hand-written variants of each row, by its headline and question."""
    found: dict[tuple[str, str], list[Variant]] = {}
    for one in load_variants():
        found.setdefault(one.row, []).append(one)
    return found


def _changed(row: Row, one: Variant) -> Row:
    turned = {"direction": _turned(row)} if one.kind == "negated_question" else {}
    lines = {"context": one.changed["context"]} if one.changed["context"] is not None else {}
    return {**row, "headline": one.changed["headline"], "question": one.changed["question"], **lines, **turned}


def _turned(row: Row) -> float:
    return 0.0 - float(str(row["direction"]))  # not -direction: noise keeps 0.0, which is not written as -0.0


def _negated(row: Row) -> dict[str, Any]:
    subject, form, month = _wording(row)
    forms = list(signals_world.QUESTION_FORMS)
    opposite = forms[(forms.index(form) + len(forms) // 2) % len(forms)]
    return {"question": opposite.format(subject=subject, month=month), "direction": _turned(row)}


def _another_subject(row: Row) -> dict[str, Any]:
    subject, form, month = _wording(row)
    subjects = signals_world.SUBJECTS
    other = subjects[(subjects.index(subject) + 1) % len(subjects)]
    return {
        "headline": str(row["headline"]).replace(f" {subject} ", f" {other} "),
        "question": form.format(subject=other, month=month),
    }


def _another_month(row: Row) -> dict[str, Any]:
    subject, form, month = _wording(row)
    months = signals_world.MONTHS
    return {"question": form.format(subject=subject, month=months[(months.index(month) + 1) % len(months)])}


def _wording(row: Row) -> tuple[str, str, str]:
    subject, _, form = signals_world.combination_of(dict(row)).split("|")
    return subject, form, next(month for month in signals_world.MONTHS if month in str(row["question"]))


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


_CHANGES: dict[str, Callable[[Row], dict[str, Any]]] = {
    "negated_question": _negated,
    "swapped_subject": _another_subject,
    "moved_date": _another_month,
}
