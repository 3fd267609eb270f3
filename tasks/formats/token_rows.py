"""Rows as the trainer sees them: token ids and where the completion begins, in one parquet file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

CONTRACT_FILE = "contract.json"
"""Beside the rows: which words, answer schema and tokenizer made them (tasks/prompts/prompt_digest.py)."""
TokenRow = tuple[list[int], int]
"""(token ids of prompt + completion + end token, length of the prompt in tokens)"""


def write_token_rows(path: Path, rows: Iterable[TokenRow]) -> None:
    """Write parquet with the columns input_ids (list of int32) and prompt_tokens (int32)."""
    import polars as pl

    rows = list(rows)
    schema: dict[str, pl.DataType | type[pl.DataType]] = {"input_ids": pl.List(pl.Int32), "prompt_tokens": pl.Int32}
    pl.DataFrame(
        {"input_ids": [r[0] for r in rows], "prompt_tokens": [r[1] for r in rows]}, schema=schema
    ).write_parquet(path)


def read_token_rows(path: Path, n_rows: int | None = None) -> list[TokenRow]:
    """The rows in their order; only the first `n_rows` when a number is given."""
    import polars as pl

    frame = pl.read_parquet(path, n_rows=n_rows)
    return list(zip(frame["input_ids"].to_list(), frame["prompt_tokens"].to_list(), strict=True))


def longest_completion_tokens(path: Path) -> int:
    """Tokens of the longest completion of all rows, end token included; 0 where there is no row."""
    import polars as pl

    lengths = pl.col("input_ids").list.len().cast(pl.Int64) - pl.col("prompt_tokens")
    return pl.scan_parquet(path).select(lengths.max()).collect().item() or 0
