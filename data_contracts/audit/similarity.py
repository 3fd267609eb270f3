"""Which inputs, and which learned texts, are the same or nearly: what is counted twice is learned twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from data_contracts.audit.shortcuts import sampled
from data_contracts.limits import Limits
from data_contracts.verdict import Check, check, report

if TYPE_CHECKING:
    import numpy as np
    from scipy.sparse import csr_matrix

SHINGLE_WORDS = 3
CHUNK_ROWS = 2_000
HASH_BITS = 20
"""2^20 buckets: inputs have some 20 shingles, so two different ones rarely share a bucket."""
SHOWN_PAIRS = 5
REPEAT_CHUNK_ROWS = 500
"""(500, 5,000) similarities of 4 bytes at a time: 10 MB."""
UNSAID_WORDS = r"\b(?:a|an|the|of|in|on|at|to|by|for|and|will|be|is|are|has|have)\b"
"""Words without which two inputs still ask the same thing. No word of denial or of direction is among them."""


@dataclass(frozen=True)
class Pair:
    """Two rows of one table, by their numbers, and how alike their inputs (or learned texts) are."""

    row: int
    other: int
    similarity: float

    def __str__(self) -> str:
        return f"{self.row} and {self.other} ({self.similarity:.2f})"


def repeats(view: pl.DataFrame, limits: Limits) -> list[Check]:
    """Near-duplicate inputs and near-duplicate learned texts within a table and, where answers have a sign, inputs that say
    the same but are answered differently.

    All look at the sample. Near-duplicates: Jaccard similarity of word shingles above the limit (null: they are
    templates; the largest is reported). Contradictory: the same words
    apart from case, punctuation and articles, with an opposite sign, or noise beside signal.
    """
    sample = sampled(view)
    checks = [
        _nearest_pair(sample, "input", limits.max_repeat_similarity_fraction),
        _nearest_pair(sample, limits.text, limits.max_text_similarity_fraction),
    ]
    return [*checks, _contradictory(sample)] if limits.words else checks


def _nearest_pair(sample: pl.DataFrame, column: str, limit: float | None) -> Check:
    enough = sample.height >= 2
    count, pairs, nearest = near_pairs(sample, 1.0 if limit is None else limit, column)
    looked = _looked(sample)
    name = f"largest similarity of two {column}s of the table"
    if limit is None:
        return report(name, nearest if enough else None, detail=f"{looked}; no limit: {column}s are templated")
    shown = f"{looked}; {count:,} pairs above the limit: rows {_named(pairs)}" if pairs else looked
    fix = f"Keep one row of each pair, or reword one: {column}s counted twice are learned twice"
    return check(name, nearest, "<=", limit, detail=shown, fix=fix, enough=enough)


def _looked(sample: pl.DataFrame) -> str:
    return f"{sample.height:,} well-formed rows looked at"


def _contradictory(sample: pl.DataFrame) -> Check:
    """Rows of one key are compared with its first row: a key with two answers has a row that differs from its first."""
    answers = sample.select("row", "noise", "sign", key=_bare(pl.col("input"))).filter(pl.col("noise").is_not_null())
    first = pl.all().first().over("key", order_by="row")
    beside = answers.hstack(answers.select(first).rename(lambda name: f"first_{name}"))
    apart = (pl.col("noise") != pl.col("first_noise")) | (pl.col("sign") != pl.col("first_sign"))
    found = beside.filter(apart).sort("row")
    pairs = [f"{one} and {other}" for one, other in found.select("first_row", "row").head(SHOWN_PAIRS).rows()]
    more = f", and {found.height - SHOWN_PAIRS:,} more" if found.height > SHOWN_PAIRS else ""
    return check(
        "inputs that say the same and are answered differently",
        found.height,
        "==",
        0,
        unit="rows",
        detail=f"{_looked(sample)}{': rows ' + ', '.join(pairs) + more if pairs else ''}",
        fix="Decide which answer is right and drop the other row",
        enough=answers.height >= 2,
    )


def _bare(text: pl.Expr) -> pl.Expr:
    words = text.str.to_lowercase().str.replace_all(r"[^\w\s]", " ").str.replace_all(UNSAID_WORDS, " ")
    return words.str.replace_all(r"\s+", " ").str.strip_chars()


def near_pairs(sample: pl.DataFrame, limit: float, column: str = "input") -> tuple[int, list[Pair], float]:
    """(how many pairs are above the limit, the most alike of them, the largest similarity of any two rows)."""
    import numpy as np

    texts, numbers = normalised(sample, column), sample["row"].to_list()
    if len(texts) < 2:
        return 0, [], 0.0
    vectors, sizes = _shingles(texts)
    count, largest, found = 0, 0.0, []
    for start in range(0, len(texts), REPEAT_CHUNK_ROWS):
        end = start + REPEAT_CHUNK_ROWS
        shared = np.asarray((vectors[start:end] @ vectors.T).todense(), dtype=np.float32)
        jaccard = shared / np.maximum(sizes[start:end, None] + sizes[None, :] - shared, 1)
        jaccard = np.triu(jaccard, k=start + 1)  # each pair once, and no row with itself
        largest = max(largest, float(jaccard.max()))
        rows, others = np.nonzero(jaccard > limit)
        count += len(rows)
        best = np.argsort(-jaccard[rows, others], kind="stable")[:SHOWN_PAIRS]
        found += [
            Pair(numbers[start + rows[one]], numbers[others[one]], float(jaccard[rows[one], others[one]]))
            for one in best
        ]
    top = sorted(found, key=lambda pair: -pair.similarity)[:SHOWN_PAIRS]
    return count, top, round(largest, 6)


def _named(pairs: list[Pair]) -> str:
    return ", ".join(map(str, pairs))


def normalised(view: pl.DataFrame, column: str = "input") -> pl.Series:
    """The text a model reads (or, by `column`, learns) in each row, without case and extra white space."""
    text = pl.col(column).fill_null("").str.to_lowercase()
    return view.select(text.str.replace_all(r"\s+", " ").str.strip_chars()).to_series()


def identical_inputs(inputs: pl.Series, new_inputs: pl.Series) -> list[int]:
    """Numbers, from 1, of the `new_inputs` that are among `inputs`."""
    return (new_inputs.is_in(inputs.unique().implode()).arg_true() + 1).to_list()


def largest_similarity(
    seen: pl.DataFrame,
    heldout: pl.DataFrame,
    column: str = "input",
    where: str = "training",
    words: int = SHINGLE_WORDS,
) -> tuple[float, str]:
    """The largest Jaccard similarity of shingles of `words` words between two views, and the pair of rows that has it.

    Streams over `seen` in chunks: memory is (held-out rows, chunk), whatever the size of the training set.
    """
    import numpy as np

    texts, new_texts = normalised(seen, column), normalised(heldout, column)
    new, new_sizes = _shingles(new_texts, words)
    best = (0.0, 0, 0)
    for start in range(0, len(texts), CHUNK_ROWS):
        chunk, sizes = _shingles(texts[start : start + CHUNK_ROWS], words)
        shared = np.asarray((new @ chunk.T).todense(), dtype=np.float32)
        jaccard = shared / np.maximum(new_sizes[:, None] + sizes[None, :] - shared, 1)
        row, other = map(int, np.unravel_index(int(jaccard.argmax()), jaccard.shape))
        if jaccard[row, other] > best[0]:
            best = (float(jaccard[row, other]), row, start + other)
    similarity, row, other = best
    number = seen["row"][other] if "row" in seen.columns else other + 1
    return round(similarity, 6), f"held-out row {row + 1} and {where} row {number}: {_shown(new_texts[row])}"


def _shingles(texts: pl.Series, words: int = SHINGLE_WORDS) -> tuple[csr_matrix, np.ndarray]:
    """Which shingle buckets each text fills, (texts, buckets), and how many, (texts,)."""
    import numpy as np
    from sklearn.feature_extraction.text import HashingVectorizer

    vectors = HashingVectorizer(
        analyzer="word",
        token_pattern=r"\w+",
        ngram_range=(words, words),
        n_features=2**HASH_BITS,
        binary=True,
        norm=None,
        alternate_sign=False,
    ).transform(texts.to_list())
    return vectors, np.asarray(vectors.sum(axis=1)).ravel()


def _shown(text: str) -> str:
    return repr(text[:80])
