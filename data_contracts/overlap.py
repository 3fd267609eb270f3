"""Are held-out rows new to a model that saw the others? No input among both, and neither an input nor a learned text nearly so.

A row that training has seen measures memory, not skill; a trace copied under a new headline is as much known as its input.
"""

from __future__ import annotations

import polars as pl

from data_contracts.limits import Limits
from data_contracts.similarity import identical_inputs, largest_similarity, normalised
from data_contracts.verdict import Check, check, report

SHOWN_ROWS = 5


def split_checks(train: pl.DataFrame, heldout: pl.DataFrame, limits: Limits) -> list[Check]:
    """Two splits, as the audit's views of them."""
    same = identical_inputs(normalised(train), normalised(heldout))
    enough = bool(train.height and heldout.height)
    fix = f"Drop these rows from one of the two splits ({limits.where} has the limit)"
    name = "held-out inputs that are also in training"
    detail = some("held-out rows", same) if enough else "no rows to compare"
    first = check(name, len(same), "==", 0, unit="rows", detail=detail, fix=fix, enough=enough)
    return [first, *_near(train, heldout, limits, "training", fix, enough)]


def file_checks(same: list[int], sample: pl.DataFrame, heldout: pl.DataFrame, limits: Limits) -> list[Check]:
    """A file beside the contract's own held-out rows. `same`: the file's rows whose inputs those have; `sample`: of the file."""
    enough = bool(heldout.height)
    fix = f"Drop these rows: examples/heldout.jsonl is there to measure what is trained on this file ({limits.where})"
    name = "inputs that are also in examples/heldout.jsonl"
    detail = some("rows", same) if enough else "examples/heldout.jsonl has no rows"
    first = check(name, len(same), "==", 0, unit="rows", detail=detail, fix=fix, enough=enough)
    return [first, *_near(sample, heldout, limits, "file", fix, enough and bool(sample.height))]


def _near(seen: pl.DataFrame, heldout: pl.DataFrame, limits: Limits, where: str, fix: str, enough: bool) -> list[Check]:
    """The nearest input, and the nearest learned text, of any two rows of both."""
    held_to = {"input": limits.max_input_similarity_fraction, limits.text: limits.max_text_similarity_fraction}
    checks = []
    for what, limit in held_to.items():
        name = f"largest similarity of a held-out {what} with {_article(where, what)}"
        nearest, detail = largest_similarity(seen, heldout, what, where) if enough else (None, "no rows to compare")
        if limit is None:
            checks.append(report(name, nearest, detail=f"{detail}; no limit: {what}s are templated"))
        else:
            checks.append(check(name, nearest, "<=", limit, detail=detail, fix=fix, enough=enough))
    return checks


def _article(where: str, what: str) -> str:
    return f"a training {what}" if where == "training" else f"{'an' if what[0] in 'aeiou' else 'a'} {what} of the file"


def some(what: str, numbers: list[int]) -> str:
    """The first few numbers, after what they count; empty when there are none."""
    more = ", ..." if len(numbers) > SHOWN_ROWS else ""
    return f"{what} {', '.join(map(str, numbers[:SHOWN_ROWS]))}{more}" if numbers else ""
