"""Cache keys: what a stage's result depends on, kept in parts so that a miss can say which part changed.

Two keys (DESIGN.md, anatomy of a stage): the *work key* names what shapes the files, the *checks digest* what measures them. Same
work under other checks is loaded and measured again, never made again.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from tasks.core.artifact import canonical_json, sha256_file
from tasks.core.code import PROJECT_ROOT

__all__ = ["PROJECT_ROOT", "KeyParts", "data_digests", "differences", "digest_of", "text_digests", "versions"]


def digest_of(parts: Mapping) -> str:
    """The cache key: sha256 of the canonical JSON of its parts."""
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


@dataclass(frozen=True)
class KeyParts:
    """Everything that a stage's artifact depends on, by name."""

    work: dict
    """What shapes the files: code, settings, inputs, stack. Checkpoints and finished work carry its digest."""
    checks: dict
    """What measures them."""

    @property
    def work_key(self) -> str:
        """Names finished work and checkpoints."""
        return digest_of(self.work)

    @property
    def checks_digest(self) -> str:
        """Names a way to measure."""
        return digest_of(self.checks)

    @property
    def key(self) -> str:
        """Names a manifest: this work, measured this way."""
        return digest_of(asdict(self))

    def changes_since(self, before: Mapping) -> list[str]:
        """What differs from the parts of an earlier key: `config.rank: 8 -> 16`; of the checks `checks.config...`."""
        return [
            *differences(before["work"], self.work),
            *differences(before["checks"], self.checks, "checks"),
        ]


def data_digests(folder: Path, names: tuple[str, ...]) -> dict[str, str]:
    """File -> sha256 for the files of a recipe's contract that a stage reads; "absent" for one that this recipe does not have.

    A name with a star stands for every file that it matches: one added or removed changes the key too.
    """
    files = {name: folder / name for name in names if "*" not in name}
    starred = [path for name in names if "*" in name for path in folder.glob(name) if path.is_file()]
    files |= {path.relative_to(folder).as_posix(): path for path in sorted(starred)}
    return {name: sha256_file(path)[:16] if path.is_file() else "absent" for name, path in files.items()}


def text_digests(names: tuple[str, ...]) -> dict[str, str]:
    """File -> sha256 for files of the project that a stage reads, relative to the root.

    Raises:
        FileNotFoundError: one is not there: a renamed file must not leave the key in silence.
    """
    return {name: sha256_file(PROJECT_ROOT / name)[:16] for name in names}


def versions(distributions: tuple[str, ...]) -> dict[str, str]:
    """Installed version of each distribution that shapes a result."""
    found = {}
    for name in distributions:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def differences(old: object, new: object, where: str = "") -> list[str]:
    """Which parts of a key changed: `config.rank: 8 -> 16`, one a line."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines = []
        for name in sorted(old.keys() | new.keys()):
            lines += differences(old.get(name), new.get(name), f"{where}.{name}" if where else name)
        return lines
    return [] if old == new else [f"{where}: {_brief(old)} -> {_brief(new)}"]


def _brief(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
