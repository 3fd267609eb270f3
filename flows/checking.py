"""A file of rows against its contract and, when a model is named, against what its tokenizer makes of each row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from data_contracts.page import write_page
from data_contracts.rows_file import read_rows
from data_contracts.validate import Validation, validate_file


def check_file(
    recipe: str, data: Path | str, limits: str, tokenizer: Path | str | None = None, max_length_tokens: int = 2048
) -> Validation:
    """Every rule on every row and the audit of the set; with the folder of a model also the token budget: no row longer than
    `max_length_tokens`, and the supervised span exactly the answer, ended by the end token. That part holds all rows in memory.

    Raises:
        ConfigError, ContractError: as `validate_file`; the folder holds no tokenizer.
    """
    found = validate_file(recipe, data, limits)
    if not tokenizer or found.findings.n_rejected:  # a row that breaks its contract may not even render
        return found
    from tasks.validate_dataset import check_tokens

    rows = read_rows(found.path).to_dicts()
    found = replace(found, audit=(*found.audit, *check_tokens(recipe, rows, Path(tokenizer), max_length_tokens)))
    write_page(found)
    return found
