"""Cache keys: what a stage's result depends on, kept in parts so that a miss can say which part changed."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
from functools import lru_cache
from pathlib import Path

from tasks.core.artifact import canonical_json, sha256_file

PROJECT_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("tasks", "data_contracts")
_NOT_CONTENT = ("tasks.core", "data_contracts.errors", "data_contracts.verdict")
"""Machinery that moves artifacts but does not shape them: a change here rebuilds nothing."""


def digest_of(parts: dict) -> str:
    """The cache key: sha256 of the canonical JSON of its parts."""
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


@lru_cache(maxsize=256)
def _ast_digest(path: Path, _mtime_ns: int) -> str:
    """Digest of a file's meaning: comments, layout and docstrings do not count."""
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [
                s for s in body if not (isinstance(s, ast.Expr) and isinstance(getattr(s, "value", None), ast.Constant))
            ]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


def module_path(name: str) -> Path | None:
    """The file of a project module; None for other modules."""
    if name.split(".")[0] not in _PACKAGES:
        return None
    base = PROJECT_ROOT / Path(*name.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def _imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {name for name in names if module_path(name)}


def code_digests(*modules: str) -> dict[str, str]:
    """Module -> digest, for the given modules and every project module they import, directly or not.

    A stage declares its helpers by importing them: one that is forgotten in a list cannot give a stale hit.
    """
    found: dict[str, str] = {}
    todo = list(modules)
    while todo:
        name = todo.pop()
        path = module_path(name)
        if name in found or path is None or name.startswith(_NOT_CONTENT):
            continue
        found[name] = _ast_digest(path, path.stat().st_mtime_ns)
        todo.extend(_imports(path))
    return dict(sorted(found.items()))


def data_digests(folder: Path, names: tuple[str, ...]) -> dict[str, str]:
    """File -> sha256 for the non-code files that a stage reads (limits, prompts, gates); a missing one counts as absent.

    A name with a star stands for every file that it matches: one added or removed changes the key too.
    """
    files = {name: folder / name for name in names if "*" not in name}
    starred = [path for name in names if "*" in name for path in folder.glob(name) if path.is_file()]
    files |= {path.relative_to(folder).as_posix(): path for path in sorted(starred)}
    return {name: sha256_file(path)[:16] if path.is_file() else "absent" for name, path in files.items()}


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
