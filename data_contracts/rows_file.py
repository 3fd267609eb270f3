"""Rows from a .jsonl or .parquet file, with errors that name file and line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from data_contracts.errors import ContractError

SHOWN_PROBLEMS = 5
"""Broken lines that one message spells out; the rest is counted."""


def read_rows(path: Path | str) -> pl.DataFrame:
    """All rows of a .jsonl (one JSON object a line) or .parquet file. Row n, counted from 1, is line n.

    Raises:
        ContractError: the file is missing, has another ending, or holds lines that are not one flat JSON object each.
    """
    path = Path(path)
    if not path.is_file():
        raise ContractError(f"rows: {path} is not a file. Give the path of a .jsonl or .parquet file.")
    if path.suffix == ".parquet":
        try:
            return pl.read_parquet(path)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise ContractError(
                f"rows: {path} is not a readable parquet file ({_first_line(error)}). Write it again."
            ) from None
    if path.suffix != ".jsonl":
        raise ContractError(f"rows: {path} ends in '{path.suffix}'. Expected .jsonl or .parquet. Convert or rename it.")
    return _read_jsonl(path)


def _read_jsonl(path: Path) -> pl.DataFrame:
    # Alone, polars skips blank lines, keeps the first of two equal keys and turns half a surrogate pair into a NUL.
    problems = list(_line_problems(path))
    if problems:
        shown = "\n".join(f"  {path}:{line}: {what}" for line, what in problems[:SHOWN_PROBLEMS])
        more = f"\n  and {len(problems) - SHOWN_PROBLEMS:,} more" if len(problems) > SHOWN_PROBLEMS else ""
        raise ContractError(
            f"rows: {len(problems):,} broken {'line' if len(problems) == 1 else 'lines'} in {path}. "
            f"Expected one flat JSON object on each line. Correct or delete:\n{shown}{more}"
        )
    if path.stat().st_size == 0:
        return pl.DataFrame()
    try:
        return pl.read_ndjson(path, infer_schema_length=None)
    except pl.exceptions.PolarsError as error:
        mixed = "\n".join(f"  {path}:{line}: {what}" for line, what in _mixed_types(path))
        raise ContractError(
            f"rows: {path} holds columns of mixed types. Expected one type a column. Correct:\n"
            f"{mixed or '  ' + _first_line(error)}"
        ) from None


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            yield number, json.loads(line, object_pairs_hook=_unique, parse_constant=_no_constant)


def _line_problems(path: Path) -> Iterator[tuple[int, str]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            what = _problem(line)
            if what:
                yield number, what


def _problem(line: bytes) -> str:
    if not line.strip():
        return "the line is empty"
    if line.startswith(b"\xef\xbb\xbf"):
        return "the file starts with a byte order mark; save it as UTF-8 without one"
    try:
        row = json.loads(line.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        return f"byte {error.start + 1} is not UTF-8"
    except json.JSONDecodeError as error:
        return f"{error.msg} at column {error.colno}"
    except ValueError as error:
        return str(error)
    except RecursionError:
        return "nested too deeply"
    if not isinstance(row, dict):
        return f"holds a {type(row).__name__}, not an object"
    if rb"\u" in line and any(isinstance(value, str) and not _encodes(value) for value in row.values()):
        return "holds half a surrogate pair (\\ud800..\\udfff); escape the whole character"
    nested = [name for name, value in row.items() if isinstance(value, (dict, list))]
    return f"{', '.join(nested)}: nested value; rows are flat" if nested else ""


def _mixed_types(path: Path) -> Iterator[tuple[int, str]]:
    """The first line in which a column holds another type than in its first line."""
    first: dict[str, tuple[str, int]] = {}
    told: set[str] = set()
    for number, row in _objects(path):
        for name, value in row.items():
            if value is None or name in told:
                continue
            kind = "true/false" if isinstance(value, bool) else "number" if isinstance(value, (int, float)) else "text"
            before, line = first.setdefault(name, (kind, number))
            if before != kind:
                told.add(name)
                yield number, f"{name} holds {kind} ({value!r}); in line {line} it holds {before}"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"key {', '.join(twice)} stands twice")
    return row


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON; give a number or null")


def _encodes(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
