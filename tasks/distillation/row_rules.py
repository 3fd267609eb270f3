"""Single rows beside their contract, before there is a set of them: the rules of rows.py, then the trace: its length, and whether
it concludes what its own fields say."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from data_contracts.limits import Limits, SignWords

if TYPE_CHECKING:
    import polars as pl


def broken_rules(recipe: str, limits: Limits, rows: list[dict]) -> dict[int, str]:
    """Why a row is not kept, as `kind: detail`, by its number from 1; a row that keeps everything is not in it."""
    if not rows:
        return {}
    import polars as pl

    from data_contracts.rows.contract import check_rows

    alone = limits.model_copy(update={"min_rows": 1})
    findings = check_rows(recipe, pl.DataFrame(rows, infer_schema_length=None), alone)
    found = {number: f"row contract: {'; '.join(reasons)}" for number, reasons in findings.reasons.items()}
    sound = [number for number in range(1, len(rows) + 1) if number not in found]
    view = import_module(f"data_contracts.{recipe}.rows").audited(findings.accepted) if sound else None
    words = limits.words
    if view is None or words is None:  # a recipe whose rows have no trace
        return found
    shortest, longest = limits.text_chars
    for number, trace, denied in zip(sound, view["trace"], _contradictions(recipe, view, words), strict=True):
        if not shortest <= len(trace) <= longest:
            bounds = f"{shortest:,} to {longest:,}"
            found[number] = f"length: the trace has {len(trace):,} characters, not {bounds}"
        elif denied:
            found[number] = f"contradiction: {denied}"
    return found


def _contradictions(recipe: str, view: pl.DataFrame, words: SignWords) -> list[str]:
    """What each trace concludes and its fields deny; empty where they agree, or where the words decide nothing."""
    from data_contracts.audit.consistency import agreement

    told = import_module(f"data_contracts.{recipe}.rows").concluded(view["trace"])
    answers = [view["sign"].to_list(), view["size"].to_list()]
    found = zip(told.iter_rows(named=True), *answers, agreement(told, *answers), strict=True)
    return ["" if agrees is not False else _denied(said, sign, size, words) for said, sign, size, agrees in found]


def _denied(said: dict, sign: int, size: float, words: SignWords) -> str:
    signs = dict(zip((1, -1, 0), words.concludes, strict=True))
    concludes = signs.get(said["sign"], "")
    if said["sign"] is None or said["sign"] == sign:
        concludes = f"a change of {words.target} by {said['size_from']:.2f} to {said['size_to']:.2f}"
    return f"the trace concludes {concludes}, its fields {signs[sign]}, by {size:g}; make the words lead to the fields"
