"""Rows -> verdict: a file of rows against its data contract, for the Prefect UI.

The same without Prefect, in seconds: `python -m flows validate RECIPE DATA`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger
from prefect.states import Failed, State
from pydantic import Field

from data_contracts.validation.validation import Validation
from data_contracts.verdict import Verdict
from flows.checking import check_file
from tasks.core.errors import PlumblineError, explain_os_error, redact
from tasks.recipes import RECIPES
from tasks.reports.leaderboard import checks_markdown, markdown_table

if TYPE_CHECKING:  # which recipes there are is known when it runs, and no type
    Recipe = str
else:
    Recipe = Annotated[
        Literal[tuple(RECIPES)], Field(json_schema_extra={"enum": list(RECIPES)})
    ]  # a choice, also of one
_WORST_FIRST = (Verdict.FAIL, Verdict.CANNOT_TELL, Verdict.PASS)


@flow(name="validate-contract", validate_parameters=True, log_prints=True)
def validate_contract(
    recipe: Recipe, data: str, limits: str = "default", tokenizer: str | None = None, max_length_tokens: int = 2048
) -> str | State:
    """Check a file of rows against its data contract: every rule on every row, then the set as a whole.

    Takes seconds and trains nothing. What is broken is left as an artifact of the run; rejected rows with their reasons,
    and a page with the distributions, are written to validation/; the run fails when anything is broken or cannot be told.

    Args:
        recipe: What kind of rows these are: a folder of data_contracts/.
        data: Path of a .jsonl or .parquet file on the worker's machine, absolute or from the project's folder.
        limits: Section of data_contracts/<recipe>/limits.yaml that the set is held to, such as default or nano.
        tokenizer: Folder of a model on the worker's machine, whose tokens are counted too; left out, no tokens are.
        max_length_tokens: With a tokenizer: longest row, in tokens.
    """
    try:
        found = check_file(recipe, data, limits, tokenizer, max_length_tokens)
    except PlumblineError as error:
        return _failed(str(error))
    except OSError as error:
        if explained := explain_os_error("validate", error):
            return _failed(str(explained))
        raise
    create_markdown_artifact(_page(found), key=f"{recipe}-validation", description=found.sentence())
    print(found.table())
    return found.sentence() if found.verdict is Verdict.PASS else _failed(found.sentence())


def _failed(message: str) -> State:
    """A failed run that shows its message; a raised error would add Prefect's traceback, which helps nobody here."""
    message = redact(message)
    get_run_logger().error(message)
    return Failed(message=message)


def _page(found: Validation) -> str:
    """Broken rules, then the checks on the set; those that did not pass come first."""
    broken = [
        [one.column, one.rule, f"{one.n_rows:,}", ", ".join(f"{row:,}" for row, _ in one.examples)]
        for one in found.findings.broken
    ]
    rules = markdown_table(["column", "rule", "rows", "such as row"], broken) if broken else "None.\n"
    checks = sorted(found.checks, key=lambda one: _WORST_FIRST.index(one.verdict))
    rejected = f"\nRejected rows with their reasons: `{found.rejected_path}`\n" if found.rejected_path else ""
    drawn = f"\nThe same with the distributions drawn: `{found.page_path}`\n"
    table = checks_markdown([(found.path.name, one) for one in checks])
    title = f"# {found.verdict.value}: {found.path.name}\n\n{found.sentence()}"
    return f"{title}\n\n## Broken rules\n\n{rules}{rejected}{drawn}\n## Checks\n\n{table}"
