"""Verdicts: what every check in Plumbline returns, whether it looks at rows, weights or a published file."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict


class Verdict(StrEnum):
    """Three outcomes (DESIGN rule 2): too little data is *cannot tell*, never *pass*."""

    PASS = "pass"
    FAIL = "fail"
    CANNOT_TELL = "cannot tell"


Comparison = Literal["==", "<=", ">=", "<", ">", "in"]
"""How a measurement must stand to its limit."""


class Check(BaseModel):
    """One thing that was measured, beside what it should have been."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """What was checked, in words that a reader of the report understands without the code."""
    measured: float | int | str | bool | None
    """What was found; None when it could not be measured."""
    comparison: Literal["==", "<=", ">=", "<", ">", "in", "report"]
    """How `measured` must stand to `threshold`; "report" is a number shown without a limit."""
    threshold: float | int | str | bool | None = None
    verdict: Verdict
    unit: str = ""
    detail: str = ""
    """Counts and the worst offender, so that a failure can be acted on without a rerun."""
    fix: str = ""
    """What to do when it fails."""

    def sentence(self) -> str:
        """`name: measured (expected <= threshold unit). detail. fix`"""
        found = "not measured" if self.measured is None else f"{_short(self.measured)}{self.unit and ' ' + self.unit}"
        limit = "" if self.comparison == "report" else f" (expected {self.comparison} {_short(self.threshold)})"
        tail = "".join(f" {part.rstrip('.')}." for part in (self.detail, self.fix) if part)
        return f"{self.name}: {found}{limit}.{tail}"


def check(
    name: str,
    measured: float | int | str | bool | None,
    comparison: Comparison,
    threshold: float | int | str | bool,
    *,
    unit: str = "",
    detail: str = "",
    fix: str = "",
    enough: bool = True,
) -> Check:
    """Compare a measurement with its limit. None, NaN or `enough=False` (too little data) is *cannot tell*."""
    if measured is None or measured != measured or not enough:
        verdict = Verdict.CANNOT_TELL
    else:
        holds: bool = {
            "==": lambda a, b: a == b,
            "<=": lambda a, b: a <= b,
            ">=": lambda a, b: a >= b,
            "<": lambda a, b: a < b,
            ">": lambda a, b: a > b,
            "in": lambda a, b: str(a) in [part.strip() for part in str(b).split(",")],
        }[comparison](measured, threshold)
        verdict = Verdict.PASS if holds else Verdict.FAIL
    if measured is not None and measured != measured:
        measured = None  # NaN has no place in JSON
    return Check(
        name=name,
        measured=measured,
        comparison=comparison,
        threshold=threshold,
        verdict=verdict,
        unit=unit,
        detail=detail,
        fix=fix,
    )


def report(name: str, measured: float | int | str | bool | None, *, unit: str = "", detail: str = "") -> Check:
    """A number that readers want and that has no limit."""
    verdict = Verdict.CANNOT_TELL if measured is None else Verdict.PASS
    return Check(name=name, measured=measured, comparison="report", verdict=verdict, unit=unit, detail=detail)


def failures(checks: Iterable[Check]) -> list[Check]:
    """The checks that did not pass, *cannot tell* included: nothing unproven moves on."""
    return [one for one in checks if one.verdict is not Verdict.PASS]


def overall(checks: Iterable[Check]) -> Verdict:
    """Fail outweighs cannot tell, which outweighs pass; no checks at all is *cannot tell*."""
    verdicts = {one.verdict for one in checks}
    for worst in (Verdict.FAIL, Verdict.CANNOT_TELL, Verdict.PASS):
        if worst in verdicts:
            return worst
    return Verdict.CANNOT_TELL


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
