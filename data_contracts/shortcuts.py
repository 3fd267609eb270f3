"""Can a label be guessed from the length of its trace? The spurious correlation of the first story, as a number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from data_contracts.limits import Limits
from data_contracts.verdict import Check, check

if TYPE_CHECKING:
    import numpy as np

PERMUTATIONS = 1_000
SAMPLE_ROWS = 5_000
"""More rows change neither verdict; the sample keeps the audit at seconds for any table."""
FOLDS = 5
REPEATS = 4
SEED = 42
ONE_SIDED_Z = 1.645
"""Standard errors above chance that luck exceeds one time in twenty."""


def length_independence(view: pl.DataFrame, limits: Limits) -> list[Check]:
    """|Spearman correlation| of trace length with each numeric label, with a permutation p-value.

    Above the limit it is *fail* when chance rarely gives as much (p <= max_p_value), else *cannot tell*.
    """
    labels = [name for name in view.columns if name.startswith("label_")]
    sample = _sample(view).with_columns(chars=pl.col("trace").str.len_chars())
    return [_independence(sample, name, limits, _batch_medians(view)) for name in labels]


def _independence(sample: pl.DataFrame, column: str, limits: Limits, batches: str) -> Check:
    name = f"|rank correlation| of trace length with {column.removeprefix('label_')}"
    rho, p_value = rank_correlation(sample["chars"].to_numpy(), sample[column].to_numpy())
    limit = limits.max_length_rank_correlation
    told = sample.height >= limits.min_audit_rows
    chance = rho is not None and abs(rho) > limit and p_value > limits.max_p_value
    detail = f"{sample.height:,} rows"
    if rho is not None:
        detail = f"correlation {rho:+.3f}, permutation p {p_value:.4f}, {detail}"
    detail += f"; fewer than min_audit_rows {limits.min_audit_rows}" if not told else ""
    detail += "; above the limit, but chance may give as much" if told and chance else ""
    return check(
        name,
        None if rho is None else round(abs(rho), 6),
        "<=",
        limit,
        detail=f"{detail}; median characters: {batches}",
        fix="Rewrite the traces to one length distribution for every label and every batch, then audit again",
        enough=told and not chance,
    )


def rank_correlation(lengths: np.ndarray, label: np.ndarray) -> tuple[float | None, float]:
    """Spearman correlation, and the share of permutations with one as large; None when length or label never varies."""
    import numpy as np

    if len(lengths) < 3:
        return None, 1.0
    x, y = (_standard_ranks(one) for one in (lengths, label))
    if x is None or y is None:
        return None, 1.0
    rho = float(x @ y)
    random = np.random.default_rng(SEED)
    at_least = sum(abs(float(x @ random.permutation(y))) >= abs(rho) - 1e-12 for _ in range(PERMUTATIONS))
    return rho, (1 + at_least) / (1 + PERMUTATIONS)


def _standard_ranks(values: np.ndarray) -> np.ndarray | None:
    """Average ranks, centred, of length 1; so that a dot product of two is their correlation."""
    import numpy as np

    ranks = pl.Series(values).rank("average").to_numpy()
    centred = ranks - ranks.mean()
    size = float(np.linalg.norm(centred))
    return centred / size if size > 0 else None


def length_shortcut(view: pl.DataFrame, limits: Limits) -> list[Check]:
    """Balanced accuracy with which a cross-validated logistic model guesses a label from the trace length alone."""
    sample = _sample(view).with_columns(chars=pl.col("trace").str.len_chars())
    signed = sample.filter(pl.col("sign") != 0)
    return [
        _shortcut("noise", sample["chars"], sample["noise"], limits),
        _shortcut("sign", signed["chars"], signed["sign"] > 0, limits),
    ]


def _shortcut(label: str, chars: pl.Series, target: pl.Series, limits: Limits) -> Check:
    yes, rows = int(target.sum() or 0), len(target)
    classes = (yes, rows - yes)
    limit = 0.5 + limits.max_shortcut_advantage_fraction
    told = rows >= limits.min_audit_rows // 2 and min(classes) >= FOLDS
    accuracy = guess_accuracy(chars.to_numpy(), target.to_numpy()) if told else None
    luck = 0.5 + ONE_SIDED_Z * 0.25 * sum(1 / one for one in classes if one) ** 0.5
    chance = accuracy is not None and limit < accuracy <= luck
    counts = f"{classes[0]:,} against {classes[1]:,} rows"
    why = (
        "; too few rows of one class"
        if not told
        else "; above the limit, but chance may give as much"
        if chance
        else ""
    )
    return check(
        f"balanced accuracy of guessing {label} from trace length alone",
        None if accuracy is None else round(accuracy, 6),
        "<=",
        round(limit, 6),
        detail=f"chance is 0.5; {counts}{why}",
        fix="Give both classes the same spread of trace lengths; the model will otherwise learn the length",
        enough=told and not chance,
    )


def guess_accuracy(chars: np.ndarray, target: np.ndarray) -> float:
    """Mean balanced accuracy over repeated stratified folds. Features: length and its square, so that a class
    in the middle of the range, or at both ends of it, is found too."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    features = chars.astype(np.float64).reshape(-1, 1)
    model = make_pipeline(
        StandardScaler(),
        PolynomialFeatures(2, include_bias=False),
        StandardScaler(),
        LogisticRegression(class_weight="balanced"),
    )
    scores = []
    for repeat in range(REPEATS):
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=SEED + repeat)
        scores.append(balanced_accuracy_score(target, cross_val_predict(model, features, target, cv=folds)))
    return float(np.mean(scores))


def _sample(view: pl.DataFrame) -> pl.DataFrame:
    return view if view.height <= SAMPLE_ROWS else view.sample(SAMPLE_ROWS, seed=SEED)


def _batch_medians(view: pl.DataFrame) -> str:
    by_batch = view.group_by("source_batch").agg(pl.col("trace").str.len_chars().median().alias("chars"), pl.len())
    shown = by_batch.sort("chars").rows()
    ends = shown if len(shown) <= 4 else [*shown[:2], *shown[-2:]]
    return ", ".join(f"{batch} {chars:.0f} ({rows:,} rows)" for batch, chars, rows in ends) or "none"
