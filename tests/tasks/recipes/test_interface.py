"""Every recipe declares what stages and gates ask of it, and what it declares is so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from data_contracts.paths import CONTRACTS_FOLDER
from tasks.core.errors import ConfigError
from tasks.recipes import RECIPES, keeps_trace, load_recipe
from tasks.recipes.interface import JoinsThoughts, ReadsTraces, Teaching

ROOT = Path(__file__).resolve().parents[3]
CONTRACT = {"prompt.md", "prompt_rich.md", "limits.yaml", "gates.yaml", "rubric.md", "corrections.yaml"}
"""Files that every contract has: stages name them themselves."""
OPENED = """
import json, sys
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
from tasks.recipes import load_recipe
recipe = load_recipe(sys.argv[1])
{}
print(json.dumps(opened))
"""
ROWS = """
for source in recipe.SOURCES:
    train, heldout = recipe.build_rows(source, 8, 4, 1)
    [recipe.wording(row) for row in train + heldout]
if hasattr(recipe, "teacher_seeds"):
    seed = json.loads(recipe.teacher_seeds().read_text("utf-8").splitlines()[0])
    recipe.teacher_messages(seed)
"""
EVALUATION = """
[recipe.probe().variants(row) for row in recipe.reference_rows()]
"""


def read_by(recipe: str, calls: str) -> set[str]:
    """Data files of the recipe's contract folder that some calls open, by their path in it."""
    command = [sys.executable, "-c", OPENED.format(calls), recipe]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    folder = CONTRACTS_FOLDER / recipe
    paths = (Path(path) for path in json.loads(done.stdout.splitlines()[-1]))
    found = {path.relative_to(folder).as_posix() for path in paths if path.is_relative_to(folder)}
    return {name for name in found if not name.endswith((".py", ".pyc"))} - CONTRACT


def files(recipe: str, patterns: tuple[str, ...]) -> set[str]:
    folder = CONTRACTS_FOLDER / recipe
    return {path.relative_to(folder).as_posix() for pattern in patterns for path in folder.glob(pattern)}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_declares_every_file_that_it_reads(name):
    recipe = load_recipe(name)
    assert read_by(name, ROWS) and read_by(name, ROWS) <= files(name, recipe.ROW_FILES)
    assert read_by(name, EVALUATION) and read_by(name, EVALUATION) <= files(name, recipe.EVALUATION_FILES)


@pytest.mark.parametrize("name", RECIPES)
def test_every_declared_file_is_there(name):
    recipe = load_recipe(name)
    assert all(files(name, (pattern,)) for pattern in (*recipe.ROW_FILES, *recipe.EVALUATION_FILES))


@pytest.mark.parametrize("name", RECIPES)
def test_a_source_that_is_not_declared_is_refused_with_those_that_are(name):
    recipe = load_recipe(name)
    with pytest.raises(ConfigError, match=f"Known: {', '.join(recipe.SOURCES)}"):
        recipe.build_rows("elsewhere", 1, 1, 0)


@pytest.mark.parametrize("name", RECIPES)
def test_score_gives_the_declared_metrics(name):
    recipe = load_recipe(name)
    for row in recipe.reference_rows():
        assert tuple(recipe.score(row, recipe.parse_output(recipe.completion(row), row))) == recipe.METRICS


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_that_keeps_traces_can_read_and_join_them(name):
    recipe = load_recipe(name)
    assert keeps_trace(name) == isinstance(recipe.probe(), ReadsTraces) == isinstance(recipe, JoinsThoughts)


def test_a_teacher_writes_for_the_recipe_that_can_be_taught():
    assert [name for name in RECIPES if isinstance(load_recipe(name), Teaching)] == ["signals"]
