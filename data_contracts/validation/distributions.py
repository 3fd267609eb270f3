"""How the values of a file are spread: counts in bins, added up batch by batch, for the page that draws them.

What to count is read from the recipe's answer schema (`output.py`), from its rows.py (`CLASSES`, `CHOICES`) and from the
audit's view: no recipe is named here.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal, get_args, get_origin

import polars as pl
from pydantic import BaseModel

from data_contracts.prompting.prompt import error_model, output_model

BIN_CHARS = 10
MOST_CHARS = 100_000
"""Longer texts are counted as of this length."""
NUMBER_BINS = 20
MOST_BATCHES = 40
"""Batches that are counted by name; the rest is one more. A file in which each row is a batch must not fill the memory."""
OTHER_BATCHES = "other batches"


@dataclass
class NumberSpread:
    """The values of one numeric field, in NUMBER_BINS bins from `low` to `high`."""

    low: float
    high: float
    counts: list[int] = field(default_factory=lambda: [0] * NUMBER_BINS)
    smallest: float | None = None
    largest: float | None = None

    def add(self, cells: pl.Series) -> None:
        """Count the cells that hold a number."""
        cells = cells.drop_nulls()
        low, high = cells.min(), cells.max()
        if not isinstance(low, int | float) or not isinstance(high, int | float):
            return
        ends = [one for one in (self.smallest, self.largest) if one is not None] + [low, high]
        self.smallest, self.largest = min(ends), max(ends)
        # 1e-9: 0.3 of 0 to 1 is 5.999... bins, and belongs into the sixth.
        place = ((cells - self.low) / (self.high - self.low) * NUMBER_BINS + 1e-9).floor().cast(pl.Int64)
        for index, count in place.clip(0, NUMBER_BINS - 1).value_counts().rows():
            self.counts[index] += count


class Distributions:
    """Counts of one file; memory follows the number of bins, never the number of rows."""

    def __init__(self, recipe: str) -> None:
        rows = import_module(f"data_contracts.{recipe}.rows")
        self.text: str = rows.LIMITS.text
        """What the learned text is called."""
        self.chars_by_class: dict[str, Counter[int]] = {name: Counter() for name in rows.CLASSES}
        """For each class: rows by length of the text in bins of BIN_CHARS."""
        self.chars_by_batch: defaultdict[str, Counter[int]] = defaultdict(Counter)
        self.moves: Counter[tuple[int, int]] = Counter()
        """Rows by (direction of the metric, direction of YES), each -1, 0 or 1."""
        self.numbers, self.names = _fields(recipe)
        self.names |= {name: Counter(dict.fromkeys(known, 0)) for name, known in getattr(rows, "CHOICES", {}).items()}

    def add(self, frame: pl.DataFrame, view: pl.DataFrame) -> None:
        """Count accepted rows: the table, and the audit's view of it."""
        if not frame.height:
            return
        bins = view.select(
            "source_batch", "row_class", bin=pl.col(self.text).str.len_chars().clip(0, MOST_CHARS) // BIN_CHARS
        )
        for name, index, rows in bins.group_by("row_class", "bin").len().rows():
            self.chars_by_class[name][index] += rows
        for batch, index, rows in bins.group_by("source_batch", "bin", maintain_order=True).len().rows():
            known = batch in self.chars_by_batch or len(self.chars_by_batch) < MOST_BATCHES
            self.chars_by_batch[batch if known else OTHER_BATCHES][index] += rows
        if "metric_sign" in view.columns:
            moving = view.filter(~pl.col("malformed").fill_null(False)).drop_nulls(["metric_sign", "sign"])
            for metric, sign, rows in moving.group_by("metric_sign", "sign").len().rows():
                self.moves[metric, sign] += rows
        for name, spread in self.numbers.items():
            spread.add(frame[name])
        for name, counts in self.names.items():
            cells = frame[name] if name in frame.columns else view[f"label_{name}"]
            counts.update(dict(cells.drop_nulls().value_counts().rows()))


def _fields(recipe: str) -> tuple[dict[str, NumberSpread], dict[str, Counter[str]]]:
    """The bounded numbers and the choices of the recipe's answer, nothing counted yet."""
    numbers, names = {}, {}
    for model in (output_model(recipe), error_model(recipe)):
        for name, one in _model_fields(model).items():
            low, high = (_bound(one, end) for end in ("ge", "le"))
            if one.annotation in (float, int) and low is not None and high is not None:
                numbers[name] = NumberSpread(low, high)
            elif get_origin(one.annotation) is Literal:
                names[name] = Counter(dict.fromkeys(get_args(one.annotation), 0))
    return numbers, names


def _model_fields(model: type[BaseModel] | None) -> dict[str, Any]:
    return model.model_fields if model else {}


def _bound(one: Any, end: str) -> float | None:
    return next((getattr(rule, end) for rule in one.metadata if hasattr(rule, end)), None)
