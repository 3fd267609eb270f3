"""What a validation of a file found."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from data_contracts.limits import Limits
from data_contracts.rows.contract import RowTally
from data_contracts.rows.findings import format_table
from data_contracts.validation.distributions import Distributions
from data_contracts.verdict import Check, Verdict, failures, overall


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


def _numbers(one: Check) -> str:
    measured = f"{one.measured:.4g}" if isinstance(one.measured, float) else one.measured
    limit = "" if one.comparison == "report" else f"  ({one.comparison} {one.threshold}{one.unit and ' ' + one.unit})"
    return f"{'not measured' if one.measured is None else measured}{limit}"
