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
    from scipy.sparse import csr_array

SHINGLE_WORDS = 3
CHUNK_ROWS = 2_000
HASH_FACTOR = 0x9E3779B97F4A7C15
"""Odd, so that no word of a shingle loses bits: its 64-bit hash is a polynomial of its words' hashes, modulo 2^64."""
HASH_SEED = 42
DENSE_CELLS = 2**22
"""Up to this size (16 MiB) a matrix of texts and shingles is a numpy array: importing scipy.sparse costs 0.17 s of CPU, more
than the shingles of a file of a hundred rows."""
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
    shingles, sizes = _shingles(texts)
    repeated = shingles.filter(pl.col("shingle").is_duplicated())  # a pair shares only what two rows hold
    vectors = _vectors(repeated, repeated["shingle"].unique().sort(), len(texts))
    count, largest, found = 0, 0.0, []
    for start in range(0, len(texts), REPEAT_CHUNK_ROWS):
        end = start + REPEAT_CHUNK_ROWS
        shared = _product(vectors[start:end], vectors)
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
    shingles, new_sizes = _shingles(new_texts, words)
    known = shingles["shingle"].unique().sort()
    new = _vectors(shingles, known, len(new_texts))
    best = (0.0, 0, 0)
    for start in range(0, len(texts), CHUNK_ROWS):
        chunk = texts[start : start + CHUNK_ROWS]
        shingles, sizes = _shingles(chunk, words)
        shared = _product(new, _vectors(shingles, known, len(chunk)))
        jaccard = shared / np.maximum(new_sizes[:, None] + sizes[None, :] - shared, 1)
        row, other = map(int, np.unravel_index(int(jaccard.argmax()), jaccard.shape))
        if jaccard[row, other] > best[0]:
            best = (float(jaccard[row, other]), row, start + other)
    similarity, row, other = best
    number = seen["row"][other] if "row" in seen.columns else other + 1
    return round(similarity, 6), f"held-out row {row + 1} and {where} row {number}: {_shown(new_texts[row])}"


def _shingles(texts: pl.Series, words: int = SHINGLE_WORDS) -> tuple[pl.DataFrame, np.ndarray]:
    """The different shingles of each text as (`row` from 0, `shingle`, its 64-bit hash), and how many each has, (texts,) float64.

    Two of the some 10^6 shingles of a table share a hash with a chance of 3 in 10^8.
    """
    import numpy as np

    spread = texts.alias("word").str.extract_all(r"\w+").to_frame().with_row_index("row").explode("word").drop_nulls()
    rows, hashes = spread["row"].to_numpy(), spread["word"].hash(HASH_SEED).to_numpy()
    last = max(0, len(rows) - words + 1)
    shingle = np.zeros(last, dtype=np.uint64)
    for place in range(words):
        shingle = shingle * np.uint64(HASH_FACTOR) + hashes[place : place + last]
    whole = rows[:last] == rows[words - 1 :]
    shingles = pl.DataFrame({"row": rows[:last][whole], "shingle": shingle[whole]}).unique()
    return shingles, np.bincount(shingles["row"].to_numpy(), minlength=len(texts)).astype(np.float64)


def _vectors(shingles: pl.DataFrame, known: pl.Series, n_texts: int) -> np.ndarray | csr_array:
    """Which of the known shingles, which are sorted, each text has: (texts, known) of 0 and 1, float32."""
    import numpy as np

    held = shingles.filter(pl.col("shingle").is_in(known.implode()))
    rows, columns = held["row"].to_numpy(), known.search_sorted(held["shingle"]).to_numpy()
    shape = (n_texts, len(known))
    if n_texts * len(known) > DENSE_CELLS:
        from scipy.sparse import csr_array

        return csr_array((np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=shape)
    dense = np.zeros(shape, dtype=np.float32)
    dense[rows, columns] = 1
    return dense


def _product(left: np.ndarray | csr_array, right: np.ndarray | csr_array) -> np.ndarray:
    """How many shingles each text of `left` shares with each of `right`, (left, right) float32."""
    import numpy as np

    shared = left @ right.T
    return shared if isinstance(shared, np.ndarray) else shared.toarray()


def _shown(text: str) -> str:
    return repr(text[:80])
