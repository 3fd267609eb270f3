"""Does a trace conclude what its answer says? A trace that argues for a fall beside a positive sign teaches the sign flip."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

import polars as pl

from data_contracts.audit.shortcuts import sampled
from data_contracts.limits import AssessmentLimits
from data_contracts.verdict import Check, check, report

SHOWN_ROWS = 8
SIGN_CONTRADICTED = pl.col("sign") != pl.col("answer_sign")
SIZE_CONTRADICTED = ~pl.col("answer_size").is_between(pl.col("size_from") - 1e-9, pl.col("size_to") + 1e-9)
"""Beside `concluded`'s columns, the answer's own; null where the words decide nothing or nothing was answered."""
FIX = "Read these rows: correct the field or rewrite the end of the trace, whichever is wrong"


def trace_agrees(view: pl.DataFrame, limits: AssessmentLimits) -> list[Check]:
    """Rows whose words decide a sign or a size that the answer contradicts; and in how many rows the words decide a sign.

    The recipe's `rows.concluded(traces)` reads the words: columns `sign`, `size_from`, `size_to`, null where they do not
    tell. It runs on the sample alone, for it is the slowest part of an audit.
    """
    sample = sampled(view).select("row", "trace", answer_sign="sign", answer_size="size")
    told = import_module(f"data_contracts.{limits.recipe}.rows").concluded(sample["trace"])
    rows = sample.hstack(told)
    signs = rows.filter(pl.col("sign").is_not_null() & pl.col("answer_sign").is_not_null())
    sizes = rows.filter(pl.col("size_from").is_not_null() & pl.col("answer_size").is_not_null())
    decided = round(signs.height / rows.height, 6) if rows.height else None
    enough = rows.height >= limits.min_audit_rows // 2 and (decided or 0) >= limits.min_concluded_fraction
    return [
        check(
            "fraction of traces whose words decide a sign",
            decided,
            ">=",
            limits.min_concluded_fraction,
            detail=f"{signs.height:,} of {rows.height:,} rows",
            fix=f"{limits.words.conclude}, or extend the recipe's word lists by the words it uses",
            enough=enough,
        ),
        _contradictions("sign", signs, SIGN_CONTRADICTED, _sign_pair(), limits, enough),
        report(
            "traces whose words decide a size",
            sizes.height if rows.height else None,
            unit="rows",
            detail="this profile's traces need not say one",
        )
        if limits.sizes_unsaid and sizes.is_empty()
        else _contradictions("size", sizes, SIZE_CONTRADICTED, _size_pair(), limits, enough and sizes.height > 0),
    ]


def agreement(told: pl.DataFrame, signs: Sequence[int | None], sizes: Sequence[float | None]) -> list[bool | None]:
    """Whether each answer says what its trace concludes (`told`: the columns of `concluded`); None where nothing can be told."""
    answers = {"answer_sign": pl.Series(signs, dtype=pl.Int8), "answer_size": pl.Series(sizes, dtype=pl.Float64)}
    contradicted = pl.any_horizontal(SIGN_CONTRADICTED.fill_null(False), SIZE_CONTRADICTED.fill_null(False))
    decided = SIGN_CONTRADICTED.is_not_null() | SIZE_CONTRADICTED.is_not_null()
    return told.with_columns(**answers).select(pl.when(decided).then(~contradicted)).to_series().to_list()


def _contradictions(
    what: str, decided: pl.DataFrame, wrong: pl.Expr, pair: pl.Expr, limits: AssessmentLimits, enough: bool
) -> Check:
    found = decided.filter(wrong).sort("row")
    fraction = round(found.height / decided.height, 6) if decided.height else 0.0
    shown = "; ".join(f"row {row} {said}" for row, said in found.select("row", pair).head(SHOWN_ROWS).rows())
    more = f"; and {found.height - SHOWN_ROWS:,} more" if found.height > SHOWN_ROWS else ""
    return check(
        f"fraction of traces that contradict the answer's {what}",
        fraction,
        "<=",
        limits.max_contradiction_fraction,
        detail=f"{found.height:,} of {decided.height:,} rows in which the words decide{': ' if shown else ''}{shown}{more}",
        fix=FIX,
        enough=enough,
    )


def _sign_pair() -> pl.Expr:
    return pl.format("concludes {}, answers {}", "sign", "answer_sign")


def _size_pair() -> pl.Expr:
    ends = (pl.col(name).clip(0, 1).round(2) for name in ("size_from", "size_to"))
    return pl.format("concludes {} to {}, answers {}", *ends, "answer_size")
