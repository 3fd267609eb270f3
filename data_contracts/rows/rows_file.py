"""Rows from a .jsonl or .parquet file, whole or batch by batch, with errors that name file and line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from data_contracts.errors import ContractError
from data_contracts.rows.cells import plain

SHOWN_PROBLEMS = 5
"""Broken lines that one message spells out; the rest is counted."""
BATCH_BYTES = 32 * 2**20
"""Lines of one batch: some 25,000 rows of 1.3 kB. Memory follows this number, not the size of the file."""
BATCH_ROWS = 25_000
"""Rows of one batch of a parquet file."""
MAX_COLUMNS = 1_000
"""Above this the keys are data, not columns: each batch would be wider than long."""
MAX_SHAPES = 10_000
"""Shapes of lines that are remembered at a time."""

Shape = tuple[tuple[str, ...], tuple[type, ...]]
"""The keys of one line, and the types of their values."""

_KINDS = {str: "text", int: "number", float: "number", bool: "true/false"}


@dataclass(frozen=True)
class RowBatch:
    """Some rows of a file, one after the other."""

    first_row: int
    """Number of the first of them; rows count from 1, as lines do."""
    frame: pl.DataFrame
    texts: dict[str, pl.Series] = field(default_factory=dict)
    """For each column that holds text beside numbers: which cells are text. polars alone would make all of them text."""


def read_rows(path: Path | str) -> pl.DataFrame:
    """All rows of a .jsonl (one JSON object a line) or .parquet file. Row n, counted from 1, is line n.

    Raises:
        ContractError: the file is missing, has another ending, or holds lines that are not one flat JSON object each.
    """
    return read_batch(path).frame


def read_batch(path: Path | str) -> RowBatch:
    """The same rows, and which cells of a column of numbers are text: what `contract.check_rows` needs to name the row.

    Raises:
        ContractError: as `read_rows`.
    """
    path = known_file(path)
    if path.suffix == ".jsonl":
        return next(_jsonl_batches(path, -1), RowBatch(1, pl.DataFrame()))
    try:
        return RowBatch(1, plain(pl.read_parquet(path, glob=False)))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _unreadable_parquet(path, error) from None


def read_objects(path: Path | str) -> list[dict[str, Any]]:
    """The rows of a .jsonl, each with the keys of its own line: a table would give every row every column.

    Raises:
        ContractError: as `read_rows`.
    """
    import orjson

    path = known_file(path)
    proof = _LineProof(path)
    with path.open("rb") as file:
        lines = file.readlines()
    proof.check(lines, 1)
    if proof.n_problems:
        raise _broken_lines(path, proof)
    return [orjson.loads(line) for line in lines]


def row_batches(path: Path | str) -> Iterator[RowBatch]:
    """The same rows batch by batch, in order; at least one batch, which has no rows when the file has none.

    Broken lines are all counted before they are told: so the error comes at the end, after the batches before the first
    broken one. What was made of those must then be thrown away.

    Raises:
        ContractError: as `read_rows`.
    """
    path = known_file(path)
    batches = _jsonl_batches(path, BATCH_BYTES) if path.suffix == ".jsonl" else _parquet_batches(path)
    empty = True
    for batch in batches:
        empty = False
        yield batch
    if empty:
        yield RowBatch(
            1, pl.DataFrame() if path.suffix == ".jsonl" else plain(pl.read_parquet(path, n_rows=0, glob=False))
        )


def known_file(path: Path | str) -> Path:
    """The path, when there is a file of a known ending.

    Raises:
        ContractError: there is none.
    """
    path = Path(path)
    if not path.is_file():
        raise ContractError(f"rows: {path} is not a file. Give the path of a .jsonl or .parquet file.")
    if path.suffix not in (".jsonl", ".parquet"):
        raise ContractError(f"rows: {path} ends in '{path.suffix}'. Expected .jsonl or .parquet. Convert or rename it.")
    return path


def _parquet_batches(path: Path) -> Iterator[RowBatch]:
    import pyarrow as pa
    from pyarrow import parquet

    first = 1
    try:
        # Buffered page by page: a row group may hold a million rows.
        with parquet.ParquetFile(path, pre_buffer=False, buffer_size=2**20) as file:
            for batch in file.iter_batches(BATCH_ROWS, use_threads=False):
                frame = plain(pl.DataFrame(pa.Table.from_batches([_proven(batch)])))
                yield RowBatch(first, frame)
                first += frame.height
    except (pa.ArrowException, pl.exceptions.PolarsError, OSError) as error:
        raise _unreadable_parquet(path, error) from None


def _proven(batch: Any) -> Any:
    """A batch whose text is UTF-8: polars believes that, and stops the process where it is not. Text that is none becomes
    bytes, whose rows the contract names."""
    import pyarrow as pa

    try:
        batch.validate(full=True)
        return batch
    except pa.ArrowInvalid:
        fields = [one.with_type(pa.binary()) if one.type == pa.string() else one for one in batch.schema]
        batch = batch.cast(pa.schema(fields))
        batch.validate(full=True)
        return batch


def _unreadable_parquet(path: Path, error: Exception) -> ContractError:
    return ContractError(f"rows: {path} is not a readable parquet file ({_first_line(error)}). Write it again.")


def _jsonl_batches(path: Path, batch_bytes: int) -> Iterator[RowBatch]:
    """Batches of about `batch_bytes`; all lines in one batch when it is -1."""
    proof, first = _LineProof(path), 1
    with path.open("rb", buffering=2**20) as file:
        while lines := file.readlines(batch_bytes):
            shapes = proof.check(lines, first)
            if not proof.n_problems:
                yield _parsed(path, lines, first, shapes, proof.columns)
            first += len(lines)
    if proof.n_problems:
        raise _broken_lines(path, proof)


def _broken_lines(path: Path, proof: _LineProof) -> ContractError:
    shown = "\n".join(f"  {path}:{line}: {what}" for line, what in proof.problems)
    more = f"\n  and {proof.n_problems - SHOWN_PROBLEMS:,} more" if proof.n_problems > SHOWN_PROBLEMS else ""
    return ContractError(
        f"rows: {proof.n_problems:,} broken {'line' if proof.n_problems == 1 else 'lines'} in {path}. "
        f"Expected one flat JSON object on each line, each column of one type. Correct or delete:\n{shown}{more}"
    )


class _LineProof:
    """Proves of each line what polars would pass over in silence: blank lines, repeated keys, half a surrogate pair.

    The fast path parses a line with orjson, which refuses everything that is not one JSON value in UTF-8: blank lines, NaN,
    half surrogates, text after the object. orjson keeps the last of two equal keys, so the quotes of the line are
    counted: a flat object has two for each key and two for each text. A repeated key adds two at least that the parsed
    object does not account for; hence equal counts prove that no key stands twice. A line that fails this, or holds a
    nested value, goes to `_problem`, which is slow and says what is wrong.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.n_problems = 0
        self.problems: list[tuple[int, str]] = []
        """The first of them: line, what is wrong."""
        self.columns: dict[str, tuple[str, int]] = {}
        """Every key seen so far: the kind of its first value (empty while all are null), and the line of that."""
        self._mixed: set[str] = set()
        self._quotes: dict[Shape, int] = {}

    def check(self, lines: list[bytes], first: int) -> set[Shape]:
        """Look at consecutive lines, the first of which has number `first`; return the shapes that occur."""
        import orjson

        here: dict[Shape, int] = {}
        for number, line in enumerate(lines, start=first):
            try:
                row = orjson.loads(line)
                shape = (tuple(row), tuple(map(type, row.values())))
            except (orjson.JSONDecodeError, AttributeError, TypeError) as error:
                self._tell(number, _problem(line) or str(error))
                continue
            quotes = here.get(shape)
            if quotes is None:
                quotes = here[shape] = self._expected_quotes(shape, row, number)
            # `\\` is one backslash, not the escape of what follows it; an escaped quote ends no text.
            bare = line.replace(rb"\\", b"") if rb"\\" in line else line
            if bare.count(b'"') - bare.count(rb"\"") != quotes:
                self._tell(number, _problem(line) or "its keys could not be told apart; write the line again")
        return set(here)

    def _expected_quotes(self, shape: Shape, row: dict[str, Any], number: int) -> int:
        quotes = self._quotes.get(shape)
        if quotes is None:
            keys, types = shape
            nested = any(issubclass(one, (dict, list)) for one in types)
            quotes = -1 if nested else 2 * (len(keys) + sum(one is str for one in types))
            self._note_kinds(row, number)
            if len(self._quotes) >= MAX_SHAPES:
                self._quotes.clear()
            self._quotes[shape] = quotes
        return quotes

    def _note_kinds(self, row: dict[str, Any], number: int) -> None:
        """Note new columns. Text beside numbers is left to the contract, which knows what is wanted."""
        for name, value in row.items():
            kind = _KINDS.get(type(value), "")
            before, line = self.columns.get(name) or ("", number)
            self.columns[name] = (before, line) if before else (kind, number)
            if before and kind and before != kind and "true/false" in (before, kind) and name not in self._mixed:
                self._mixed.add(name)
                self._tell(number, f"mixed types: {name} holds {kind} ({value!r}); in line {line} it holds {before}")
        if len(self.columns) > MAX_COLUMNS:
            raise ContractError(
                f"rows: {self.path}:{number}: up to here the file has more than {MAX_COLUMNS:,} different keys. "
                "Expected the same few on every line. Write what is now a key as a value."
            )

    def _tell(self, number: int, what: str) -> None:
        self.n_problems += 1
        if len(self.problems) < SHOWN_PROBLEMS:
            self.problems.append((number, what))


def _parsed(path: Path, lines: list[bytes], first: int, shapes: set[Shape], columns: dict) -> RowBatch:
    types: dict[str, set[type]] = {name: set() for name in columns}
    for keys, values in shapes:
        for name, one in zip(keys, values, strict=True):
            types[name].add(one)
    try:
        frame = _table(lines, {name: _dtype(found) for name, found in types.items()})
    except pl.exceptions.PolarsError as error:
        raise ContractError(
            f"rows: {path}: lines {first:,} to {first + len(lines) - 1:,} are JSON but no table ({_first_line(error)}). "
            "Write them again."
        ) from None
    if frame.height != len(lines):  # every row number that is told from here on depends on it
        raise RuntimeError(f"{path}: {len(lines)} lines became {frame.height} rows")
    both = [name for name, found in types.items() if str in found and found & {int, float}]
    return RowBatch(first, frame, _text_cells(lines, both) if both else {})


def _table(lines: list[bytes], schema: dict[str, Any]) -> pl.DataFrame:
    whole = b"".join(lines)
    try:
        return pl.read_ndjson(whole, schema=schema)
    except pl.exceptions.PolarsError:  # 2^63 is no 64-bit integer: read wider, so that the contract can name its row
        wide = {name: pl.Int128() if dtype == pl.Int64 else dtype for name, dtype in schema.items()}
        frame = pl.read_ndjson(whole, schema=wide)
    narrow = {name: frame[name].cast(pl.Int64, strict=False) for name, dtype in schema.items() if dtype == pl.Int64}
    return frame.with_columns(one for name, one in narrow.items() if one.null_count() == frame[name].null_count())


def _dtype(types: set[type]) -> pl.DataType:
    if str in types:
        return pl.String()
    if bool in types:
        return pl.Boolean()
    return pl.Float64() if float in types else pl.Int64() if int in types else pl.Null()


def _text_cells(lines: list[bytes], columns: list[str]) -> dict[str, pl.Series]:
    import orjson

    rows = [orjson.loads(line) for line in lines]
    return {name: pl.Series(name, [isinstance(row.get(name), str) for row in rows]) for name in columns}


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
    if rb"\u" in line and not all(map(_encodes, (*row, *row.values()))):
        return "holds half a surrogate pair (\\ud800..\\udfff); escape the whole character"
    nested = [name for name, value in row.items() if isinstance(value, (dict, list))]
    return f"{', '.join(nested)}: nested value; rows are flat" if nested else ""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"key {', '.join(twice)} stands twice")
    return row


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON; give a number or null")


def _encodes(text: Any) -> bool:
    try:
        str(text).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
