"""One file of rows against everything its recipe asks of rows: the rules on each row, then the audit of the set.

The file passes through in batches: memory does not follow its size, but for 12 bytes a row (audit.SetTally).
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import polars as pl

from data_contracts.audit.audit import SetTally, view_of
from data_contracts.errors import ConfigError
from data_contracts.limits import Limits, load_limits
from data_contracts.paths import CONTRACTS_FOLDER
from data_contracts.rows.contract import RowTally, check_batch
from data_contracts.rows.corrections import Corrector
from data_contracts.rows.findings import RejectedRows, free_name
from data_contracts.rows.rows_file import RowBatch, known_file, read_rows, row_batches
from data_contracts.validation.distributions import Distributions
from data_contracts.validation.validation import Validation
from data_contracts.verdict import Check, check

ROW_NUMBER = "__row"
"""Column that carries the number of each row in its file past a correction that drops rows."""

TOKENS_NOT_CHECKED = {"token budget": "no tokenizer was given; --tokenizer FOLDER (a model's) counts tokens"}
"""A file of rows alone knows no tokens."""

T = TypeVar("T")


def recipes() -> list[str]:
    """Recipes that have a contract: the folders that hold a rows.py."""
    return sorted(path.parent.name for path in CONTRACTS_FOLDER.glob("*/rows.py"))


def validate_file(recipe: str, data: Path | str, limits: str = "default", out: Path | str = "validation") -> Validation:
    """Check every row of a .jsonl or .parquet file, and the set of them.

    In `<out>/<file name>/` it leaves report.html, and rejected.jsonl when rows were rejected; what an earlier run left
    there goes first, so that no page outlives what it tells of.

    Raises:
        ConfigError: there is no such recipe or limits profile.
        ContractError: the file cannot be read as rows, or a correction is out of date.
    """
    from data_contracts.validation.page import write_page

    if recipe not in recipes():
        raise ConfigError(f"validate: there is no contract {recipe!r}. Known: {', '.join(recipes())}.")
    held_to, path = load_limits(recipe, limits), known_file(data)
    folder = Path(out) / path.name
    page = folder / "report.html"
    page.unlink(missing_ok=True)
    passes = _Passes(held_to, path)
    with RejectedRows(folder / "rejected.jsonl") as rejected:
        for batch in _read_ahead(row_batches(path)):
            passes.add(batch, rejected)
        corrections = passes.corrector.close()
    passes.rows.close(held_to)
    found = Validation(
        path,
        held_to,
        passes.rows,
        tuple(passes.set_checks()),
        tuple(corrections),
        passes.distributions,
        rejected.path if passes.rows.n_rejected else None,
        page,
        TOKENS_NOT_CHECKED,
    )
    write_page(found)
    return found


class _Passes:
    """Everything that adds up while a file passes."""

    def __init__(self, limits: Limits, path: Path) -> None:
        self.limits = limits
        self.path = path
        self.corrector = Corrector(limits.recipe)
        self.rows = RowTally(limits.recipe)
        self.set = SetTally(limits, self._heldout())
        self.distributions = Distributions(limits.recipe)

    def add(self, batch: RowBatch, rejected: RejectedRows) -> None:
        """Correct and check one batch, write out what it rejects, count what it accepts."""
        frame, numbers, texts = self._corrected(batch)
        findings = check_batch(self.limits.recipe, frame, texts)
        self.rows.add(findings, numbers)
        rejected.add(findings, numbers)
        accepted = findings.accepted
        if accepted.height:
            if findings.n_rejected:
                numbers = numbers.filter(findings.keeps)
            view = view_of(accepted, self.limits)
            self.set.add(view.with_columns(numbers.alias("row")))
            self.distributions.add(accepted, view)

    def set_checks(self) -> list[Check]:
        """The checks on the set of accepted rows; without one, that nothing could be told."""
        if self.rows.n_rows > self.rows.n_rejected:
            return [*self.set.checks(), *self.set.heldout_checks()]
        fix = "Correct the rows first, then check again"
        detail = "no row was accepted"
        return [check("checks on the set that could be made", None, ">=", 1, detail=detail, fix=fix)]

    def _heldout(self) -> pl.DataFrame | None:
        """The contract's own held-out rows, when it has some and they are not the file itself."""
        heldout = CONTRACTS_FOLDER / self.limits.recipe / "examples" / "heldout.jsonl"
        if not heldout.is_file() or heldout.samefile(self.path):
            return None
        return read_rows(heldout)

    def _corrected(self, batch: RowBatch) -> tuple[pl.DataFrame, pl.Series, dict[str, pl.Series]]:
        """The rows after corrections.yaml, with their numbers in the file, and which of their cells are text."""
        end = batch.first_row + batch.frame.height
        carried = free_name(ROW_NUMBER, batch.frame.columns)
        numbers = pl.int_range(batch.first_row, end, dtype=pl.UInt32, eager=True).alias(carried)
        if not batch.frame.width:
            return batch.frame, numbers, {}
        frame = self.corrector.apply(batch.frame.with_columns(numbers))
        left = frame[carried]
        places = left - batch.first_row
        return frame.drop(carried), left, {name: cells.gather(places) for name, cells in batch.texts.items()}


def _read_ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items; the next is read while the last is worked on, which keeps the second core busy."""
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = reader.submit(next, items, None)
            yield item
