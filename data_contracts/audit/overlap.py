"""Are held-out rows new to a model that saw the others? No input among both, and neither an input nor a learned text nearly so.

A row that training has seen measures memory, not skill; a trace copied under a new input is as much known as its input.
Of a row that the contract itself holds out each line of its input must be new as well. Rows of your own may share one line
with many others, in training and held out alike.
"""

from __future__ import annotations

import polars as pl

from data_contracts.audit.heldout_search import PART, HeldoutSearch, compared
from data_contracts.audit.similarity import identical_inputs, largest_similarity, normalised
from data_contracts.limits import Limits
from data_contracts.verdict import Check, check, report

SHOWN_ROWS = 5


def split_checks(train: pl.DataFrame, heldout: pl.DataFrame, limits: Limits, own: pl.DataFrame | None) -> list[Check]:
    """Two splits, as the audit's views of them. `own`: the rows that the contract itself holds out."""
    same = identical_inputs(normalised(train), normalised(heldout))
    enough = bool(train.height and heldout.height)
    fix = f"Drop these rows from one of the two splits ({limits.where} has the limit)"
    name = "held-out inputs that are also in training"
    detail = some("held-out rows", same) if enough else "no rows to compare"
    checks = [check(name, len(same), "==", 0, unit="rows", detail=detail, fix=fix, enough=enough)]
    strict = None if own is None else heldout.filter(normalised(heldout).is_in(normalised(own).implode()))
    for what, (limit, words) in compared(heldout.columns, limits).items():
        rows = strict if what.startswith(PART) else heldout
        if rows is None or (what.startswith(PART) and rows.is_empty()):
            continue
        nothing = (None, "no rows to compare")
        nearest, detail = largest_similarity(train, rows, what, "training", words) if enough else nothing
        checks.append(_near(what, "training", limit, nearest, detail, fix, enough))
    return checks


def file_checks(
    same: list[int], sample: pl.DataFrame, heldout: pl.DataFrame, search: HeldoutSearch, limits: Limits
) -> list[Check]:
    """A file beside the contract's own held-out rows.

    `same`: the file's rows whose inputs those have; `search`: what was found among all of its rows; `sample`: some of them.
    """
    enough = bool(heldout.height)
    fix = f"Drop these rows: examples/heldout.jsonl is there to measure what is trained on this file ({limits.where})"
    name = "inputs that are also in examples/heldout.jsonl"
    detail = some("rows", same) if enough else "examples/heldout.jsonl has no rows"
    checks = [check(name, len(same), "==", 0, unit="rows", detail=detail, fix=fix, enough=enough)]
    enough = enough and bool(sample.height)
    for what, (limit, words) in compared(heldout.columns, limits).items():
        nearest, detail = None, "no rows to compare"
        if enough:
            nearest, detail = largest_similarity(sample, heldout, what, "file", words)
            closest, pair, looked = search.nearest(what)
            nearest, detail = (closest, pair) if closest > nearest else (nearest, detail)
            detail += f"; copies looked for in {looked}, the number where there is none is of {sample.height:,}"
        checks.append(_near(what, "file", limit, nearest, detail, fix, enough))
    return checks


def _near(
    what: str, where: str, limit: float | None, nearest: float | None, detail: str, fix: str, enough: bool
) -> Check:
    """The nearest input, line of one, or learned text of any two rows of both."""
    what = what.removeprefix(PART)
    name = f"largest similarity of a held-out {what} with {_article(where, what)}"
    if limit is None:
        return report(name, nearest, detail=f"{detail}; no limit: {what}s are templated")
    return check(name, nearest, "<=", limit, detail=detail, fix=fix, enough=enough)


def _article(where: str, what: str) -> str:
    return f"a training {what}" if where == "training" else f"{'an' if what[0] in 'aeiou' else 'a'} {what} of the file"


def some(what: str, numbers: list[int]) -> str:
    """The first few numbers, after what they count; empty when there are none."""
    more = ", ..." if len(numbers) > SHOWN_ROWS else ""
    return f"{what} {', '.join(map(str, numbers[:SHOWN_ROWS]))}{more}" if numbers else ""
