"""A comparison as a picture: a dot with its interval for each model and metric, base and ceilings as lines, ranks as bands.

Where distances were measured, a last panel shows them on a logarithmic scale: models with equal scores stand apart there.
matplotlib draws it without a display; it is imported here, late.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.reports import words
from tasks.reports.comparison_text import shown_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PAPER, _BAND, _RULE = "#fbfaf6", "#f0ede3", "#dcd8cc"
_INK, _SOFT, _BLUE, _BRASS, _RED = "#1d1f21", "#6b6d6f", "#2f5d7c", "#8a6417", "#a32a1c"
_ROW_INCHES, _PANEL_INCHES, _MARGIN_INCHES, _RIGHT_INCHES = 0.42, 2.8, 1.75, 0.8
_DPI = 150
_MAX_PANELS = 3


def draw_comparison(board: Mapping, path: Path) -> None:
    """Write comparison.png."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in board["models"] if row["role"] != "ceiling"]
    metrics = shown_metrics(board)[:_MAX_PANELS]
    far = [row for row in rows if (row["distance"] or {}).get("mean_kl_nats") is not None]
    panels = len(metrics) + bool(far)
    names = max(len(_name(row)) for row in rows)
    left = 0.75 + 0.082 * names
    width, height = left + panels * _PANEL_INCHES + _RIGHT_INCHES, _MARGIN_INCHES + _ROW_INCHES * len(rows)
    with pyplot.rc_context({"font.family": "DejaVu Sans", "font.size": 9, "axes.edgecolor": _RULE, "text.color": _INK}):
        figure, axes = pyplot.subplots(1, panels, figsize=(width, height), dpi=_DPI, squeeze=False, sharey=True)
        figure.patch.set_facecolor(_PAPER)
        figure.subplots_adjust(
            left=left / width, right=1 - _RIGHT_INCHES / width, top=1 - 1.05 / height, bottom=0.7 / height, wspace=0.32
        )
        for axis in axes[0]:
            _prepare(axis, rows)
        for axis, metric in zip(axes[0], metrics, strict=False):
            _scores(axis, board, rows, metric)
        if far:
            _distances(axes[0][-1], rows, board["distance_to"])
        _name_rows(axes[0][0], rows)
        _say_what_it_is(figure, board, len(rows), width, height)
        figure.savefig(path, facecolor=_PAPER)
        pyplot.close(figure)


def _name(row: Mapping) -> str:
    thinking = row.get("thinking")
    return row["model"] + ("" if thinking is None else f", thinking {'on' if thinking else 'off'}")


def _prepare(axis: Axes, rows: Sequence[Mapping]) -> None:
    """Paper, bands for shared ranks, no frame."""
    axis.set_facecolor(_PAPER)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.tick_params(length=0, colors=_SOFT, labelsize=8)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    ranks = list(dict.fromkeys(row["rank"] for row in rows))
    for number, row in enumerate(rows):
        if ranks.index(row["rank"]) % 2 == 0:
            axis.axhspan(number - 0.5, number + 0.5, color=_BAND, zorder=0, linewidth=0)
    axis.grid(axis="x", color=_RULE, linewidth=0.6, zorder=1)
    axis.set_axisbelow(True)


def _name_rows(axis: Axes, rows: Sequence[Mapping]) -> None:
    axis.set_yticks(range(len(rows)), [_name(row) for row in rows])
    for label, row in zip(axis.get_yticklabels(), rows, strict=True):
        label.set_color(_colour(row) if row["role"] else _INK)
        label.set_fontsize(9.5)
    axis.tick_params(axis="y", pad=26)
    for number, row in enumerate(rows):
        rank = "?" if row["rank"] is None else str(row["rank"])
        axis.annotate(
            rank, (0, number), xycoords=("axes fraction", "data"), xytext=(-13, 0), textcoords="offset points",
            ha="center", va="center", fontsize=9, color=_INK, weight="bold",
        )  # fmt: skip


def _scores(axis: Axes, board: Mapping, rows: Sequence[Mapping], metric: str) -> None:
    axis.set_title(words.label(metric), loc="left", fontsize=9.5, color=_INK, pad=20)
    axis.set_xlim(-0.04, 1.04)
    axis.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25", "50", "75", "100 %"])
    _lines(axis, board, metric)
    for number, row in enumerate(rows):
        score = row["scores"].get(metric)
        if score is None or score["value"] is None:
            axis.text(0.5, number, "cannot tell", ha="center", va="center", fontsize=8, color=_SOFT, style="italic")
            continue
        axis.plot(
            [score["low"], score["high"]], [number, number], color=_colour(row), linewidth=2.2, alpha=0.45, zorder=3
        )
        axis.scatter(score["value"], number, s=46, zorder=4, marker=_marker(row), linewidths=1.4, **_fill(row))
        _beside(axis, number, f"{score['value'] * 100:.1f}", _colour(row))


def _lines(axis: Axes, board: Mapping, metric: str) -> None:
    """Base and ceilings, named above the panel; names at one place are put together."""
    named: dict[float, list[str]] = {}
    for row in board["models"]:
        score = row["scores"].get(metric)
        if row["role"] in ("base", "ceiling") and score and score["value"] is not None:
            ceiling = row["role"] == "ceiling"
            axis.axvline(
                score["value"],
                color=_BRASS if ceiling else _SOFT,
                linewidth=1.1,
                zorder=2,
                linestyle="--" if ceiling else ":",
            )
            named.setdefault(round(score["value"], 2), []).append(row["model"])
    for value, names in named.items():
        axis.annotate(
            ", ".join(names), (value, 1), xycoords=("data", "axes fraction"), xytext=(0, 4), textcoords="offset points",
            ha="right" if value > 0.8 else "left" if value < 0.2 else "center", va="bottom", fontsize=7.5, color=_SOFT,
        )  # fmt: skip


def _distances(axis: Axes, rows: Sequence[Mapping], reference: str) -> None:
    axis.set_title(f"mean KL to {reference}, nats a token", loc="left", fontsize=9.5, color=_INK, pad=20)
    known = [kl for row in rows if (kl := (row["distance"] or {}).get("mean_kl_nats"))]
    axis.set_xscale("log")
    low, high = (min(known), max(known)) if known else (1e-6, 1.0)
    axis.set_xlim(low / 4, high * 4)
    for number, row in enumerate(rows):
        kl = (row["distance"] or {}).get("mean_kl_nats")
        if kl:
            axis.plot([low / 4, kl], [number, number], color=_colour(row), linewidth=1, alpha=0.35, zorder=3)
            axis.scatter(kl, number, s=46, zorder=4, marker=_marker(row), linewidths=1.4, **_fill(row))
        text = f"{kl:.1e}" if kl else "reference" if row["model"] == reference else "not known"
        _beside(axis, number, text, _colour(row) if kl else _SOFT)


def _beside(axis: Axes, number: int, text: str, colour: str) -> None:
    """A row's number, right of the panel."""
    axis.annotate(
        text, (1, number), xycoords=("axes fraction", "data"), xytext=(6, 0), textcoords="offset points", ha="left", va="center",
        fontsize=8, color=colour, annotation_clip=False,
    )  # fmt: skip


def _colour(row: Mapping) -> str:
    return {"base": _SOFT, "control": _RED}.get(row["role"], _BLUE)


def _marker(row: Mapping) -> str:
    return {"base": "s", "control": "D"}.get(row["role"], "o")


def _fill(row: Mapping) -> dict[str, Any]:
    """Yardstick and control are hollow, so that colour is never the only difference."""
    return {"facecolors": _PAPER if row["role"] else _colour(row), "edgecolors": _colour(row)}


def _say_what_it_is(figure, board: Mapping, models: int, width: float, height: float) -> None:
    count, percent = board["rows"]["count"], f"{board['interval_fraction']:.0%}"
    title = f"{board['rows']['recipe']}: {models} model{'s' if models > 1 else ''} on {count:,} held-out rows"
    figure.text(0.2 / width, 1 - 0.3 / height, title, fontsize=13, weight="bold", color=_INK, va="center")
    legend = (
        f"bold: rank, shared by models that cannot be told apart (band)   dot: score, line: {percent} interval   "
        "square: base   diamond: control, broken on purpose   dashed: ceiling"
    )
    figure.text(0.2 / width, 0.2 / height, legend, fontsize=7.5, color=_SOFT, va="center")
