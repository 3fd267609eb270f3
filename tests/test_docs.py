"""What the documents name exists: paths, modules, make targets, commands with their options, names of the code."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest
import typer.main

from tasks.recipes import RECIPES

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")
FOLDERS = ("flows", "tasks", "data_contracts", "configs", "deployments", "tests")
THE_READERS_OWN = ("my.yaml", "my-models.yaml")
"""Files of the README's examples that a reader writes."""
STAGES = sorted(path.stem for path in (ROOT / "tasks").glob("*.py") if path.name != "__init__.py")
PLACEHOLDERS = {"<recipe>": RECIPES, "<stage>": STAGES, "<profile>": ["nano"]}


def code_of(page: str) -> list[str]:
    """What stands in backquotes, and each line of a fenced or indented block."""
    blocks = re.findall(r"^```\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    rest = re.sub(r"^```\n.*?^```", "", page, flags=re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    return [*lines, *re.findall(r"^ {4,}(\S.*)$", rest, re.MULTILINE), *re.findall(r"`([^`]+)`", rest)]


def filled(text: str) -> list[str]:
    """The text once for each value of its placeholders."""
    for name, values in PLACEHOLDERS.items():
        if name in text:
            return [one for value in values for one in filled(text.replace(name, value))]
    return [text]


def paths_of(page: str) -> set[str]:
    """Paths from the root, the targets of links, and file names of the project's own kinds."""
    words = re.findall(r"[\w.<>*/-]+", page)
    inside = {word for word in words if word.split("/")[0] in FOLDERS and "/" in word}
    links = set(re.findall(r"\]\(([^)#:]+)\)", page))
    files = {
        word for code in code_of(page) for word in code.split() if re.fullmatch(r"[\w-]+\.(py|md|yaml|toml)", word)
    }
    return {path.rstrip(".") for path in inside | links | files} - set(THE_READERS_OWN)


@cache
def names_of_files() -> frozenset[str]:
    return frozenset(path.name for folder in FOLDERS for path in (ROOT / folder).rglob("*.*"))


def path_exists(path: str) -> bool:
    """A pattern matches something; a name without a folder is a file somewhere."""
    return all(any(ROOT.glob(one)) or ("/" not in one and one in names_of_files()) for one in filled(path))


def modules_of(page: str) -> set[str]:
    """Dotted names that begin with a package of the project, and what `python -m` runs, but for installed programs."""
    dotted = {code.strip() for code in code_of(page) if re.fullmatch(rf"({'|'.join(FOLDERS)})(\.\w+)+", code.strip())}
    return dotted | (set(re.findall(r"python -m ([\w.<>]+)", page)) - {"pytest", "pip"})


def module_exists(name: str) -> bool:
    """A module, a package that can be run, or a definition at the top of a module."""

    def one(dotted: str) -> bool:
        base = ROOT / Path(*dotted.split("."))
        if base.with_suffix(".py").is_file() or (base / "__init__.py").is_file():
            return True
        parent, attribute = base.parent.with_suffix(".py"), base.name
        return parent.is_file() and attribute in names_in(parent)

    return all(one(dotted) for dotted in filled(name))


def targets_of(page: str) -> set[str]:
    return {target for code in code_of(page) for target in re.findall(r"\bmake ([a-z-]+)", code)}


def target_exists(target: str) -> bool:
    return re.search(rf"^{target}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE) is not None


def commands_of(page: str) -> set[str]:
    """`finetune` and `finetune --set` of `python -m flows finetune my.yaml --set train.epochs=2`."""
    found = set()
    for code in code_of(page):
        for name, rest in re.findall(r"-m flows ([a-z]+)(.*)", code):
            found |= {name, *(f"{name} {option}" for option in re.findall(r"--[a-z-]+", rest))}
    return found


def command_exists(command: str) -> bool:
    from flows.__main__ import app

    name, _, option = command.partition(" ")
    found = typer.main.get_command(app).commands.get(name)
    return found is not None and (not option or any(option in parameter.opts for parameter in found.params))


@cache
def names_in(path: Path) -> frozenset[str]:
    """What a file defines: functions, classes, fields, variables, and keys of its keyword arguments."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return frozenset(names)


@cache
def names_of_the_code() -> frozenset[str]:
    files = [path for folder in FOLDERS[:3] for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    return frozenset().union(*map(names_in, files))


def names_in_code_of(page: str) -> set[str]:
    """Identifiers in backquotes that look like the project's: some_name, SomeName, Some.name, LIMITS."""
    spans = re.findall(r"`([A-Za-z_][\w.]*)`", page)
    own = [
        one for one in spans if re.search(r"_|^[A-Z]", one) and not re.search(r"\.(py|md|yaml|toml|jsonl|json)$", one)
    ]
    return {one.split(".")[-1] for one in own if one.split(".")[0] not in FOLDERS} - {"Raises", "Modelfile", "Makefile"}


def name_exists(name: str) -> bool:
    return name.startswith("_") or name in names_of_the_code() or name in ("HF_TOKEN", "HF_ENDPOINT", "OMP_NUM_THREADS")


KINDS = {
    "paths": (paths_of, path_exists),
    "modules": (modules_of, module_exists),
    "make targets": (targets_of, target_exists),
    "commands": (commands_of, command_exists),
    "names": (names_in_code_of, name_exists),
}
LEAST = {"paths": 60, "modules": 3, "make targets": 8, "commands": 5, "names": 30}
"""How many of a kind the three pages name together, some below what they do: a reader that finds nothing proves nothing."""


def missing(page: str, kind: str) -> list[str]:
    find, exists = KINDS[kind]
    return sorted(one for one in find(page) if not exists(one))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PAGES)
def test_what_a_page_names_exists(name, kind):
    assert missing((ROOT / name).read_text("utf-8"), kind) == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_readers_of_pages_find_what_there_is(kind):
    found = set().union(*(KINDS[kind][0]((ROOT / name).read_text("utf-8")) for name in PAGES))
    assert len(found) >= LEAST[kind], sorted(found)


SPOILED = """
See `tasks/engines/merge.py`, [house](HOUSE.md) and tests/tasks/<recipe>/gone.py; `python -m flows finetun signals/nano`,
`python -m tasks.mergeadapter spec.json`, `flows.finetune.tune`, `make demonstrate`; `Stage.key_pieces`, `gone.yaml`.

    python -m flows validate signals rows.jsonl --tokeniser folder
"""


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("paths", ["HOUSE.md", "gone.yaml", "tasks/engines/merge.py", "tests/tasks/<recipe>/gone.py"]),
        ("modules", ["flows.finetune.tune", "tasks.mergeadapter"]),
        ("make targets", ["demonstrate"]),
        ("commands", ["finetun", "validate --tokeniser"]),
        ("names", ["key_pieces"]),
    ],
)
def test_what_is_not_there_is_found_by_name(kind, expected):
    assert missing(SPOILED, kind) == expected


CONTRACT_PAGES = sorted((ROOT / "data_contracts").rglob("README.md"))


def files_beside(page: Path, text: str) -> set[str]:
    """File names in backquotes on a page of data_contracts that are neither beside it nor under the root."""
    named = set(re.findall(r"`([\w./-]+\.(?:py|md|yaml|jsonl))`", text))
    assert len(named) >= 2, page
    return {name for name in named if not any((folder / name).exists() for folder in (page.parent, ROOT))}


MADE_OR_OF_ANY_RECIPE = {"rows.py", "rejected.jsonl", "good.jsonl", "bad.jsonl"}


def test_the_pages_of_contracts_name_files_that_exist():
    assert len(CONTRACT_PAGES) >= 4
    for page in CONTRACT_PAGES:
        assert files_beside(page, page.read_text("utf-8")) <= MADE_OR_OF_ANY_RECIPE, page
    page = ROOT / "data_contracts" / "README.md"
    assert files_beside(page, "`rows/contract.py`, `contract.py`, `prose.py`") == {"contract.py", "prose.py"}


def test_the_index_of_decisions_names_every_entry_once():
    page = (ROOT / "DECISIONS.md").read_text("utf-8")
    entries = re.findall(r"^### (\d{4}-\d{2}-\d{2}) (.+)$", page, re.MULTILINE)
    rows = re.findall(r"^\| (\d{4}-\d{2}-\d{2}) \| (.+) \| (\S.*) \|$", page, re.MULTILINE)
    assert len(entries) >= 50
    assert [(date, title) for date, title, _ in rows] == entries
    assert not re.findall(r"^## \d{4}", page, re.MULTILINE), "an entry stands under Choices or Experiments, as ###"
