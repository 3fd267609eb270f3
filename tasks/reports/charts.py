"""Where the lines and bars of the report's two charts stand, in pixels: the loss curve and the leaderboard."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tasks.reports.data import LeaderboardRow, LossPoint, ReleaseData, Score

CURVE_WIDTH, CURVE_HEIGHT = 760, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 118, 14, 40


@dataclass(frozen=True)
class Tick:
    """A place on an axis and its label."""

    at: float
    text: str


@dataclass(frozen=True)
class Series:
    """One curve: its path, its points, and where its label stands."""

    path: str
    points: list[tuple[float, float, LossPoint]]
    last: float
    label_y: float


@dataclass(frozen=True)
class Curve:
    """The loss by step. A series without a point is None."""

    train: Series | None
    heldout: Series | None
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    left: float = _LEFT
    right: float = CURVE_WIDTH - _RIGHT
    top: float = _TOP
    bottom: float = CURVE_HEIGHT - _BOTTOM
    width: float = CURVE_WIDTH
    height: float = CURVE_HEIGHT


@dataclass(frozen=True)
class Bar:
    """One model's score on one metric; share is None when it is unscored."""

    row: LeaderboardRow
    score: Score
    y: float


@dataclass(frozen=True)
class BarGroup:
    """One metric and its bars."""

    metric: str
    bars: list[Bar]
    height: float


def draw_bars(release: ReleaseData, pitch: int = 25) -> list[BarGroup]:
    """One group for each metric, in the leaderboard's order of models."""
    groups = []
    for metric in release.shown_metrics:
        rows = [row for row in release.leaderboard if metric in row.scores]
        bars = [Bar(row, row.scores[metric], number * pitch) for number, row in enumerate(rows)]
        groups.append(BarGroup(metric, bars, len(bars) * pitch))
    return groups


def draw_curve(points: list[LossPoint]) -> Curve | None:
    """The loss curve, or None when no loss was recorded."""
    train = [(one.step, one.train_loss, one) for one in points if one.train_loss is not None]
    heldout = [(one.step, one.heldout_loss, one) for one in points if one.heldout_loss is not None]
    both = train + heldout
    if not both:
        return None
    x_marks = _marks(0, max(max(step for step, _, _ in both), 1), 6, whole=True)
    y_marks = _marks(min(0.0, *(loss for _, loss, _ in both)), max(loss for _, loss, _ in both) or 1.0, 5)
    labels = _apart([sorted(one)[-1][1] for one in (train, heldout) if one], y_marks)
    return Curve(
        train=_series(train, x_marks, y_marks, labels[0]) if train else None,
        heldout=_series(heldout, x_marks, y_marks, labels[-1]) if heldout else None,
        x_ticks=[Tick(_x(mark, x_marks), f"{mark:,.0f}") for mark in x_marks],
        y_ticks=[Tick(_y(mark, y_marks), f"{mark:g}") for mark in y_marks],
    )


def _series(
    values: list[tuple[int, float, LossPoint]], x_marks: list[float], y_marks: list[float], label_y: float
) -> Series:
    points = [(_x(step, x_marks), _y(loss, y_marks), one) for step, loss, one in sorted(values, key=lambda v: v[0])]
    path = "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y, _ in points)
    return Series(path, points, max(values, key=lambda v: v[0])[1], label_y)


def _apart(losses: list[float], y_marks: list[float], least: float = 30) -> list[float]:
    """Heights for the labels at the curves' ends, moved apart when they would overlap."""
    heights = [_y(loss, y_marks) for loss in losses]
    if len(heights) == 2 and abs(heights[0] - heights[1]) < least:
        middle, sign = sum(heights) / 2, 1 if heights[0] > heights[1] else -1
        heights = [middle + sign * least / 2, middle - sign * least / 2]
        low = max(heights) - (CURVE_HEIGHT - _BOTTOM - 16)
        heights = [height - max(0.0, low) for height in heights]
    return heights


def _x(value: float, marks: list[float]) -> float:
    return _LEFT + (value - marks[0]) / (marks[-1] - marks[0]) * (CURVE_WIDTH - _LEFT - _RIGHT)


def _y(value: float, marks: list[float]) -> float:
    return CURVE_HEIGHT - _BOTTOM - (value - marks[0]) / (marks[-1] - marks[0]) * (CURVE_HEIGHT - _TOP - _BOTTOM)


def _marks(low: float, high: float, about: int, whole: bool = False) -> list[float]:
    """Round numbers from at most `low` to at least `high`."""
    raw = (high - low or 1.0) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * one for one in (1, 2, 2.5, 5, 10) if power * one >= raw)
    if whole:
        step = max(1.0, math.ceil(step))
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(one * step, 10) for one in range(first, last + 1)]
