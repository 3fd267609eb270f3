"""What code shapes a result: every definition that a function reaches, by syntax tree, and no other line of its file.

A stage's work and its checks often share a module, and a module of checks imports the whole house. Digests of whole files
would therefore train again because a sentence of a check was reworded. Here the names that a function uses are followed from
definition to definition, so that only what can run counts. What cannot be followed by name is followed too widely, never too
narrowly:

- a module used as a value (passed on, looked into) counts whole, with what it imports;
- a class counts whole, with every method, wherever its name stands, annotations included; a Protocol shapes nothing and does not;
- a recipe is loaded by its name at run time: each of its members counts whose name is used as an attribute;
- a dotted module name in a string (`python -m tasks.x.y`) counts as that module, whole.

Comments, layout, docstrings and import lines do not count; nor do the fields of a `Settings` class, whose values stand in the
key themselves. tests/flows/test_demo.py watches what every stage of a run calls and opens, and compares it with its key.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeGuard

PROJECT_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("tasks", "data_contracts")
MACHINERY = ("tasks.core", "data_contracts.errors", "data_contracts.verdict")
"""Moves artifacts and words verdicts, but shapes no content: a change here rebuilds nothing."""
_SETTINGS = ("tasks.core.settings", "Settings")
_LOADER = ("tasks.recipes", "load_recipe")


class Symbol(NamedTuple):
    """A top-level name of a module; name "" is the whole module."""

    module: str
    name: str = ""


class Definition(NamedTuple):
    """What a top-level name means and what it leads to; the same for every stage that reaches it."""

    digest: str
    symbols: tuple[Symbol, ...]
    """What its names mean in its module."""
    attributes: frozenset[str]
    """Names that stand in it as an attribute, whatever they belong to."""
    templates: tuple[tuple[str | None, ...], ...]
    """Its f-strings in parts; None where a value is filled in."""


def module_path(name: str) -> Path | None:
    """The file of a project module; None for other modules."""
    if name.split(".")[0] not in _PACKAGES:
        return None
    base = PROJECT_ROOT / Path(*name.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


@dataclass
class Module:
    """A parsed file: its top-level definitions, what its imports bind, and the statements that run with any of them."""

    name: str
    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, Symbol] = field(default_factory=dict)
    effects: list[ast.stmt] = field(default_factory=list)
    """Statements that define nothing but run on import, such as a registration."""
    known: dict[tuple, Definition] = field(default_factory=dict)
    """Definitions by name and by how they were looked at: syntax is walked once in a process."""

    def read(self, statements: Iterable[ast.stmt]) -> None:
        for node in statements:
            if isinstance(node, ast.Import | ast.ImportFrom):
                self.imports |= _bindings(node, self.name)
            elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                self.read(node.body)
            elif not _is_entry(node) and not _is_docstring(node):
                names = _defined(node)
                for name in names:
                    self.definitions.setdefault(name, []).append(node)
                for inner in ast.walk(node) if isinstance(node, ast.If | ast.Try | ast.With) else ():
                    if isinstance(inner, ast.Import | ast.ImportFrom):
                        self.imports |= _bindings(inner, self.name)
                if not names:
                    self.effects.append(node)


@lru_cache(maxsize=1024)
def _parsed(name: str, path: Path, _mtime_ns: int) -> Module:
    module = Module(name)
    module.read(ast.parse(path.read_text("utf-8")).body)
    return module


def _module(name: str) -> Module | None:
    path = module_path(name)
    return _parsed(name, path, path.stat().st_mtime_ns) if path else None


def _bindings(node: ast.Import | ast.ImportFrom, importer: str) -> dict[str, Symbol]:
    if isinstance(node, ast.Import):
        return {
            alias.asname or alias.name.split(".")[0]: Symbol(alias.name if alias.asname else alias.name.split(".")[0])
            for alias in node.names
        }
    origin = node.module or ""
    if node.level:
        origin = ".".join([*importer.split(".")[: -node.level], *([node.module] if node.module else [])])
    return {
        alias.asname or alias.name: Symbol(f"{origin}.{alias.name}")
        if module_path(f"{origin}.{alias.name}")
        else Symbol(origin, alias.name)
        for alias in node.names
    }


def _is_entry(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(
        node, ast.Assign | ast.AnnAssign | ast.AugAssign
    ):  # a variable of a comprehension is no name of the module
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return [n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)]
    bodies = [getattr(node, name, []) for name in ("body", "orelse", "finalbody", "handlers")]
    nested = [name for body in bodies for inner in body for name in _defined(inner)]
    target = getattr(node, "target", None)  # of a loop
    return nested + [n.id for n in ast.walk(target) if isinstance(n, ast.Name)] if target else nested


class _Closure:
    """Follows names from roots; `reached` holds every symbol, `attributes` every attribute name that stands in them."""

    def __init__(self, recipe: str | None, documented: tuple[str, ...]) -> None:
        self.recipe = f"tasks.recipes.{recipe}.recipe" if recipe else None
        self.recipe_name = recipe
        self.documented = documented
        self.reached: dict[Symbol, str] = {}
        """Symbol -> digest of its meaning; a symbol that only leads on is not kept."""
        self.attributes: set[str] = set()
        self.seen: set[Symbol] = set()

    def follow(self, roots: Iterable[Symbol]) -> None:
        todo = list(roots)
        while todo:
            symbol = todo.pop()
            if symbol not in self.seen:
                self.seen.add(symbol)
                todo.extend(self._reach(symbol))
            if not todo:
                todo.extend(self._recipe_members() - self.seen)

    def _recipe_members(self) -> set[Symbol]:
        """What of the recipe is used, once anything loads it."""
        if not self.recipe or Symbol(*_LOADER) not in self.seen or not (module := _module(self.recipe)):
            return set()
        return {Symbol(self.recipe, name) for name in (*module.definitions, *module.imports) if name in self.attributes}

    def _reach(self, symbol: Symbol) -> Iterator[Symbol]:
        if symbol == Symbol(*_LOADER) or symbol.module.startswith(MACHINERY):
            return
        module = _module(symbol.module)
        if module is None:
            return
        if not symbol.name:
            yield from (Symbol(module.name, name) for name in module.definitions)
            yield from module.imports.values()
        elif symbol.name in module.definitions:
            yield from self._count(module, symbol, module.definitions[symbol.name])
        elif symbol.name in module.imports:
            yield module.imports[symbol.name]
        if module.effects and (loose := Symbol(module.name, "<effects>")) not in self.seen:
            self.seen.add(loose)
            yield from self._count(module, loose, module.effects)

    def _count(self, module: Module, symbol: Symbol, nodes: list[ast.stmt]) -> Iterator[Symbol]:
        if all(_is_protocol(node) for node in nodes):
            return
        settings = tuple(isinstance(node, ast.ClassDef) and _is_settings(module, node) for node in nodes)
        viewed = (symbol.name, settings, module.name in self.documented)
        if viewed not in module.known:
            module.known[viewed] = _define(module, nodes, settings, documented=viewed[2])
        definition = module.known[viewed]
        self.reached[symbol] = definition.digest
        self.attributes |= definition.attributes
        yield from definition.symbols
        yield from (Symbol(name) for parts in definition.templates if (name := self._contract_module(parts)))

    def _contract_module(self, parts: tuple[str | None, ...]) -> str | None:
        """`data_contracts.{recipe}.rows`, imported by name: the recipe's own module."""
        name = "".join((self.recipe_name or "") if part is None else part for part in parts)
        return name if name.startswith("data_contracts.") and module_path(name) else None


def _define(module: Module, nodes: list[ast.stmt], settings: tuple[bool, ...], *, documented: bool) -> Definition:
    texts: list[str] = []
    symbols: list[Symbol] = []
    attributes: set[str] = set()
    templates: list[tuple[str | None, ...]] = []
    for node, is_settings in zip(nodes, settings, strict=True):
        texts.append(_meaning(node, fields=not is_settings, documented=documented))
        scope = dict(module.imports)
        for inner in ast.walk(node):
            if isinstance(inner, ast.Import | ast.ImportFrom):
                scope |= _bindings(inner, module.name)
        walked = list(_walk(node, in_settings=is_settings))
        symbols += _symbols(module, scope, walked)
        attributes |= _attributes(walked)
        templates += [_template(inner) for inner in walked if isinstance(inner, ast.JoinedStr)]
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
    return Definition(digest, tuple(dict.fromkeys(symbols)), frozenset(attributes), tuple(templates))


def _symbols(module: Module, scope: dict[str, Symbol], walked: list[ast.AST]) -> Iterator[Symbol]:
    taken: set[int] = set()
    for inner in walked:
        if isinstance(inner, ast.Attribute):
            if (symbol := _dotted(inner, scope, taken)) is not None:
                yield symbol
        elif isinstance(inner, ast.Name) and id(inner) not in taken:
            if inner.id in scope:
                yield scope[inner.id]
            elif inner.id in module.definitions:
                yield Symbol(module.name, inner.id)
        elif isinstance(inner, ast.Constant) and _names_a_module(inner.value):
            yield Symbol(inner.value)


def _names_a_module(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and "." in value and value.isascii() and module_path(value) is not None


def _attributes(walked: list[ast.AST]) -> set[str]:
    names = {inner.attr for inner in walked if isinstance(inner, ast.Attribute)}
    for inner in walked:
        if isinstance(inner, ast.Call) and getattr(inner.func, "id", "") in ("getattr", "hasattr"):
            names |= {a.value for a in inner.args if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    return names


def _template(text: ast.JoinedStr) -> tuple[str | None, ...]:
    return tuple(str(part.value) if isinstance(part, ast.Constant) else None for part in text.values)


def _walk(node: ast.AST, *, in_settings: bool) -> Iterator[ast.AST]:
    """Outer nodes first, so that the whole of `a.b.c` is seen before its parts; what does not count is left out."""
    todo = [node]
    while todo:
        current = todo.pop()
        yield current
        children = list(ast.iter_child_nodes(current))
        if in_settings and current is node:
            children = [c for c in children if not _is_field_or_validator(c)]
            children += [c.annotation for c in ast.iter_child_nodes(current) if isinstance(c, ast.AnnAssign)]
        todo.extend(children)


def _dotted(node: ast.Attribute, scope: dict[str, Symbol], taken: set[int]) -> Symbol | None:
    """What `module.name` means where `module` is bound by an import; marks the names that it used up."""
    names, base = [node.attr], node.value
    while isinstance(base, ast.Attribute):
        names.append(base.attr)
        base = base.value
    if not isinstance(base, ast.Name) or base.id not in scope or scope[base.id].name or id(base) in taken:
        return None
    module, rest = scope[base.id].module, list(reversed(names))
    while rest and module_path(f"{module}.{rest[0]}"):
        module = f"{module}.{rest.pop(0)}"
    if not module_path(module):
        return None
    taken.add(id(base))
    return Symbol(module, rest[0] if rest else "")


def _is_settings(module: Module, node: ast.ClassDef) -> bool:
    """A subclass of Settings, directly or not."""
    for base in node.bases:
        if not isinstance(base, ast.Name):
            continue
        found = module.imports.get(base.id, Symbol(module.name, base.id))
        if found == Symbol(*_SETTINGS):
            return True
        home = _module(found.module)
        definitions = home.definitions.get(found.name, []) if home and found.name else []
        classes = [one for one in definitions if isinstance(one, ast.ClassDef) and one is not node]
        if home and any(_is_settings(home, one) for one in classes):
            return True
    return False


def _is_protocol(node: ast.stmt) -> bool:
    """Read by a type checker alone: none of it runs. One with a decorator (`runtime_checkable`) is looked at in a run."""
    if not isinstance(node, ast.ClassDef) or node.decorator_list:
        return False
    return any(ast.unparse(base).split("[")[0] == "Protocol" for base in node.bases)


def _is_field_or_validator(node: ast.AST) -> bool:
    """Part of a Settings class that acts through the values alone, which are in the key."""
    if isinstance(node, ast.AnnAssign):
        return True
    decorators = getattr(node, "decorator_list", [])
    return any("_validator" in ast.unparse(decorator) for decorator in decorators)


def _meaning(node: ast.stmt, *, fields: bool, documented: bool) -> str:
    """The syntax of a definition without comments, layout, docstrings and import lines.

    In a documented module classes keep their docstrings: they are its schema.
    """
    if fields or not isinstance(node, ast.ClassDef):
        return _syntax(node, documented)
    kept = [statement for statement in node.body if not _is_field_or_validator(statement)]
    return _syntax(node, documented, kept)


def _syntax(node: object, documented: bool, body: list[ast.stmt] | None = None) -> str:
    """A node and all below it in one string, as `ast.dump` writes them; `body` in place of its own where it is given."""
    if isinstance(node, list):
        return f"[{','.join(_syntax(item, documented) for item in node)}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    keeps_docstrings = documented and isinstance(node, ast.ClassDef)
    parts = []
    for name, value in ast.iter_fields(node):
        if name in ("body", "orelse", "finalbody") and isinstance(value, list):
            value = body if name == "body" and body is not None else value
            value = [s for s in value if not isinstance(s, ast.Import | ast.ImportFrom)]
            value = [s for s in value if keeps_docstrings or not _is_docstring(s)]
        parts.append(f"{name}={_syntax(value, documented)}")
    return f"{type(node).__name__}({','.join(parts)})"


def closure(roots: Iterable[Symbol], recipe: str | None = None, documented: tuple[str, ...] = ()) -> dict[Symbol, str]:
    """Symbol -> digest of its meaning, for everything that `roots` reach.

    Args:
        roots: Where to begin.
        recipe: Name of the recipe that `load_recipe` returns at run time.
        documented: Modules in which docstrings of classes are content, because they become part of a JSON schema.
    """
    found = _Closure(recipe, documented)
    found.follow(roots)
    return found.reached


def code_digests(
    roots: Iterable[Symbol], recipe: str | None = None, documented: tuple[str, ...] = ()
) -> dict[str, str]:
    """Module -> one digest over what of it is reached: short enough for a manifest, precise enough to say what changed."""
    modules: dict[str, list[str]] = {}
    for symbol, digest in sorted(closure(roots, recipe, documented).items()):
        modules.setdefault(symbol.module, []).append(f"{symbol.name}={digest}")
    return {name: hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16] for name, parts in modules.items()}
