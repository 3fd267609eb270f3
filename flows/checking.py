"""A file of rows against its contract and, when a model is named, against what its tokenizer makes of each row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from data_contracts.rows.corrections import Corrector
from data_contracts.rows.rows_file import read_rows
from data_contracts.validation.page import write_page
from data_contracts.validation.validate import validate_file
from data_contracts.validation.validation import Validation
from data_contracts.verdict import Check, check


def check_file(
    recipe: str, data: Path | str, limits: str, tokenizer: Path | str | None = None, max_length_tokens: int = 2048
) -> Validation:
    """Every rule on every row and the audit of the set; with the folder of a model also the token budget: no row longer than
    `max_length_tokens`, and the supervised span exactly the answer, ended by the end token. That part holds all rows in memory.
    Without, the report says that tokens were not checked, which is no verdict.

    Raises:
        ConfigError, ContractError: as `validate_file`; the folder holds no tokenizer.
    """
    found = validate_file(recipe, data, limits)
    if tokenizer:
        tokens = _token_checks(found, Path(tokenizer), max_length_tokens)
        found = replace(found, audit=(*found.audit, *tokens), not_checked={})
        write_page(found)
    return found


def _token_checks(found: Validation, model_folder: Path, max_length_tokens: int) -> list[Check]:
    from tasks.validate_dataset import check_tokens

    recipe = found.limits.recipe
    if found.findings.n_rejected:
        detail = f"{found.findings.n_rejected:,} rows break their contract, and such a row may not even render"
        return [
            check("token budget", None, "<=", max_length_tokens, unit="tokens", detail=detail, fix="Correct them first")
        ]
    rows = Corrector(recipe).apply(read_rows(found.path)).to_dicts()
    return check_tokens(recipe, rows, model_folder, max_length_tokens)
