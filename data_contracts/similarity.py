"""Which inputs are the same, or nearly: a held-out row that training has seen measures memory, not skill."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    import numpy as np
    from scipy.sparse import csr_matrix

SHINGLE_WORDS = 3
CHUNK_ROWS = 2_000
HASH_BITS = 20
"""2^20 buckets: inputs have some 20 shingles, so two different ones rarely share a bucket."""


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
    return round(similarity, 6), f"held-out row {row + 1} and training row {other + 1}: {_headline(new_inputs[row])}"


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


def _headline(text: str) -> str:
    return repr(text[:80])
