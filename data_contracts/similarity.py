"""Which inputs are the same, or nearly: a held-out row that training has seen measures memory, not skill."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from data_contracts.limits import AssessmentLimits, Limits
from data_contracts.shortcuts import sampled
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
    """Two rows of one table, by their numbers, and how alike their inputs are."""

    row: int
    other: int
    similarity: float

    def __str__(self) -> str:
        return f"{self.row} and {self.other} ({self.similarity:.2f})"


def repeats(view: pl.DataFrame, limits: Limits) -> list[Check]:
    """Near-duplicate inputs within a table and, where answers have a sign, inputs that say the same but are answered
    differently.

    Both look at the sample. Near-duplicates: Jaccard similarity of word shingles above the limit (null: the inputs are
    templates; the largest is reported). Contradictory: the same words
    apart from case, punctuation and articles, with an opposite sign, or noise beside signal.
    """
    sample = sampled(view)
    enough = sample.height >= 2
    limit = limits.max_repeat_similarity_fraction
    count, pairs, nearest = near_pairs(sample, 1.0 if limit is None else limit)
    looked = f"{sample.height:,} well-formed rows looked at"
    near = "largest similarity of two inputs of the table"
    shown = f"{looked}; {count:,} pairs above the limit: rows {_named(pairs)}" if pairs else looked
    if limit is None:
        first = report(near, nearest if enough else None, detail=f"{looked}; no limit: inputs are templated")
    else:
        fix = "Keep one row of each pair, or reword one: an input counted twice is learned twice"
        first = check(near, nearest, "<=", limit, detail=shown, fix=fix, enough=enough)
    return [first, _contradictory(sample, looked)] if isinstance(limits, AssessmentLimits) else [first]


def _contradictory(sample: pl.DataFrame, looked: str) -> Check:
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
        detail=f"{looked}{': rows ' + ', '.join(pairs) + more if pairs else ''}",
        fix="Decide which answer is right and drop the other row",
        enough=answers.height >= 2,
    )


def _bare(text: pl.Expr) -> pl.Expr:
    words = text.str.to_lowercase().str.replace_all(r"[^\w\s]", " ").str.replace_all(UNSAID_WORDS, " ")
    return words.str.replace_all(r"\s+", " ").str.strip_chars()


def near_pairs(sample: pl.DataFrame, limit: float) -> tuple[int, list[Pair], float]:
    """(how many pairs are above the limit, the most alike of them, the largest similarity of any two rows)."""
    import numpy as np

    texts, numbers = normalised_inputs(sample), sample["row"].to_list()
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


def normalised_inputs(view: pl.DataFrame) -> pl.Series:
    """The text a model reads in each row, without case and extra white space."""
    return view.select(pl.col("input").str.to_lowercase().str.replace_all(r"\s+", " ").str.strip_chars()).to_series()


def identical_inputs(inputs: pl.Series, new_inputs: pl.Series) -> list[int]:
    """Numbers, from 1, of the `new_inputs` that are among `inputs`."""
    return (new_inputs.is_in(inputs.unique().implode()).arg_true() + 1).to_list()


def largest_similarity(inputs: pl.Series, new_inputs: pl.Series) -> tuple[float, str]:
    """The largest Jaccard similarity of word shingles between the two, and the pair of rows that has it.

    Streams over `inputs` in chunks: memory is (new inputs, chunk), whatever the size of the training set.
    """
    import numpy as np

    new, new_sizes = _shingles(new_inputs)
    best = (0.0, 0, 0)
    for start in range(0, len(inputs), CHUNK_ROWS):
        chunk, sizes = _shingles(inputs[start : start + CHUNK_ROWS])
        shared = np.asarray((new @ chunk.T).todense(), dtype=np.float32)
        jaccard = shared / np.maximum(new_sizes[:, None] + sizes[None, :] - shared, 1)
        row, other = np.unravel_index(int(jaccard.argmax()), jaccard.shape)
        if jaccard[row, other] > best[0]:
            best = (float(jaccard[row, other]), int(row), start + int(other))
    similarity, row, other = best
    return round(similarity, 6), f"held-out row {row + 1} and training row {other + 1}: {_shown(new_inputs[row])}"


def _shingles(texts: pl.Series) -> tuple[csr_matrix, np.ndarray]:
    """Which shingle buckets each text fills, (texts, buckets), and how many, (texts,)."""
    import numpy as np
    from sklearn.feature_extraction.text import HashingVectorizer

    vectors = HashingVectorizer(
        analyzer="word",
        token_pattern=r"\w+",
        ngram_range=(SHINGLE_WORDS, SHINGLE_WORDS),
        n_features=2**HASH_BITS,
        binary=True,
        norm=None,
        alternate_sign=False,
    ).transform(texts.to_list())
    return vectors, np.asarray(vectors.sum(axis=1)).ravel()


def _shown(text: str) -> str:
    return repr(text[:80])
