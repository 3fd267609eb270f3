"""One file of rows against everything its recipe asks of rows: the rules on each row, then the audit of the set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data_contracts.audit import audit_rows
from data_contracts.contract import RowFindings, check_rows, format_table, write_rejected
from data_contracts.corrections import apply_corrections
from data_contracts.errors import ConfigError, ContractError
from data_contracts.limits import Limits, load_limits
from data_contracts.prompt import CONTRACTS_FOLDER
from data_contracts.rows_file import read_rows
from data_contracts.verdict import Check, Verdict, check, failures, overall


@dataclass(frozen=True)
class Validation:
    """What was found in one file."""

    path: Path
    limits: Limits
    findings: RowFindings
    audit: tuple[Check, ...]
    """Checks on the set of accepted rows."""
    corrections: tuple[Check, ...]
    """What corrections.yaml did to the rows before anything was checked."""
    rejected_path: Path | None
    """Where the rejected rows were written; None when there are none."""

    @property
    def checks(self) -> list[Check]:
        """Everything that was measured."""
        return [*self.corrections, *self.findings.checks(), *self.audit]

    @property
    def verdict(self) -> Verdict:
        """The worst of all checks."""
        return overall(self.checks)

    def sentence(self) -> str:
        """The outcome in one line: `validate: <what is wrong, with counts>. <where to look>.`"""
        total = self.findings.frame.height
        rows = f"{total:,} {'row' if total == 1 else 'rows'} of {self.path.name}"
        held_to = f"{self.limits.recipe} contract, limits '{self.limits.profile}'"
        if self.verdict is Verdict.PASS:
            return f"validate: all {rows} keep the {held_to}. {len(self.checks)} checks passed."
        parts = []
        if broken := self.findings.broken:
            rules = f"{len(broken)} {'rule' if len(broken) == 1 else 'rules'}"
            hit = len(self.findings.reasons)
            parts.append(f"{rules} broken" + (f" in {hit:,} {'row' if hit == 1 else 'rows'}" if hit else ""))
        bad = failures(self.audit)
        for verdict, words in ((Verdict.FAIL, "failed"), (Verdict.CANNOT_TELL, "could not tell")):
            if count := sum(one.verdict is verdict for one in bad):
                parts.append(f"{count} of {len(self.audit)} checks on the set {words}")
        fix = f"Correct the rows in {self.rejected_path}" if self.rejected_path else "See the table for what to do"
        return f"validate: the {rows} do not keep the {held_to}: {'; '.join(parts)}. {fix}."

    def table(self) -> str:
        """The findings for people: row rules first, then one aligned line for each check on the set."""
        lines = [format_table(self.findings, self.path, self.rejected_path or "")]
        lines += [f"  {one.name}: {one.measured}. {one.detail}" for one in self.corrections if one.measured]
        if any("drop: " in one.detail for one in self.corrections):
            lines.append("  row numbers count what is left after the drops")
        head = f"{self.limits.recipe} set of {self.findings.accepted.height:,} accepted rows"
        lines += ["", f"{head}, limits '{self.limits.profile}': {overall(self.audit).value}"]
        wide = max(len(one.name) for one in self.audit)
        for one in self.audit:
            lines.append(f"  {one.verdict.value:<11}  {one.name:<{wide}}  {_numbers(one)}")
            if one.verdict is not Verdict.PASS:
                lines.append(f"{'':15}{'. '.join(part.rstrip('.') for part in (one.detail, one.fix) if part)}.")
        return "\n".join(lines)


def recipes() -> list[str]:
    """Recipes that have a contract: the folders that hold a rows.py."""
    return sorted(path.parent.name for path in CONTRACTS_FOLDER.glob("*/rows.py"))


def validate_file(recipe: str, data: Path | str, limits: str = "default", out: Path | str = "validation") -> Validation:
    """Check every row of a .jsonl or .parquet file, and the set of them; rejected rows go to
    `<out>/<file name>/rejected.jsonl`, which a later run with none removes.

    Raises:
        ConfigError: there is no such recipe or limits profile.
        ContractError: the file cannot be read as rows, or a correction is out of date.
    """
    if recipe not in recipes():
        raise ConfigError(f"validate: there is no contract {recipe!r}. Known: {', '.join(recipes())}.")
    held_to, path = load_limits(recipe, limits), Path(data)
    frame, corrections = apply_corrections(recipe, read_rows(path))
    findings = check_rows(recipe, frame, held_to)
    rejected = Path(out) / path.name / "rejected.jsonl"
    if findings.reasons:
        write_rejected(findings, rejected)
    else:
        rejected.unlink(missing_ok=True)
    audit = tuple(_audit(findings, held_to))
    return Validation(path, held_to, findings, audit, tuple(corrections), rejected if findings.reasons else None)


def _audit(findings: RowFindings, limits: Limits) -> list[Check]:
    """The set-level checks of the rows that broke no rule; when these cannot be looked at, that is *cannot tell*."""
    detail = "no row was accepted"
    if findings.accepted.height:
        try:
            return audit_rows(findings.accepted, limits)
        except ContractError as error:
            detail = str(error)
    fix = "Correct the rows first, then check again"
    return [check("checks on the set that could be made", None, ">=", 1, detail=detail, fix=fix)]


def _numbers(one: Check) -> str:
    measured = f"{one.measured:.4g}" if isinstance(one.measured, float) else one.measured
    limit = "" if one.comparison == "report" else f"  ({one.comparison} {one.threshold}{one.unit and ' ' + one.unit})"
    return f"{'not measured' if one.measured is None else measured}{limit}"
