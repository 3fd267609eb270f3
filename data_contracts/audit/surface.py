"""What can be seen of a text without reading it: lengths, punctuation, first and last words, the skeleton of a sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    import numpy as np

MIN_SEEN_FRACTION = 0.05
"""A word, skeleton or batch is a feature of its own from this share of the rows on, ..."""
MIN_SEEN_ROWS = 4
"""... and from this many rows: fewer cannot be in training and test folds alike."""
MAX_VALUES = 24
"""Most frequent values kept for each of these."""
COUNTED = {
    "commas": ",",
    "semicolons": ";",
    "colons": ":",
    "dashes": r"[-–—]",
    "quotes": r"[\"'“”‘’]",
    "question marks": r"\?",
    "exclamation marks": "!",
    "brackets": r"[()\[\]]",
    "percent signs": "%",
    "currency signs": r"[$€£¥]",
    "digits": r"\d",
    "capitals": r"\p{Lu}",
}


def surface_features(view: pl.DataFrame, text: str) -> tuple[np.ndarray, list[str]]:
    """(rows, features) float64 and the features' names, from the column `text`, `input` and `source_batch` of an audit view.

    Columns that never vary are left out. Words and skeletons are one column for each frequent value.
    """
    counts = view.select(
        **{f"{one} {name}": cells for one in (text, "input") for name, cells in _counts(pl.col(one)).items()}
    )
    seen = view.select(
        _first(text), _last(text), _first("input"), _last("input"),
        _skeleton(text).alias(f"{text} skeleton"), _skeleton("input").alias("input skeleton"),
        pl.col("source_batch").alias("source batch"),
    )  # fmt: skip
    values = counts.hstack([one for name in seen.columns for one in _frequent(seen[name])])
    varied = [one for one in values if one.n_unique() > 1]
    return pl.DataFrame(varied).cast(pl.Float64).to_numpy(), [one.name for one in varied]


def _counts(text: pl.Expr) -> dict[str, pl.Expr]:
    chars, words = text.str.len_chars(), text.str.count_matches(r"\S+")
    sentences = text.str.count_matches(r"[.!?](?:\s|$)")
    return {
        "characters": chars,
        "words": words,
        "sentences": sentences,
        "characters a word": chars / words.clip(1),
        "words a sentence": words / sentences.clip(1),
        **{name: text.str.count_matches(pattern) for name, pattern in COUNTED.items()},
    }


def _first(text: str) -> pl.Expr:
    return pl.col(text).str.extract(r"(\w+)").str.to_lowercase().alias(f"{text} first word")


def _last(text: str) -> pl.Expr:
    return pl.col(text).str.extract(r"(\w+)\W*$").str.to_lowercase().alias(f"{text} last word")


def _skeleton(text: str) -> pl.Expr:
    """The first sentence with each word as A (capital), a or 0 (number), and its punctuation: a template's fingerprint."""
    sentence = pl.col(text).str.extract(r"^([^.!?\n]{1,200}[.!?]?)")
    shape = sentence.str.replace_all(r"\p{Ll}[\p{L}’']*", "a").str.replace_all(r"\p{Lu}[\p{L}’']*", "A")
    return shape.str.replace_all(r"\d+(?:[.,]\d+)*", "0")


def _frequent(values: pl.Series) -> list[pl.Series]:
    """One column of 0 and 1 for each frequent value; none for a column that holds one value."""
    if values.n_unique() < 2:
        return []
    least = max(MIN_SEEN_ROWS, MIN_SEEN_FRACTION * len(values))
    counts = (
        values.value_counts(name="rows").filter(pl.col("rows") >= least).sort(["rows", values.name], descending=True)
    )
    return [
        (values == one).fill_null(False).cast(pl.Float64).alias(f"{values.name} {one!r}")
        for one in counts[values.name].drop_nulls().head(MAX_VALUES)
    ]
