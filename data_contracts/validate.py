"""One file of rows against everything its recipe asks of rows: the rules on each row, then the audit of the set.

The file passes through in batches: memory does not follow its size, but for 12 bytes a row (audit.SetTally).
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import polars as pl

from data_contracts.audit import SetTally, view_of
from data_contracts.contract import RowTally, check_batch
from data_contracts.corrections import Corrector
from data_contracts.distributions import Distributions
from data_contracts.errors import ConfigError
from data_contracts.findings import RejectedRows, format_table, free_name
from data_contracts.limits import Limits, load_limits
from data_contracts.prompt import CONTRACTS_FOLDER
from data_contracts.rows_file import RowBatch, known_file, read_rows, row_batches
from data_contracts.verdict import Check, Verdict, check, failures, overall

ROW_NUMBER = "__row"
"""Column that carries the number of each row in its file past a correction that drops rows."""

TOKENS_NOT_CHECKED = {"token budget": "no tokenizer was given; --tokenizer FOLDER (a model's) counts tokens"}
"""A file of rows alone knows no tokens."""

T = TypeVar("T")


@dataclass(frozen=True)
class Validation:
    """What was found in one file."""

    path: Path
    limits: Limits
    findings: RowTally
    audit: tuple[Check, ...]
    """Checks on the set of accepted rows."""
    corrections: tuple[Check, ...]
    """What corrections.yaml did to the rows before anything was checked."""
    distributions: Distributions
    """How the values of the accepted rows are spread."""
    rejected_path: Path | None
    """Where the rejected rows were written; None when there are none."""
    page_path: Path
    """Where the page with the distributions was written."""
    not_checked: dict[str, str] = field(default_factory=dict)
    """What was not asked for, and how to ask: told beside the verdict and never part of it, since nothing was measured."""

    @property
    def checks(self) -> list[Check]:
        """Everything that was measured."""
        return [*self.corrections, *self.findings.checks(), *self.audit]

    @property
    def verdict(self) -> Verdict:
        """The worst of all checks."""
        return overall(self.checks)

    def sentence(self) -> str:
        """The outcome in one line: `validate: <what is wrong, with counts>. <where to look>. <what was not checked>.`"""
        total = self.findings.n_rows
        rows = f"{total:,} {'row' if total == 1 else 'rows'} of {self.path.name}"
        held_to = f"{self.limits.recipe} contract, limits '{self.limits.profile}'"
        left = "".join(f" Not checked: {name} ({why})." for name, why in self.not_checked.items())
        if self.verdict is Verdict.PASS:
            return f"validate: all {rows} keep the {held_to}. {len(self.checks)} checks passed.{left}"
        parts = []
        if broken := self.findings.broken:
            rules = f"{len(broken)} {'rule' if len(broken) == 1 else 'rules'}"
            hit = self.findings.n_rejected
            parts.append(f"{rules} broken" + (f" in {hit:,} {'row' if hit == 1 else 'rows'}" if hit else ""))
        bad = failures(self.audit)
        for verdict, words in ((Verdict.FAIL, "failed"), (Verdict.CANNOT_TELL, "could not tell")):
            if count := sum(one.verdict is verdict for one in bad):
                parts.append(f"{count} of {len(self.audit)} checks on the set {words}")
        fix = f"Correct the rows in {self.rejected_path}" if self.rejected_path else "See the table for what to do"
        return f"validate: the {rows} do not keep the {held_to}: {'; '.join(parts)}. {fix}.{left}"

    def table(self) -> str:
        """The findings for people: row rules first, then one aligned line for each check on the set."""
        lines = [format_table(self.findings, self.path, self.rejected_path or "")]
        lines += [f"  {one.name}: {one.measured}. {one.detail}" for one in self.corrections if one.detail]
        accepted = self.findings.n_rows - self.findings.n_rejected
        head = f"{self.limits.recipe} set of {accepted:,} accepted rows"
        lines += ["", f"{head}, limits '{self.limits.profile}': {overall(self.audit).value}"]
        wide = max(map(len, [*(one.name for one in self.audit), *self.not_checked]))
        for one in self.audit:
            lines.append(f"  {one.verdict.value:<11}  {one.name:<{wide}}  {_numbers(one)}")
            if one.verdict is not Verdict.PASS:
                lines.append(f"{'':15}{'. '.join(part.rstrip('.') for part in (one.detail, one.fix) if part)}.")
        lines += [f"  not checked  {name:<{wide}}  {why}" for name, why in self.not_checked.items()]
        written = [("rejected rows", self.rejected_path or "none"), ("page", self.page_path)]
        return "\n".join([*lines, "", *(f"{what + ':':<15}{path}" for what, path in written)])


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
    from data_contracts.page import write_page

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


def _numbers(one: Check) -> str:
    measured = f"{one.measured:.4g}" if isinstance(one.measured, float) else one.measured
    limit = "" if one.comparison == "report" else f"  ({one.comparison} {one.threshold}{one.unit and ' ' + one.unit})"
    return f"{'not measured' if one.measured is None else measured}{limit}"
