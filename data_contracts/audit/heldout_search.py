"""Copies of held-out rows among all rows of a file that passes in batches: of an input, of one of its lines, of a learned text.

To compare every row would cost more than all other checks. So one regular expression over a few runs of words of each held-out
text picks the rows that hold any of them, and only those are compared.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise

import polars as pl

from data_contracts.audit.similarity import SHINGLE_WORDS, largest_similarity
from data_contracts.limits import Limits

PART = "part_"
"""Prefix of the view's columns that hold one line of the input each."""
PART_SHINGLE_WORDS = 2
"""A line has some 12 words. One replaced leaves 0.50 to 0.79 of the shingles of two words, 0.30 to 0.68 of those of three."""
PROBE_WORDS = 3
PROBES = 9
"""Runs of each text, spread over it. A text that shares half of its runs with another holds none of nine one time in 500."""
RUN_CHARS = 15
"""A shorter run ("before the end", "by December 31") stands in too many texts to pick any."""
GROUP = 500
"""Runs in one expression: as many plain texts are searched as one automaton, more some 30 times as slowly."""
MOST_COMPARED = 50_000
"""Rows that are compared for one column, some 4 s: more share words only where texts are templates."""


def compared(columns: list[str], limits: Limits) -> dict[str, tuple[float | None, int]]:
    """Column of the view -> (largest similarity allowed, words of a shingle); the lines only where they have a limit."""
    found: dict[str, tuple[float | None, int]] = {
        "input": (limits.max_input_similarity_fraction, SHINGLE_WORDS),
        limits.text: (limits.max_text_similarity_fraction, SHINGLE_WORDS),
    }
    if (line_limit := limits.line_similarity_fraction) is not None:
        parts = [name for name in columns if name.startswith(PART)]
        found |= dict.fromkeys(parts, (line_limit, PART_SHINGLE_WORDS))
    return found


@dataclass
class _Nearest:
    """What was found in one column so far."""

    probes: list[str]
    """Regular expressions, one of which finds what is near."""
    words: int
    similarity: float = 0.0
    detail: str = ""
    picked: int = 0


@dataclass
class HeldoutSearch:
    """The nearest row of all that were added to any held-out row, by column of the view."""

    heldout: pl.DataFrame
    limits: Limits
    _nearest: dict[str, _Nearest] = field(init=False)

    def __post_init__(self) -> None:
        columns = compared(self.heldout.columns, self.limits).items()
        self._nearest = {name: _Nearest(_probes(self.heldout[name]), words) for name, (_, words) in columns}

    def add(self, view: pl.DataFrame) -> None:
        """Compare some rows, each with its number in `row`."""
        for name, found in self._nearest.items():
            if not found.probes:
                continue
            picked = view.filter(pl.any_horizontal(pl.col(name).str.contains(one) for one in found.probes))
            left = picked.head(max(MOST_COMPARED - found.picked, 0))
            found.picked += picked.height
            if left.height:
                similarity, detail = largest_similarity(left, self.heldout, name, "file", found.words)
                if similarity > found.similarity:
                    found.similarity, found.detail = similarity, detail

    def nearest(self, column: str) -> tuple[float, str, str]:
        """(largest similarity, the pair that has it, how it was looked for)"""
        found = self._nearest[column]
        some = f" (the first {MOST_COMPARED:,} of {found.picked:,} that share words)"
        return found.similarity, found.detail, f"every row{some if found.picked > MOST_COMPARED else ''}"


def _probes(texts: pl.Series) -> list[str]:
    """Expressions that find any of the chosen runs, in large letters or small."""
    runs = list(dict.fromkeys(run for text in texts.drop_nulls() for run in _runs(text)))
    groups = (runs[start : start + GROUP] for start in range(0, len(runs), GROUP))
    return [f"(?i){'|'.join(map(re.escape, group))}" for group in groups]


def _runs(text: str) -> list[str]:
    """Of each of PROBES parts of the text its longest run of words, which is the rarest, where that has RUN_CHARS; or one."""
    words = [found.span() for found in re.finditer(r"\w+", text)]
    size = min(PROBE_WORDS, len(words))
    if not size:
        return []
    runs = [text[words[at][0] : words[at + size - 1][1]] for at in range(len(words) - size + 1)]
    ends = [len(runs) * part // PROBES for part in range(PROBES + 1)]
    longest = [max(runs[start:end], key=len) for start, end in pairwise(ends) if end > start]
    return [run for run in longest if len(run) >= RUN_CHARS] or [max(longest, key=len)]
