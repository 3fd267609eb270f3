"""The page of one validated file: verdict, broken rules, every check, and the distributions drawn. One HTML file without
scripts, which asks the network for nothing. All text comes from rows, and is escaped."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_contracts.limits import Limits
from data_contracts.validation.distributions import BIN_CHARS, Distributions
from data_contracts.verdict import Check, Verdict

if TYPE_CHECKING:
    from data_contracts.validation.validation import Validation

HERE = Path(__file__).resolve().parent
SHOWN_RULES = 200
SHOWN_BATCHES = 12
SHOWN_TEXT_CHARS = 600
"""Text from rows is cut here: a page has to open, whatever a file holds."""
SHOWN_NAME_CHARS = 48
STRIP_WIDTH, STRIP_HEIGHT = 620, 54
MOST_BARS = 60
NUMBER_WIDTH, NUMBER_HEIGHT = 300, 96
BAR_WIDTH = 320
CELL_WIDTH, CELL_HEIGHT = 112, 46
MARKS = {Verdict.PASS: "✓", Verdict.FAIL: "✗", Verdict.CANNOT_TELL: "?"}
_WORST_FIRST = (Verdict.FAIL, Verdict.CANNOT_TELL, Verdict.PASS)


@dataclass(frozen=True)
class Strip:
    """The histogram of one group of rows."""

    name: str
    rows: int
    path: str
    """SVG path of its bars."""
    words: str
    """What the drawing shows, for those who do not see it."""


@dataclass(frozen=True)
class Lengths:
    """Text lengths of several groups over one common axis."""

    strips: list[Strip]
    ticks: list[tuple[float, str]]
    limits: list[tuple[float, str]]
    """Where the bounds of limits.yaml stand."""
    left_out: int
    """Groups that are not drawn."""


def write_page(found: Validation) -> None:
    """Write the page to its path, aside first."""
    path = found.page_path
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(render_page(found), "utf-8")
    aside.replace(path)


def render_page(found: Validation) -> str:
    """The page as text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"cut": cut, "shown": _shown, "label": lambda name: name.replace("_", " ")}
    spread = found.distributions
    return environment.get_template("page.html.j2").render(
        found=found,
        style=(HERE / "page.css").read_text("utf-8"),
        marks=MARKS,
        counts=Counter(one.verdict.value for one in found.checks if one.comparison != "report"),
        rules=found.findings.broken[:SHOWN_RULES],
        checks=sorted(found.checks, key=lambda one: _WORST_FIRST.index(one.verdict)),
        by_class=_lengths(spread.chars_by_class, found.limits, len(spread.chars_by_class)),
        by_batch=_lengths(spread.chars_by_batch, found.limits, SHOWN_BATCHES),
        numbers=[_number(name, one) for name, one in spread.numbers.items()],
        names=[_bars(name, counts) for name, counts in spread.names.items() if any(counts.values())],
        text=found.limits.text,
        words=found.limits.words,
        moves=_moves(spread),
        size={"strip": (STRIP_WIDTH, STRIP_HEIGHT), "number": (NUMBER_WIDTH, NUMBER_HEIGHT), "bar": BAR_WIDTH,
              "cell": (CELL_WIDTH, CELL_HEIGHT)},
    )  # fmt: skip


def cut(text: object, chars: int = SHOWN_TEXT_CHARS) -> str:
    """The text, or its beginning and an ellipsis."""
    text = str(text)
    return text if len(text) <= chars else f"{text[: chars - 1]}…"


def _shown(one: Check, value: Any) -> str:
    if value is None:
        return "not measured"
    text = f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else cut(value)
    return f"{text} {one.unit}" if one.unit else text


def _lengths(groups: dict[str, Counter[int]], limits: Limits, most: int) -> Lengths | None:
    filled = [(name, counts) for name, counts in groups.items() if counts]
    if not filled:
        return None
    if len(filled) > most:
        filled = sorted(filled, key=lambda one: -one[1].total())
    bounds = limits.text_chars
    first = min(min(min(counts) for _, counts in filled), bounds[0] // BIN_CHARS)
    last = max(max(max(counts) for _, counts in filled), bounds[1] // BIN_CHARS) + 1
    merged = -(-(last - first) // MOST_BARS)  # bins to a bar, rounded up
    n_bars = -(-(last - first) // merged)

    def place(chars: float) -> float:
        return (chars / BIN_CHARS - first) / (n_bars * merged) * STRIP_WIDTH

    strips = [_strip(name, counts, first, merged, n_bars) for name, counts in filled[:most]]
    ticks = [(place(chars), f"{chars:,}") for chars in _round_steps(first * BIN_CHARS, last * BIN_CHARS)]
    marks = [(place(chars), f"limit {chars:,}") for chars in bounds]
    return Lengths(strips, ticks, marks, max(0, len(filled) - most))


def _strip(name: str, counts: Counter[int], first: int, merged: int, n_bars: int) -> Strip:
    heights = [0] * n_bars
    for index, rows in counts.items():
        heights[(index - first) // merged] += rows
    total = counts.total()
    words = (
        f"median about {_median(counts):,} characters, {min(counts) * BIN_CHARS:,} to {(max(counts) + 1) * BIN_CHARS:,}"
    )
    return Strip(cut(name, SHOWN_NAME_CHARS), total, _bars_path(heights, STRIP_WIDTH, STRIP_HEIGHT), words)


def _median(counts: Counter[int]) -> int:
    below, half = 0, counts.total() / 2
    for index in sorted(counts):
        below += counts[index]
        if below >= half:
            return index * BIN_CHARS + BIN_CHARS // 2
    return 0


def _bars_path(heights: list[int], width: int, height: int) -> str:
    """One SVG path for all bars: a rectangle element for each would make the page ten times as large."""
    top, each = max(heights) or 1, width / len(heights)
    bars = []
    for index, rows in enumerate(heights):
        if rows:
            tall = max(1.0, rows / top * height)  # one row among a million is still seen
            bars.append(f"M{index * each + 0.5:.1f} {height}v-{tall:.1f}h{each - 1:.1f}v{tall:.1f}z")
    return "".join(bars)


def _round_steps(low: int, high: int) -> list[int]:
    """Round numbers between the two, at most eight."""
    step = next(
        size * 10**power for power in range(1, 7) for size in (1, 2, 5) if (high - low) / (size * 10**power) <= 8
    )
    return list(range(-(-low // step) * step, high + 1, step))


def _number(name: str, one: Any) -> dict[str, Any]:
    total = sum(one.counts)
    ends = "no values" if one.smallest is None else f"{one.smallest:.4g} to {one.largest:.4g}"
    return {
        "name": name,
        "rows": total,
        "path": _bars_path(one.counts, NUMBER_WIDTH, NUMBER_HEIGHT),
        "low": f"{one.low:g}",
        "middle": f"{(one.low + one.high) / 2:g}",
        "high": f"{one.high:g}",
        "words": f"{ends}; fullest bin {max(one.counts) / total:.0%} of {total:,} rows" if total else ends,
    }


def _bars(name: str, counts: Counter[str]) -> dict[str, Any]:
    total, top = sum(counts.values()), max(counts.values())
    bars = [
        {"name": cut(value, SHOWN_NAME_CHARS), "rows": rows, "width": rows / top * BAR_WIDTH, "share": rows / total}
        for value, rows in counts.items()
    ]
    return {"name": name, "rows": total, "bars": bars}


def _moves(spread: Distributions) -> list[dict[str, Any]]:
    """The nine cells of metric direction against YES direction, row by row; none when nothing was counted."""
    total = sum(spread.moves.values())
    top = max(spread.moves.values(), default=0)
    return [
        {
            "metric": metric,
            "sign": sign,
            "rows": spread.moves[metric, sign],
            "share": spread.moves[metric, sign] / total,
            "width": spread.moves[metric, sign] / top,
            "apart": metric != 0 and metric == -sign,
        }
        for metric in (1, 0, -1)
        for sign in (-1, 0, 1)
        if total
    ]
