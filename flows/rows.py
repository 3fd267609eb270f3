"""A recipe's rows as two files, by the code of a run's first stage: to read, to correct, to train on elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

from tasks.core.errors import ConfigError
from tasks.formats.jsonl import as_lines
from tasks.recipes import load_recipe


def write_rows(
    recipe: str, source: str, train_rows: int, heldout_rows: int, seed: int, out: Path, *, force: bool = False
) -> dict[Path, int]:
    """Write train.jsonl and heldout.jsonl to `out`; returns how many rows each file holds.

    Raises:
        ConfigError: no such recipe or source, more rows asked for than there are, or a file of other content is there.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"rows: {out} is a file, not a folder. Nothing was written. Give another folder as --out.")
    train, heldout = load_recipe(recipe).build_rows(source, train_rows, heldout_rows, seed)
    made = {out / "train.jsonl": train, out / "heldout.jsonl": heldout}
    texts = {path: as_lines(rows).encode("utf-8") for path, rows in made.items()}
    if not force:
        _refuse_other_content(texts)
    _write_whole(texts)
    return {path: len(rows) for path, rows in made.items()}


def _refuse_other_content(texts: dict[Path, bytes]) -> None:
    """Rows that somebody may have corrected by hand are not built over."""
    found = {path: path.read_bytes() for path in texts if path.exists()}
    other = [path for path, text in found.items() if text != texts[path]]
    if other:
        lines = [f"{path} has {_lines(found[path])} lines, expected {_lines(texts[path])}" for path in other]
        raise ConfigError(
            f"rows: {len(other)} of {len(texts)} files are there already and are not what would be written: "
            f"{'; '.join(lines)}. Nothing was written. Give another folder as --out, or --force to replace them."
        )


def _lines(text: bytes) -> str:
    return format(text.count(b"\n"), ",")


def _write_whole(texts: dict[Path, bytes]) -> None:
    """Both aside, then both into place: a full disk leaves what was there, and no training rows of another build."""
    asides = {path: path.with_name(f".{path.name}.{os.getpid()}") for path in texts}
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            asides[path].write_bytes(text)
        for path, aside in asides.items():
            aside.replace(path)
    finally:
        for aside in asides.values():
            aside.unlink(missing_ok=True)
