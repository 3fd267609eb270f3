"""No shared module speaks a recipe's words: its columns and labels occur in no string of the code that every recipe runs."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from data_contracts.limits import Limits
from data_contracts.rows.contract import column_types
from tasks.recipes import RECIPES

ROOT = Path(__file__).resolve().parents[1]
SHARED = {"trace", "target", "anchors", "task", "context", "source_batch"}
"""Columns that shared modules read by these names in any recipe: the audit's view and the sections of a prompt."""
ELSEWHERE = {"role", "answers", "rubric", "profile"}
"""Columns of proofkit whose names are also those of a chat's, a board's and a limit's fields."""
ENGLISH = {
    "signals": {"question", "direction"},
    "proofkit": {"section", "company", "constraint", "stakes", "skills", "voice", "draft"},
}
"""Columns that a sentence may hold as words, but no string as a whole."""
LABELS = {"signals": {"YES"}, "proofkit": {"talking_points"}}
"""Words of a recipe that are no column."""


def own(recipe: str) -> set[str]:
    return {*column_types(recipe)} - SHARED - ELSEWHERE


def is_shared(path: Path) -> bool:
    return not {*path.relative_to(ROOT).parts} & {*RECIPES, "__pycache__"}


@cache
def shared_strings() -> tuple[tuple[str, str], ...]:
    """(place, text) of each string that is no docstring; a template is one string."""
    found = []
    for folder in ("data_contracts", "tasks", "flows", "deployments"):
        for path in filter(is_shared, sorted((ROOT / folder).rglob("*"))):
            name = path.relative_to(ROOT).as_posix()
            if path.suffix == ".py":
                found += [(f"{name}:{line}", text) for line, text in strings(path.read_text("utf-8"))]
            elif path.suffix == ".j2":
                found.append((name, path.read_text("utf-8")))
    return tuple(found)


def strings(code: str) -> Iterator[tuple[int, str]]:
    tree = ast.parse(code)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


def spoken(recipe: str, texts: tuple[tuple[str, str], ...]) -> list[str]:
    """Where a column of the recipe is a string by itself, or an unmistakable word of it stands in one."""
    exact, words = own(recipe), (own(recipe) | LABELS[recipe]) - ENGLISH[recipe]
    pattern = re.compile(rf"(?<![A-Za-z])(?:{'|'.join(map(re.escape, sorted(words)))})(?![A-Za-z])")
    return [f"{place}: {text[:60]!r}" for place, text in texts if text in exact or pattern.search(text)]


def test_the_walk_finds_strings_and_templates():
    assert len(shared_strings()) > 3_000 and any(place.endswith(".j2") for place, _ in shared_strings())
    assert {"headline", "magnitude", "direction"} <= own("signals") and {"company", "stakes"} <= own("proofkit")


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_shared_string_holds_a_word_of_a_recipe(recipe):
    assert spoken(recipe, shared_strings()) == []


@pytest.mark.parametrize(
    ("recipe", "code"),
    [
        ("signals", 'row["direction"]'),
        ("signals", 'name = f"Give {count} headlines, or fewer: a headline"'),
        ("signals", 'fix = "State what happens to YES"'),
        ("signals", 'name = "label_relevance"'),
        ("proofkit", 'row["company"]'),
        ("proofkit", 'name = "the artifact_type of the row"'),
    ],
)
def test_a_word_that_comes_back_is_named(recipe, code):
    assert len(spoken(recipe, tuple((f"x:{line}", text) for line, text in strings(code)))) == 1


def test_a_sentence_may_hold_english():
    texts = tuple(
        ("x", text) for text in ("questions were asked", "the direction of the update", "a section is missing")
    )
    assert spoken("signals", texts) == spoken("proofkit", texts) == []


def test_no_shared_module_asks_which_family_limits_are_of():
    """A family offers what differs through its methods: a third one needs no change elsewhere."""
    families = {"Limits", *(one.__name__ for one in descendants(Limits))}
    assert len(families) >= 4
    wrong = []
    for folder in ("data_contracts", "tasks", "flows"):
        for path in filter(is_shared, (ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
                    named = {inner.id for inner in ast.walk(node.args[1]) if isinstance(inner, ast.Name)}
                    wrong += [f"{path.name}:{node.lineno}"] if named & families else []
    assert wrong == []


def descendants(family: type) -> set[type]:
    return {below for one in family.__subclasses__() for below in (one, *descendants(one))}
