"""A leaderboard as a picture: one bar a model, whose parts make its score, with each judge's own number as a dot beside it.

    draw_chart(path, bars, judges=[...], title=...)      any board: the bars say what they are made of
    draw_board(board, path)                              the board of a panel, as judgement.json holds it

A bar without a number says "cannot tell". A yardstick is hatched, a floor pale: neither competes. Nothing here measures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tasks.judging.panel import FLOOR, GATE_SHARE, JUDGE_SHARE, YARDSTICK

_INK, _SOFT, _RULE, _PAPER = "#1d1f21", "#6b6d6f", "#dcd8cc", "#fbfaf6"
_PARTS = ("#2f5d7c", "#8a6417", "#1d6b45", "#7d5600")
"""Colours of the parts of a bar, as on the release's page."""
_MARKERS = "osD^vP*X"
_BAR_INCHES, _WIDTH_INCHES, _DPI = 0.42, 9.0, 160
_MODEL_CHARS = 34


@dataclass(frozen=True)
class ChartBar:
    """One model on the chart."""

    model: str
    parts: Mapping[str, float] = field(default_factory=dict)
    """Name of a part -> points of 100; they add up to the score. Empty: cannot tell."""
    interval: tuple[float, float] | None = None
    """Ends of the score's interval, in points."""
    dots: Mapping[str, float | None] = field(default_factory=dict)
    """Judge -> its own number for the model, in points; None is left out."""
    role: str = ""
    """"yardstick" or "floor" where it does not compete."""
    note: str = ""
    """Shown in place of a bar that cannot be told."""


def draw_board(board: Mapping, path: Path) -> None:
    """The board of a panel: the judges' part and the gates' part of each final score, each judge's column as dots."""
    judges = [one["name"] for one in board["judges"]]
    bars = [_bar(row, judges, board) for row in board["rows"]]
    gated = any(row["gate_pass_rate"] is not None for row in board["rows"])
    title = (
        f"Final score over {board['prompts']:,} prompts"
        if gated
        else f"Judges' score over {board['prompts']:,} prompts"
    )
    draw_chart(path, bars, judges=judges, title=title)


def _bar(row: Mapping, judges: Sequence[str], board: Mapping) -> ChartBar:
    final, alone, gates = row["final"], row["judges_alone"], row["gate_pass_rate"]
    dots = {name: row["columns"][name]["value"] for name in judges}
    shared = {"model": row["model"], "dots": dots, "role": row["role"]}
    if alone is not None:
        return ChartBar(parts={"judges": alone}, note="no gates", **shared)
    if final["value"] is None:
        told = {} if gates is None else {"gates": 100 * GATE_SHARE * gates}
        return ChartBar(parts=told, note=f"cannot tell: {row['why_no_rank']}", **shared)
    gate_points = 100 * GATE_SHARE * gates
    parts = {"judges": final["value"] - gate_points, "gates": gate_points}
    ends = None if final["low"] is None else (final["low"], final["high"])
    return ChartBar(parts=parts, interval=ends, **shared)


def draw_chart(path: Path, bars: Sequence[ChartBar], *, judges: Sequence[str] = (), title: str = "") -> None:
    """Draw the bars, the first on top, and write a PNG.

    Raises:
        ValueError: there is no bar; a chart of nothing says nothing.
    """
    if not bars:
        raise ValueError("a chart needs a bar")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(
        figsize=(_WIDTH_INCHES, 1.5 + _BAR_INCHES * len(bars)), dpi=_DPI, facecolor=_PAPER, layout="constrained"
    )
    axes = figure.add_subplot(facecolor=_PAPER)
    names = list(dict.fromkeys(part for bar in bars for part in bar.parts))
    for place, bar in enumerate(bars):
        _draw_bar(axes, place, bar, names)
        _draw_dots(axes, place, bar, judges)
    _finish(axes, bars, names, judges, title)
    figure.savefig(path, format="png", metadata={"Software": None})  # no version in it: the same board, the same bytes


def _draw_bar(axes, place: int, bar: ChartBar, names: Sequence[str]) -> None:
    axes.barh(place, 100, height=0.62, color="#f3f1ea", zorder=0)
    left = 0.0
    for number, name in enumerate(names):
        if (points := bar.parts.get(name)) is None:
            continue
        pale = 0.45 if bar.role == FLOOR or bar.note.startswith("cannot tell") else 1.0
        hatch = "////" if bar.role == YARDSTICK else None
        colour = _PARTS[number % len(_PARTS)]
        axes.barh(
            place,
            points,
            left=left,
            height=0.62,
            color=colour,
            alpha=pale,
            hatch=hatch,
            edgecolor=_PAPER,
            linewidth=0.6,
            zorder=2,
        )
        left += points
    if bar.interval:
        axes.plot(bar.interval, (place, place), color=_PAPER, linewidth=3.4, zorder=3, solid_capstyle="butt")
        axes.plot(bar.interval, (place, place), color=_INK, linewidth=1.3, zorder=4, solid_capstyle="butt")
    shown = f"{left:.1f}" if bar.parts and not bar.note.startswith("cannot tell") else "cannot tell"
    axes.text(
        101.5,
        place,
        shown,
        va="center",
        ha="left",
        fontsize=9.5,
        color=_INK if bar.parts else _SOFT,
        fontweight="bold" if shown[0].isdigit() else "normal",
    )
    if bar.note and shown == "cannot tell":
        axes.text(
            left + 1,
            place,
            bar.note.partition(": ")[2][:70],
            va="center",
            ha="left",
            fontsize=7.5,
            color=_SOFT,
            zorder=5,
        )


def _draw_dots(axes, place: int, bar: ChartBar, judges: Sequence[str]) -> None:
    for number, judge in enumerate(judges):
        if (value := bar.dots.get(judge)) is not None:
            axes.plot(
                value,
                place + 0.2,
                _MARKERS[number % len(_MARKERS)],
                markersize=4.6,
                color=_PAPER,
                markeredgecolor=_INK,
                markeredgewidth=0.9,
                zorder=6,
            )


def _finish(axes, bars: Sequence[ChartBar], names: Sequence[str], judges: Sequence[str], title: str) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    labels = [f"{_short(bar.model)}{f'  ({bar.role})' if bar.role in (YARDSTICK, FLOOR) else ''}" for bar in bars]
    axes.set_yticks(range(len(bars)), labels, fontsize=9.5, color=_INK, parse_math=False)
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlim(0, 112)
    axes.set_xticks(range(0, 101, 20))
    axes.tick_params(axis="both", length=0, labelcolor=_INK)
    axes.tick_params(axis="x", labelsize=8, labelcolor=_SOFT)
    axes.grid(axis="x", color=_RULE, linewidth=0.6, zorder=1)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_title(title, loc="left", fontsize=13, family="serif", color=_INK, pad=26, parse_math=False)
    keys: list[Patch | Line2D] = [
        Patch(color=_PARTS[n % len(_PARTS)], label=_part_label(name)) for n, name in enumerate(names)
    ]
    keys += [
        Line2D(
            [],
            [],
            marker=_MARKERS[n % len(_MARKERS)],
            linestyle="",
            markersize=5,
            color=_PAPER,
            markeredgecolor=_INK,
            label=_short(judge),
        )
        for n, judge in enumerate(judges)
    ]
    if keys:
        legend = axes.legend(
            handles=keys,
            loc="lower left",
            bbox_to_anchor=(0, 1.0),
            ncols=min(len(keys), 6),
            frameon=False,
            fontsize=8,
            handlelength=1.1,
            columnspacing=1.4,
            borderaxespad=0.2,
        )
        for text in legend.get_texts():
            text.set_parse_math(False)


def _part_label(name: str) -> str:
    weights = {"judges": JUDGE_SHARE, "gates": GATE_SHARE}
    return f"{name} ({weights[name]:.0%})" if name in weights else name


def _short(text: str) -> str:
    return text if len(text) <= _MODEL_CHARS else f"{text[: _MODEL_CHARS - 1]}…"
