"""Checks on a set of rows that no single row can break: lengths, shares, leaks, and what a shortcut could learn.

Every check carries its number, its limit and one of three verdicts. The recipe says what to look at (`rows.audited`);
nothing here knows a recipe by name.
"""

from __future__ import annotations

from importlib import import_module

import polars as pl

from data_contracts import markers
from data_contracts.errors import ContractError
from data_contracts.limits import Limits
from data_contracts.shortcuts import length_independence, length_shortcut
from data_contracts.similarity import identical_inputs, largest_similarity, normalised_inputs
from data_contracts.verdict import Check, check, report

SHOWN_ROWS = 5


def audit_rows(frame: pl.DataFrame, limits: Limits) -> list[Check]:
    """Every set-level check of one table.

    Raises:
        ContractError: a column that the audit looks at is missing; `contract.check_rows` tells more.
    """
    view = _view(frame, limits)
    return [
        check(
            "rows", view.height, ">=", limits.min_rows, unit="rows", fix="Add rows, or name the right limits profile"
        ),
        *_trace_lengths(view, limits),
        *length_independence(view, limits),
        *length_shortcut(view, limits),
        *_noise(view, limits),
        *_signs(view, limits),
        *_leaks(view),
        _repeated_inputs(view),
    ]


def audit_splits(train: pl.DataFrame, heldout: pl.DataFrame, limits: Limits) -> list[Check]:
    """Whether held-out inputs are new to a model that saw `train`: none identical, and none nearly so.

    Raises:
        ContractError: a column that the audit looks at is missing.
    """
    inputs, new_inputs = (normalised_inputs(_view(one, limits)) for one in (train, heldout))
    enough = bool(len(inputs) and len(new_inputs))
    same = identical_inputs(inputs, new_inputs)
    nearest, detail = largest_similarity(inputs, new_inputs) if enough else (None, "no rows to compare")
    limit, name = limits.max_input_similarity_fraction, "largest similarity of a held-out input with a training input"
    fix = f"Drop these rows from one of the two splits ({_limits_file(limits)} has the limit)"
    return [
        check(
            "held-out inputs that are also in training",
            len(same),
            "==",
            0,
            unit="rows",
            detail=_some("held-out rows", same) if enough else "no rows to compare",
            fix=fix,
            enough=enough,
        ),
        report(name, nearest, detail=f"{detail}; no limit: inputs are templated")
        if limit is None
        else check(name, nearest, "<=", limit, detail=detail, fix=fix, enough=enough),
    ]


def _view(frame: pl.DataFrame, limits: Limits) -> pl.DataFrame:
    try:
        return import_module(f"data_contracts.{limits.recipe}.rows").audited(frame)
    except pl.exceptions.PolarsError as error:
        first = (str(error).splitlines() or [""])[0]
        raise ContractError(
            f"audit: the {frame.height:,} rows lack what the audit of {limits.recipe} looks at ({first}). "
            f"Found columns {', '.join(frame.columns) or 'none'}. Run the row contract first and correct what it names."
        ) from None


def _limits_file(limits: Limits) -> str:
    return f"data_contracts/{limits.recipe}/limits.yaml, {limits.profile}"


def _some(what: str, numbers: list[int]) -> str:
    return (
        f"{what} {', '.join(map(str, numbers[:SHOWN_ROWS]))}{', ...' if len(numbers) > SHOWN_ROWS else ''}"
        if numbers
        else ""
    )


def _rows(view: pl.DataFrame, mask: pl.Expr) -> list[int]:
    return (view.select(mask.fill_null(False)).to_series().arg_true() + 1).to_list()


def _trace_lengths(view: pl.DataFrame, limits: Limits) -> list[Check]:
    chars = pl.col("trace").str.len_chars()
    lengths = view.select(chars).to_series()
    short, long = (_rows(view, one) for one in (chars < limits.min_trace_chars, chars > limits.max_trace_chars))
    fix = f"Rewrite these traces to one length in every class ({_limits_file(limits)} has the bounds)"
    return [
        check(
            f"{name} trace",
            measured,
            comparison,
            limit,
            unit="characters",
            detail=f"{len(outside):,} of {view.height:,} rows outside{': ' if outside else ''}{_some('rows', outside)}",
            fix=fix,
        )
        for name, measured, comparison, limit, outside in (
            ("shortest", lengths.min(), ">=", limits.min_trace_chars, short),
            ("longest", lengths.max(), "<=", limits.max_trace_chars, long),
        )
    ]


def _share(
    name: str, hits: int, of: int, limits: Limits, low: float | None, high: float | None, what: str, fix: str
) -> list[Check]:
    fraction = round(hits / of, 6) if of else None
    bounds = [(">=", low), ("<=", high)]
    return [
        check(
            f"{name} ({'at least' if comparison == '>=' else 'at most'})",
            fraction,
            comparison,
            limit,
            detail=f"{hits:,} of {of:,} {what}",
            fix=f"{fix} ({_limits_file(limits)})",
            enough=of >= limits.min_audit_rows // 2,
        )
        for comparison, limit in bounds
        if limit is not None
    ]


def _noise(view: pl.DataFrame, limits: Limits) -> list[Check]:
    hits = len(_rows(view, pl.col("noise")))
    low, high = limits.min_noise_fraction, limits.max_noise_fraction
    return _share("noise fraction", hits, view.height, limits, low, high, "rows", "Add or drop noise rows")


def _signs(view: pl.DataFrame, limits: Limits) -> list[Check]:
    signed = view.filter(pl.col("sign") != 0)
    both = signed.filter(pl.col("metric_sign") != 0)
    positive = signed.filter(pl.col("sign") > 0).height
    apart = both.filter(pl.col("sign") == -pl.col("metric_sign")).height
    low, high = limits.min_positive_fraction, limits.max_positive_fraction
    return [
        *_share(
            "YES-more-likely fraction",
            positive,
            signed.height,
            limits,
            low,
            high,
            "rows with a direction",
            "Ask some of the questions the other way round, or add rows of the rarer sign",
        ),
        *_share(
            "fraction of rows where metric and YES move apart",
            apart,
            both.height,
            limits,
            limits.min_disagreeing_fraction,
            None,
            "rows in which both move",
            "Add rows such as 'Fed cuts rates' with 'Will the Fed cut?': only they show the sign flip",
        ),
    ]


def _leaks(view: pl.DataFrame) -> list[Check]:
    fix = "Cut the trace out of the raw answer again; do not delete the marker by hand, what follows it is no trace"
    return [
        check(name, len(hits), "==", 0, unit="rows", detail=_some("rows", hits), fix=fix, enough=view.height > 0)
        for name, pattern in (
            ("traces with a raw marker such as <|channel|>", markers.RAW_MARKERS),
            ("traces with a stripped marker such as assistantfinal", markers.STRIPPED_MARKERS),
            ("traces with a second think tag", markers.THINK_TAGS),
        )
        for hits in [_rows(view, pl.col("trace").str.contains(pattern))]
    ]


def _repeated_inputs(view: pl.DataFrame) -> Check:
    again = (normalised_inputs(view).is_first_distinct().not_().arg_true() + 1).to_list()
    return check(
        "inputs that occur before in the same table",
        len(again),
        "==",
        0,
        unit="rows",
        detail=_some("rows", again),
        fix="Drop the repeats: an input counted twice is learned twice, and may carry two answers",
        enough=view.height > 0,
    )
