"""How well a linear guesser tells labels apart that it has not seen, and how well chance alone would."""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

FOLDS = 5
MAX_REPEATS = 20
"""Draws of the folds over which an accuracy is averaged: one draw of 60 rows moves by 0.05, and a limit is 0.15 above chance."""
FITTED_ROWS = 3_000
"""... but no more rows in all: a draw is the steadier the more rows it has."""
RIDGE_ROWS = 10.0
"""Penalty of a fit, as a number of rows: some 80 standardised features on as few as 40 rows need it, hundreds outweigh it."""
PERMUTED = 200
"""Permutations of the labels that give mean and spread of chance, where ..."""
PERMUTED_BELOW_ROWS = 600
"""... there are fewer rows than this."""
SEED = 42


def accuracy_and_chance(features: np.ndarray, target: np.ndarray, level: float) -> tuple[float, float]:
    """(mean balanced accuracy over repeated folds, what chance exceeds with probability `level`).

    The guesser is a ridge discriminant: least squares on indicators of the classes is linear discriminant analysis (Hastie,
    Tibshirani and Friedman, The Elements of Statistical Learning, section 4.3), and each class's score is divided by its share,
    so that a rare class counts as much as a frequent one. It is a matrix times the indicators, so that permuted labels cost
    hardly more than the true ones. One feature is given its square too: a class in the middle of the range is found.

    Chance: mean and spread of the same number over PERMUTED permutations of the labels, as a one-sided normal quantile: of
    2,000 dealt labels of gold 0.0495 were beyond that of 0.05, and 0.0035 beyond that of 0.0031. From PERMUTED_BELOW_ROWS rows
    on, the standard error of a mean of recalls.
    """
    import numpy as np

    values = _standardised(features.astype(np.float64))
    if features.shape[1] == 1:
        values = _standardised(np.hstack([values, values**2]))
    classes, codes = np.unique(target, return_inverse=True)
    random = np.random.default_rng(SEED)
    small = len(codes) < PERMUTED_BELOW_ROWS
    labels = np.column_stack([codes, *(random.permutation(codes) for _ in range(PERMUTED if small else 0))])
    repeats = max(1, min(MAX_REPEATS, FITTED_ROWS // len(codes)))
    indicators = (labels[:, :, None] == np.arange(len(classes))).astype(np.float64)
    sizes = np.bincount(codes)
    found = np.mean(
        [_accuracies(values, indicators, sizes, _folds(len(codes), random)) for _ in range(repeats)], axis=0
    )
    z = NormalDist().inv_cdf(1 - level)
    chance = 1 / len(classes)
    spread = float(found[1:].std(ddof=1)) if small else (chance * (1 - chance) * (1 / sizes).sum()) ** 0.5 / len(sizes)
    return float(found[0]), (float(found[1:].mean()) if small else chance) + z * spread


def _standardised(values: np.ndarray) -> np.ndarray:
    spread = values.std(axis=0)
    spread[spread == 0] = 1.0
    return (values - values.mean(axis=0)) / spread


def _folds(rows: int, random: np.random.Generator) -> np.ndarray:
    """Which fold each row is left out in. The labels have no part in it, so that the true ones and permuted ones are alike."""
    return random.permutation(rows) % FOLDS


def _accuracies(values: np.ndarray, indicators: np.ndarray, sizes: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Balanced accuracy of each labelling, each row guessed by the folds that it is not in.

    `indicators`: (rows, labellings, classes) of 0 and 1; `sizes`: rows of each class, which all labellings share.
    """
    import numpy as np

    rows, n_labellings, n_classes = indicators.shape
    right = np.zeros((n_classes, n_labellings))
    for fold in range(FOLDS):
        out = folds == fold
        inside = values[~out]
        centre = inside.mean(axis=0)
        centred = inside - centre
        penalised = centred.T @ centred + RIDGE_ROWS * np.eye(values.shape[1])
        hat = (values[out] - centre) @ np.linalg.solve(penalised, centred.T)  # (rows left out, rows fitted on)
        known, left_out = indicators[~out], indicators[out]
        scores = (hat @ known.reshape(len(known), -1)).reshape(left_out.shape)
        shares = np.maximum(known.sum(axis=0) / len(known), 1 / rows)
        guesses = _largest(scores, shares)
        for group in range(n_classes):
            right[group] += ((guesses == group) * left_out[:, :, group]).sum(axis=0)
    return (right / sizes[:, None]).mean(axis=0)


def _largest(scores: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The class of the largest share-corrected score, (rows, labellings): an argmax over the last axis, which numpy does slowly
    for a few classes."""
    import numpy as np

    largest = scores[:, :, 0] / shares[:, 0]
    guesses = np.zeros(largest.shape, dtype=np.int8)
    for group in range(1, scores.shape[2]):
        score = scores[:, :, group] / shares[:, group]
        guesses[score > largest] = group
        np.maximum(largest, score, out=largest)
    return guesses
