"""Numbers, digests and verdicts as people read them; one wording for the page, the card and the tables."""

from __future__ import annotations

from data_contracts.verdict import Check, Verdict
from tasks.reports.data import Score

MARKS = {Verdict.PASS: "✓", Verdict.FAIL: "✗", Verdict.CANNOT_TELL: "?"}
"""A sign beside each verdict, so that colour is never the only difference."""
_SIGNS = {"==": "=", "<=": "≤", ">=": "≥", "<": "<", ">": ">", "in": "one of"}


def number(value: float | int | str | bool | None) -> str:
    """A measurement as text: six digits for a float, thousands apart for an integer."""
    if value is None:
        return "not measured"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else value


def measured(one: Check) -> str:
    """What a check found, with its unit."""
    unit = f" {one.unit}" if one.unit and one.measured is not None else ""
    return number(one.measured) + unit


def limit(one: Check) -> str:
    """What a check demands; empty for a number without a limit."""
    if one.comparison == "report":
        return ""
    return f"{_SIGNS[one.comparison]} {number(one.threshold)}{one.unit and ' ' + one.unit}"


def outcome(one: Check) -> str:
    """pass, fail or cannot tell; "reported" for a number without a limit."""
    return "reported" if one.comparison == "report" and one.verdict is Verdict.PASS else one.verdict.value


def percent(value: float | None) -> str:
    """A share of rows; an unscored one is "cannot tell", never 0."""
    return "cannot tell" if value is None else f"{value * 100:.1f} %"


def interval(score: Score) -> str:
    """The confidence interval, empty when there is none."""
    if score.low is None or score.high is None:
        return ""
    return f"{score.low * 100:.1f} to {score.high * 100:.1f} %"


def size(size_bytes: float | None) -> str:
    """Bytes in decimal units, as shops and the Hub count them."""
    if size_bytes is None:
        return "–"
    value, units = float(size_bytes), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.3g} {units[0]}"


def duration(seconds: float) -> str:
    """Seconds below a minute and a half, else minutes, else hours."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"


def plain(value: float | None, digits: int = 2) -> str:
    """A number that may be missing."""
    return "–" if value is None else f"{value:,.{digits}f}"


def short(digest: str | None) -> str:
    """The first 12 digits of a digest: enough to compare by eye."""
    return "–" if not digest else digest.removeprefix("sha256:")[:12]


def label(name: str) -> str:
    """A metric's name as words; its unit is plain from the number beside it."""
    return name.removesuffix("_fraction").replace("_", " ")
