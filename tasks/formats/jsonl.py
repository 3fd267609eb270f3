"""JSON on disk: a value, or a list of objects one a line. The one writer and the one reader of both."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def read_lines(path: Path) -> list[dict]:
    """The objects of a .jsonl file, in order. Lines end at \\n alone: a text may hold other characters that end lines."""
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line.strip()]


def as_lines(rows: Iterable[dict]) -> str:
    """What a .jsonl file of these objects holds."""
    return "".join(_text(row) + "\n" for row in rows)


def write_lines(path: Path, rows: Iterable[dict]) -> None:
    """Write a .jsonl file, UTF-8."""
    path.write_text(as_lines(rows), "utf-8", newline="\n")


def write_json(path: Path, value: Any, *, sort_keys: bool = False) -> None:
    """Write one JSON value, UTF-8, indented by one space; keys in their own order unless they are sorted."""
    path.write_text(_text(value, indent=1, sort_keys=sort_keys) + "\n", "utf-8", newline="\n")


def _text(value: Any, **form: Any) -> str:
    """Readable where it can be; escaped where a model's answer holds half a surrogate pair, which UTF-8 has no bytes for."""
    text = json.dumps(value, ensure_ascii=False, **form)
    return text if _fits_utf8(text) else json.dumps(value, **form)


def _fits_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
