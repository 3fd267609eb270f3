"""Cells as a file gives them, in the types that a contract knows: text, whole numbers, numbers.

What says the same in another type is taken over without a word (1.0 is 1, a pandas category is text); each cell that does
not is named by a rule, and its neighbours are not.
"""

from __future__ import annotations

from typing import Any

import polars as pl

NOT_WHOLE = "not a whole number; round it, or correct it"
BEYOND_64_BITS = "not from -2^63 to 2^63 - 1, the whole numbers of 64 bits; correct it"
NOT_UTF8 = "bytes that are not UTF-8; decode them where the row is made, and write text"

HALF_DIGITS = 3
"""Decimal digits that any 16-bit float holds."""

Wrong = dict[str, pl.Series]
"""Rule -> for each cell, whether it breaks it; only rules that some cell breaks."""


def plain(frame: pl.DataFrame) -> pl.DataFrame:
    """The same values in columns that read like those of a .jsonl: categories and UTF-8 bytes as text, and numbers of
    fewer bits, or of fixed decimals, as the 64-bit float that is written the same."""
    changed = [cells for old in frame if (cells := _plain(old)) is not old]
    return frame.with_columns(changed) if changed else frame


def _plain(cells: pl.Series) -> pl.Series:
    dtype = cells.dtype
    if dtype in (pl.Categorical, pl.Enum):
        return cells.cast(pl.String)
    if dtype == pl.Binary:
        try:
            return cells.cast(pl.String)
        except pl.exceptions.ComputeError:  # some cell is not UTF-8: the contract names it
            return cells
    if dtype == pl.Float16:
        return cells.cast(pl.Float64).round_sig_figs(HALF_DIGITS)
    if dtype == pl.Float32 or dtype.is_decimal():
        # By way of its shortest text: widened as it is, 0.1 would become 0.10000000149, beyond a limit of 0.1.
        return cells.cast(pl.String).cast(pl.Float64)
    return cells


def fit(cells: pl.Series, dtype: Any, text: pl.Series | None = None) -> tuple[pl.Series, Wrong]:
    """The cells as `dtype`, null where they do not fit; and what those break. `text`: which cells were text, in a column
    of text beside numbers."""
    wrong: Wrong = {}
    if text is not None:
        mixed = cells.is_not_null() & (~text if dtype == pl.String else text)
        given = "number" if dtype == pl.String else "text"
        wrong[f"type {given}, not {dtype}; {_advice(cells.dtype, dtype)}"] = mixed
        cells = cells.to_frame().select(pl.when(~mixed).then(pl.first())).to_series()
    if cells.dtype == dtype or cells.dtype == pl.Null:
        fitting = cells.cast(dtype)
    elif cells.dtype == pl.Binary and dtype == pl.String:
        fitting = pl.Series(cells.name, [_utf8(value) for value in cells], dtype=pl.String)
        wrong[NOT_UTF8] = _lost(cells, fitting)
    elif dtype == pl.Int64 and cells.dtype.is_numeric():
        fitting, fractions = _whole(cells)
        wrong |= {NOT_WHOLE: fractions, BEYOND_64_BITS: _lost(cells, fitting) & ~fractions}
    elif dtype == pl.Float64 and cells.dtype.is_numeric():
        fitting = cells.cast(dtype)
    elif text is not None:  # numbers that stand as text only because there is text beside them
        numbers, told = fit(cells.cast(pl.Float64, strict=False), dtype)
        fitting = cells.cast(dtype, strict=False).fill_null(numbers)
        wrong |= told
    else:
        fitting, told = _mistyped(cells, dtype)
        wrong |= told
    return fitting.rename(cells.name), {rule: mask for rule, mask in wrong.items() if mask.any()}


def _mistyped(cells: pl.Series, dtype: Any) -> tuple[pl.Series, Wrong]:
    """A column of another kind: its values where they can be read, so that they are held to the other rules, too."""
    castable = cells.dtype.is_numeric() or cells.dtype == pl.String
    empty = pl.Series(cells.name, [None] * len(cells), dtype=dtype)
    fitting = cells.cast(dtype, strict=False) if castable else empty
    unread = _lost(cells, fitting)
    rule = f"type {cells.dtype}, not {dtype}; {_advice(cells.dtype, dtype)}"
    return fitting, {rule: unread if unread.any() else cells.is_not_null()}


def _whole(cells: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Numbers as 64-bit integers, null where there is none; and which of them have a fraction."""
    if not cells.dtype.is_float():
        return cells.cast(pl.Int64, strict=False), pl.repeat(False, len(cells), dtype=pl.Boolean, eager=True)
    fractions = (cells != cells.floor()).fill_null(False)
    kept = cells.to_frame().select(pl.when(~fractions).then(pl.first())).to_series()
    return kept.cast(pl.Int64, strict=False), fractions


def _lost(cells: pl.Series, fitting: pl.Series) -> pl.Series:
    """Which cells became empty. NaN was empty before."""
    empty = cells.is_null() | cells.is_nan() if cells.dtype.is_float() else cells.is_null()
    return ~empty.fill_null(True) & fitting.is_null()


def _advice(given: pl.DataType, wanted: pl.DataType) -> str:
    if given.is_nested():
        return "rows are flat: join a list into one text, with line breaks between"
    if not (given.is_numeric() or given == pl.String):
        return "write it as text" if wanted == pl.String else "write it as a number"
    return "write text in quotes" if wanted == pl.String else "write numbers without quotes"


def put(cells: pl.Series, hit: pl.Series, value: Any, dtype: Any) -> pl.Series:
    """The cells with `value`, which suits `dtype`, where `hit` is true. The column becomes `dtype` when all its cells fit that:
    a part of a file that holds whole numbers alone, or nothing, is read as less. Else it stays numbers or text, and a column
    of another kind stays as it is: each of its rows breaks a rule."""
    fitting, wrong = fit(cells, dtype)
    if not wrong:
        cells, new = fitting, pl.lit(value, dtype=dtype)
    elif cells.dtype == pl.String:
        new = pl.lit(str(value))
    elif cells.dtype.is_numeric() and dtype.is_numeric():
        new = pl.lit(value, dtype=dtype)
    else:
        return cells
    return pl.select(pl.when(hit).then(new).otherwise(cells).alias(cells.name)).to_series()


def _utf8(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode("utf-8")
    except UnicodeDecodeError:
        return None


def writable(frame: pl.DataFrame) -> pl.DataFrame:
    """The same rows as a .jsonl can hold them: bytes, and lists that hold some, as text with what is no UTF-8 escaped."""
    odd = [cells for cells in frame if cells.dtype == pl.Object or "Binary" in str(cells.dtype)]
    return frame.with_columns(
        pl.Series(cells.name, [None if one is None else _escaped(one) for one in cells.to_list()], dtype=pl.String)
        for cells in odd
    )


def _escaped(value: Any) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else repr(value)
