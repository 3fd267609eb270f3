"""Does a table hold every case that it must teach? A model learns no case that it was never shown."""

from __future__ import annotations

from importlib import import_module

import polars as pl

from data_contracts.limits import AssessmentLimits
from data_contracts.verdict import Check, check, report


def coverage(view: pl.DataFrame, limits: AssessmentLimits) -> list[Check]:
    """Share of each kind of information and of both ends of the sizes among signal rows; counts of the hard cases.

    The whole view is counted: these are sums. A null limit reports the number.
    """
    signal = view.filter(~pl.col("malformed").fill_null(False) & ~pl.col("noise").fill_null(True))
    apart = signal.filter((pl.col("sign") != 0) & (pl.col("sign") == -pl.col("metric_sign")))
    malformed = view.filter(pl.col("malformed").fill_null(False))
    return [
        _rarest_kind(signal, limits),
        _end("small", signal, pl.col("size") <= limits.small_size, limits.min_small_fraction, limits),
        _end("large", signal, pl.col("size") >= limits.large_size, limits.min_large_fraction, limits),
        _count(f"rows in which {limits.words.apart}", apart.height, limits.min_disagreeing_rows, view),
        _count("malformed rows", malformed.height, limits.min_malformed_rows, view),
    ]


def spread_of_labels(sample: pl.DataFrame, limits: AssessmentLimits) -> list[Check]:
    """For each numeric label of the sample, the share of its most frequent value among the signal rows."""
    signal = sample.filter(~pl.col("malformed").fill_null(False) & ~pl.col("noise").fill_null(True))
    names = [name for name, kind in sample.schema.items() if name.startswith("label_") and kind.is_numeric()]
    return [_one_value(name.removeprefix("label_"), signal[name].drop_nulls(), limits) for name in names]


def _one_value(label: str, values: pl.Series, limits: AssessmentLimits) -> Check:
    name = f"share of the most frequent value of {label}"
    most = values.value_counts(sort=True).row(0) if len(values) else (None, 0)
    share = round(most[1] / len(values), 6) if len(values) else None
    detail = f"{most[1]:,} of {len(values):,} signal rows have {most[0]}"
    if limits.max_one_value_fraction is None:
        return report(name, share, detail=detail)
    fix = f"Assess {label} row by row: a label that hardly varies teaches a constant ({limits.where})"
    enough = len(values) >= limits.min_audit_rows // 2
    return check(name, share, "<=", limits.max_one_value_fraction, detail=detail, fix=fix, enough=enough)


def _rarest_kind(signal: pl.DataFrame, limits: AssessmentLimits) -> Check:
    """The recipe's `rows.SIGNAL_KINDS` says which kinds there are, so that one without a row is found."""
    kinds = import_module(f"data_contracts.{limits.recipe}.rows").SIGNAL_KINDS
    found = dict(signal["kind"].value_counts().rows())
    counts = {kind: found.get(kind, 0) for kind in kinds}
    rarest = min(counts.values()) / signal.height if signal.height else None
    detail = f"{signal.height:,} signal rows: " + ", ".join(f"{kind} {rows:,}" for kind, rows in counts.items())
    return _share("share of the rarest kind of information", rarest, limits.min_kind_fraction, detail, signal, limits)


def _end(name: str, signal: pl.DataFrame, inside: pl.Expr, least: float | None, limits: AssessmentLimits) -> Check:
    rows = signal.filter(inside).height
    bound = f"at most {limits.small_size}" if name == "small" else f"at least {limits.large_size}"
    share = rows / signal.height if signal.height else None
    detail = f"{rows:,} of {signal.height:,} signal rows have a {limits.words.size} of {bound}"
    return _share(f"share of {name} updates", share, least, detail, signal, limits)


def _share(
    name: str, share: float | None, least: float | None, detail: str, signal: pl.DataFrame, limits: AssessmentLimits
) -> Check:
    shown = None if share is None else round(share, 6)
    if least is None:
        return report(name, shown, detail=detail)
    fix = f"Add rows of the missing case (data_contracts/{limits.recipe}/limits.yaml, {limits.profile})"
    return check(name, shown, ">=", least, detail=detail, fix=fix, enough=signal.height >= limits.min_audit_rows // 2)


def _count(name: str, rows: int, least: int | None, view: pl.DataFrame) -> Check:
    if least is None:
        return report(name, rows if view.height else None, unit="rows", detail=f"of {view.height:,}")
    fix = "Add such rows: a model that never saw this case fails in it"
    detail = f"of {view.height:,}"
    return check(name, rows, ">=", least, unit="rows", detail=detail, fix=fix, enough=view.height > 0)
