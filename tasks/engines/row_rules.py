"""Single rows beside their contract, before there is a set of them: the rules of rows.py, then the length of the trace."""

from __future__ import annotations

from importlib import import_module

from data_contracts.limits import Limits


def broken_rules(recipe: str, limits: Limits, rows: list[dict]) -> dict[int, str]:
    """Why a row is not kept, as `kind: detail`, by its number from 1; a row that keeps everything is not in it."""
    if not rows:
        return {}
    import polars as pl

    from data_contracts.contract import check_rows

    alone = limits.model_copy(update={"min_rows": 1})
    findings = check_rows(recipe, pl.DataFrame(rows, infer_schema_length=None), alone)
    found = {number: f"row contract: {'; '.join(reasons)}" for number, reasons in findings.reasons.items()}
    sound = [number for number in range(1, len(rows) + 1) if number not in found]
    traces = _traces(recipe, findings.accepted) if sound else []
    for number, trace in zip(sound, traces, strict=False):
        if not limits.min_trace_chars <= len(trace) <= limits.max_trace_chars:
            bounds = f"{limits.min_trace_chars:,} to {limits.max_trace_chars:,}"
            found[number] = f"length: the trace has {len(trace):,} characters, not {bounds}"
    return found


def _traces(recipe: str, frame) -> list[str]:
    """The thinking traces of rows that keep their contract; none for a recipe whose rows have no trace."""
    viewed = import_module(f"data_contracts.{recipe}.rows").audited(frame)
    return viewed["trace"].to_list() if "trace" in viewed.columns else []
