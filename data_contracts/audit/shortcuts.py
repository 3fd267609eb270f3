"""Can a label be guessed without reading? The spurious correlation of the first story, as numbers: the text's length beside
every label and batch, and small models that see only the length, or only the surface of the texts.

The labels are those of the view: `label_<name>`, ranked when it holds numbers, guessed when it holds names; and the
columns of a family of limits. A row whose label is empty has no part in its checks. That a row is malformed is a label too,
which its trace alone must not give away: its input is there to show it (an empty line is short).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from data_contracts.audit.content_order import content_lots
from data_contracts.audit.guessing import FOLDS, SEED, accuracy_and_chance
from data_contracts.audit.surface import surface_features
from data_contracts.limits import Guess, Limits
from data_contracts.verdict import Check, check, report

if TYPE_CHECKING:
    import numpy as np

PERMUTATIONS = 1_000
SAMPLE_ROWS = 5_000
"""More rows change no verdict; the sample keeps the audit at seconds for any table."""
MODEL_ROWS = 1_500
"""Rows that a model of many features is fitted on: the standard error of its accuracy is then below 0.02."""
MALFORMED_ROWS = 150
"""Malformed rows that are set beside others, and ..."""
OTHERS_EACH = 9
"""... how many well-formed ones beside each: with more, what half of the malformed rows begin with would be no frequent value."""
LENGTH_LEVEL, SURFACE_LEVEL = 0.05, 0.01
"""How often chance alone may refuse a sound set, over all labels: by length, the shortcut that is known to happen, and by some
eighty further features, which nobody suspects beforehand."""
LABELS = 8
"""Labels that are guessed in one set: seven of an assessment, and whether its input is malformed."""
NAMED_FEATURES = 3
FIGURES = ("digits", "percent signs", "currency signs", "characters a word")
"""Features that tell whether a trace comes to a probability, and what it weighs on the way: one of a malformed input cannot.
Gold's traces are told apart by them (0.93 of 0.50), and by nothing else (0.52)."""
NAMED_BATCHES = 6


def sampled(view: pl.DataFrame, rows: int = SAMPLE_ROWS) -> pl.DataFrame:
    """At most `rows` well-formed rows (a malformed row has no label to guess), each with its number in `row`, from 1."""
    numbered = view if "row" in view.columns else view.with_row_index("row", offset=1)
    return _at_most(rows, numbered.filter(~pl.col("malformed").fill_null(False)))


def _at_most(rows: int, kept: pl.DataFrame) -> pl.DataFrame:
    return kept if kept.height <= rows else kept.filter(content_lots(kept).rank("ordinal") <= rows)


def _beside_malformed(view: pl.DataFrame) -> pl.DataFrame:
    """Malformed rows, and well-formed ones beside them, told apart in `answer`; empty when there is no malformed row."""
    malformed = _at_most(MALFORMED_ROWS, view.filter(pl.col("malformed").fill_null(False)))
    others = _at_most(OTHERS_EACH * malformed.height, view.filter(~pl.col("malformed").fill_null(False)))
    name = pl.when(pl.col("malformed").fill_null(False)).then(pl.lit("malformed")).otherwise(pl.lit("well-formed"))
    return pl.concat([malformed, others]).with_columns(answer=name)


def length_independence(view: pl.DataFrame, limits: Limits) -> list[Check]:
    """|Spearman correlation| of the text's length with each label and each batch, with a permutation p.

    A numeric label is ranked. A name (a kind, the source batch) is one indicator for each value: the largest correlation
    counts, and its p-value is that of the largest among as many. Above the limit it is *fail* when chance rarely gives
    as much (p <= max_p_value), else *cannot tell*. Where the view tells tasks apart, a batch's lengths are ranked within
    each: a batch of one task would otherwise be called long or short for its task. Where there are malformed rows, they are
    one of two groups beside well-formed ones.
    """
    sample = sampled(view).with_columns(chars=pl.col(limits.argument).str.len_chars())
    batched = sample.with_columns(chars=pl.col(limits.text).str.len_chars())
    batches = _medians(batched, "source_batch")
    checks = []
    for name, column in _numeric_labels(view, limits).items():
        rows = sample.filter(pl.col(column).is_not_null() & pl.col("chars").is_not_null())
        rho, p_value = rank_correlation(rows["chars"].to_numpy(), rows[column].to_numpy())
        checks.append(_independence(name, rho, p_value, rows.height, limits, batches))
    for name, column in _named_labels(view, limits).items():
        rows = sample.filter(pl.col(column).is_not_null() & pl.col("chars").is_not_null())
        rho, p_value, group = group_correlation(rows["chars"].to_numpy(), rows[column])
        checks.append(_independence(name, rho, p_value, rows.height, limits, _medians(rows, column), group))
    lengths = batched["chars"]
    if "task" in view.columns:
        lengths = batched.select(pl.col("chars").rank("average").over("task") / pl.len().over("task")).to_series()
    rho, p_value, group = group_correlation(lengths.to_numpy(), batched["source_batch"])
    checks.append(_independence("source batch", rho, p_value, batched.height, limits, batches, group, limits.text))
    return [*checks, *_malformed_length(view, limits)]


def _malformed_length(view: pl.DataFrame, limits: Limits) -> list[Check]:
    rows = _beside_malformed(view).with_columns(chars=pl.col(limits.argument).str.len_chars())
    if rows.is_empty():
        return []
    enough = int((rows["answer"] == "malformed").sum()) >= FOLDS
    rho, p_value, _ = group_correlation(rows["chars"].to_numpy(), rows["answer"]) if enough else (None, 1.0, "")
    return [_independence("a malformed input", rho, p_value, rows.height, limits, _medians(rows, "answer"))]


def _numeric_labels(view: pl.DataFrame, limits: Limits) -> dict[str, str]:
    """Name -> column of the labels that have an order."""
    found = {
        name.removeprefix("label_"): name
        for name, kind in view.schema.items()
        if name.startswith("label_") and (kind.is_numeric() or kind == pl.Null)
    }
    return {**found, **limits.numeric_labels}


def _named_labels(view: pl.DataFrame, limits: Limits) -> dict[str, str]:
    """The same for labels that are names."""
    found = {
        name.removeprefix("label_"): name
        for name, kind in view.schema.items()
        if name.startswith("label_") and kind == pl.String
    }
    return {**found, **limits.named_labels}


def _independence(
    label: str,
    rho: float | None,
    p_value: float,
    rows: int,
    limits: Limits,
    medians: str,
    group: str = "",
    text: str = "",
) -> Check:
    text = text or limits.argument
    side = label in limits.side_fields
    limit = limits.max_length_side_correlation if side else limits.max_length_rank_correlation
    told = rows >= limits.min_audit_rows
    chance = rho is not None and abs(rho) > limit and p_value > limits.max_p_value
    detail = f"{rows:,} rows"
    if rho is not None:
        detail = f"{group and group + ': '}correlation {rho:+.3f}, permutation p {p_value:.4f}, {detail}"
    detail += f"; fewer than min_audit_rows {limits.min_audit_rows}" if not told else ""
    detail += "; above the limit, but chance may give as much" if told and chance else ""
    return check(
        f"|rank correlation| of {text} length with {label}",
        None if rho is None else round(abs(rho), 6),
        "<=",
        limit,
        detail=f"{detail}; median characters: {medians}",
        fix=f"Rewrite the {_plural(text)} to one length distribution for every label and every batch, then audit again",
        enough=told and not chance,
    )


def _plural(text: str) -> str:
    return text if text.endswith("ing") else f"{text}s"


def rank_correlation(lengths: np.ndarray, label: np.ndarray) -> tuple[float | None, float]:
    """Spearman correlation, and the share of permutations with one as large.

    Texts of one length give no label away: 0. None when the label never varies or there are fewer than 3 rows.
    """
    import numpy as np

    if len(lengths) < 3:
        return None, 1.0
    x, y = (_standard_ranks(values) for values in (lengths, label))
    if y is None:
        return None, 1.0
    if x is None:
        return 0.0, 1.0
    rho = float(x @ y)
    random = np.random.default_rng(SEED)
    at_least = sum(abs(float(x @ random.permutation(y))) >= abs(rho) - 1e-12 for _ in range(PERMUTATIONS))
    return rho, (1 + at_least) / (1 + PERMUTATIONS)


def group_correlation(lengths: np.ndarray, groups: pl.Series) -> tuple[float | None, float, str]:
    """The largest |correlation| of the length's ranks with belonging to one group, its p-value, and that group.

    One group alone differs from nothing, and texts of one length tell no group from another: 0. None when there are fewer
    than 3 rows.
    """
    import numpy as np

    if len(lengths) < 3:
        return None, 1.0, ""
    x = _standard_ranks(lengths)
    if x is None:
        return 0.0, 1.0, "one length"
    codes = groups.fill_null("none").rank("dense").to_numpy() - 1
    sizes = np.bincount(codes)
    if len(sizes) == 1:
        return 0.0, 1.0, "one group"
    spread = np.sqrt(sizes - sizes**2 / len(x))
    rhos = np.bincount(codes, weights=x) / spread
    worst = int(np.abs(rhos).argmax())
    random = np.random.default_rng(SEED)
    largest = (np.abs(np.bincount(codes, weights=random.permutation(x)) / spread).max() for _ in range(PERMUTATIONS))
    at_least = sum(one >= abs(rhos[worst]) - 1e-12 for one in largest)
    name = str(groups.fill_null("none")[int((codes == worst).argmax())])
    return float(rhos[worst]), (1 + at_least) / (1 + PERMUTATIONS), name


def _standard_ranks(values: np.ndarray) -> np.ndarray | None:
    """Average ranks, centred, of length 1; so that a dot product of two is their correlation."""
    import numpy as np

    ranks = pl.Series(values).rank("average").to_numpy()
    centred = ranks - ranks.mean()
    size = float(np.linalg.norm(centred))
    return centred / size if size > 0 else None


def _medians(sample: pl.DataFrame, column: str) -> str:
    by_group = sample.group_by(column).agg(pl.col("chars").median().alias("median"), pl.len().alias("rows"))
    shown = by_group.sort("median", column).rows()
    half = NAMED_BATCHES // 2
    ends = shown if len(shown) <= NAMED_BATCHES else [*shown[:half], *shown[-half:]]
    return ", ".join(f"{group} {chars:.0f} ({rows:,} rows)" for group, chars, rows in ends) or "none"


def surface_shortcuts(view: pl.DataFrame, limits: Limits) -> list[Check]:
    """Balanced accuracy with which a cross-validated linear model guesses a label without reading the texts.

    Two models for each label that is a name (and for noise, sign, kind of information, and the numbers above their median): one
    sees the text's length alone, one every surface feature (`surface_features`). The limit is the larger of the stated
    advantage over chance and what chance itself gives in so few rows (LENGTH_LEVEL, SURFACE_LEVEL). A null limit (texts made of
    templates) reports the number. Where there are malformed rows, the same is measured on them beside well-formed ones, of the
    trace alone and not of its figures.
    """
    sample = sampled(view.filter(pl.any_horizontal(_labelled(view, limits))), MODEL_ROWS)
    if sample.height < 2:
        features, names = None, list[str]()
    else:
        features, names = surface_features(sample, limits.argument)
    length = sample[limits.argument].str.len_chars().fill_null(0).to_numpy().reshape(-1, 1)
    checks = []
    for label, kept, target in _targets(sample, limits):
        rows = kept.to_numpy()
        values = target.filter(kept).to_numpy()
        checks.append(_shortcut(label, f"{limits.argument} length alone", length[rows], values, limits, []))
        seen = None if features is None else features[rows]
        checks.append(_shortcut(label, "surface features", seen, values, limits, names))
    return [*checks, *_malformed_surface(view, limits)]


def _malformed_surface(view: pl.DataFrame, limits: Limits) -> list[Check]:
    rows, text = _beside_malformed(view), limits.argument
    if rows.is_empty():
        return []
    features, names = surface_features(rows, text)
    left_out = {f"{text} {name}" for name in FIGURES}
    kept = [place for place, name in enumerate(names) if name.startswith(f"{text} ") and name not in left_out]
    seen, names = (features[:, kept], [names[place] for place in kept]) if kept else (None, [])
    length, answers = rows[text].str.len_chars().to_numpy().reshape(-1, 1), rows["answer"].to_numpy()
    label = "a malformed input"
    return [
        _shortcut(label, f"{text} length alone", length, answers, limits, []),
        _shortcut(label, f"surface features of the {text}", seen, answers, limits, names),
    ]


def _labelled(view: pl.DataFrame, limits: Limits) -> list[pl.Expr]:
    """In which rows there is a label to guess: all of them in a family whose every row has one."""
    if limits.labels_every_row:
        return [pl.lit(True)]
    return [pl.col(column).is_not_null() for column in _named_labels(view, limits).values()] or [pl.lit(False)]


def _targets(sample: pl.DataFrame, limits: Limits) -> list[tuple[str, pl.Series, pl.Series]]:
    """(label, which rows have it, its classes) of each label that a shortcut could lead to."""
    found = limits.guesses(_named_labels(sample, limits), sample.columns)
    return [(one.label, kept, _classes(sample, one, kept)) for one in found for kept in [_rows_with(sample, one)]]


def _rows_with(sample: pl.DataFrame, label: Guess) -> pl.Series:
    """Which rows have the label."""
    if label.among == "signal":
        return (~sample["noise"]).fill_null(False)
    if label.among == "signed":
        return (sample["sign"] != 0).fill_null(False)
    return sample[label.column].is_not_null()


def _classes(sample: pl.DataFrame, label: Guess, kept: pl.Series) -> pl.Series:
    """The label's classes by their names: what a report calls "True" means nothing to its reader."""
    values = sample[label.column]
    if label.split == "names":
        return values
    if label.split == "positive":
        values = values > 0
    elif label.split == "above median":
        values = _above_median(values, kept)
    true, false = label.classes
    return values.cast(pl.Int8).replace_strict({1: true, 0: false}, return_dtype=pl.String)


def _above_median(cells: pl.Series, kept: pl.Series) -> pl.Series:
    """Which cells are above the median of the kept ones, or from it on where that leaves too few: of a label with few values
    the median may be the largest."""
    middle = cells.filter(kept).cast(pl.Float64).median()
    if not isinstance(middle, float):
        return pl.Series([None] * len(cells), dtype=pl.Boolean)
    above = cells > middle
    return above if above.filter(kept).sum() >= FOLDS else cells >= middle


def _shortcut(
    label: str, sees: str, features: np.ndarray | None, target: np.ndarray, limits: Limits, names: list[str]
) -> Check:
    import numpy as np

    classes, sizes = np.unique(target.astype(str), return_counts=True)
    frequent = classes[sizes >= FOLDS]
    kept = np.isin(target.astype(str), frequent)
    told = int(kept.sum()) >= limits.min_audit_rows // 2 and len(frequent) >= 2
    name = f"balanced accuracy of guessing {label} from {sees}"
    advantage = limits.max_shortcut_advantage_fraction if not names else limits.max_surface_advantage_fraction
    if features is None or not told:
        return _cannot(name, advantage, dict(zip(classes, sizes, strict=True)))
    values, answers = features[kept], target[kept].astype(str)
    level = SURFACE_LEVEL if names else LENGTH_LEVEL
    accuracy, luck = accuracy_and_chance(values, answers, level / LABELS)
    counts = ", ".join(f"{one} {rows:,}" for one, rows in zip(classes, sizes, strict=True) if rows >= FOLDS)
    chance = 1 / len(frequent)
    shown = f"chance is {chance:.3f}; rows: {counts}"
    shown += f"; features that tell most: {telling(values, answers, names)}" if names else ""
    if advantage is None:
        return report(name, round(accuracy, 6), detail=f"{shown}; no limit: the texts are templated")
    limit = max(chance + advantage, luck)
    shown += f"; in so few rows chance gives up to {luck:.3f}" if luck > chance + advantage else ""
    return check(
        name,
        round(accuracy, 6),
        "<=",
        round(limit, 6),
        detail=shown,
        fix="Give every class the same spread of these features; the model will otherwise learn them",
    )


def _cannot(name: str, advantage: float | None, counts: dict) -> Check:
    detail = f"too few rows of a class: {', '.join(f'{one} {rows:,}' for one, rows in counts.items()) or 'none'}"
    if advantage is None:
        return report(name, None, detail=detail)
    return check(
        name, None, "<=", round(0.5 + advantage, 6), detail=detail, fix=f"Add rows: {FOLDS} of each class at least"
    )


def telling(features: np.ndarray, target: np.ndarray, names: list[str]) -> str:
    """The features that tell a class from the others best by themselves, as area under the ROC curve (0.5 is nothing), and
    whether that class has more or less of them; of two classes the one with more is named."""
    import numpy as np

    ranks = np.column_stack([pl.Series(one).rank("average").to_numpy() for one in features.T])
    best: dict[int, tuple[float, bool, str]] = {}
    for group in np.unique(target):
        inside = target == group
        n_in, n_out = int(inside.sum()), int((~inside).sum())
        area = (ranks[inside].sum(axis=0) - n_in * (n_in + 1) / 2) / (n_in * n_out)
        for index, one in enumerate(area):
            found = (round(float(max(one, 1 - one)), 9), bool(one >= 0.5), str(group))
            best[index] = max(best.get(index, found), found, key=lambda known: known[:2])
    top = sorted(best, key=lambda index: -best[index][0])[:NAMED_FEATURES]
    return ", ".join(
        f"{names[index]} ({'more' if more else 'less'} in {group!r}, AUC {area:.2f})"
        for index, (area, more, group) in ((index, best[index]) for index in top)
    )
