"""What code counts: what a function reaches, by meaning, and nothing else of its file."""

from __future__ import annotations

import pytest

from tasks.core import code
from tasks.core.code import Symbol, closure, code_digests

STAGE = '''"""A stage."""
from tasks import helper
from tasks.core.settings import Settings
from tasks.helper import LIMIT, kept

UNUSED = 1


class StageConfig(Settings):
    rank: int = 8
    """A rank."""

    @property
    def doubled(self) -> int:
        return self.rank * 2


def work(config: StageConfig):
    return helper.scale(2) + LIMIT


def verify():
    from tasks.checks import sentence

    return sentence() + kept()
'''
HELPER = "FACTOR = 3\nLIMIT = 4\n\n\ndef scale(x):\n    return x * FACTOR\n\n\ndef kept():\n    return 0\n"
CHECKS = 'def sentence():\n    return "too large"\n'
ROOT = [Symbol("tasks.stage", "work")]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A tiny project: a stage, a helper of its work, a module of its checks."""
    (tmp_path / "tasks" / "core").mkdir(parents=True)
    for name, text in {
        "stage": STAGE,
        "helper": HELPER,
        "checks": CHECKS,
        "core/settings": "class Settings: pass\n",
    }.items():
        (tmp_path / "tasks" / f"{name}.py").write_text(text)
    monkeypatch.setattr(code, "PROJECT_ROOT", tmp_path)

    def edit(name: str, old: str, new: str) -> None:
        path = tmp_path / "tasks" / f"{name}.py"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    return edit


def test_only_what_the_work_reaches_is_found(project):
    assert set(closure(ROOT)) == {
        Symbol("tasks.helper", "FACTOR"),
        Symbol("tasks.helper", "LIMIT"),
        Symbol("tasks.helper", "scale"),
        Symbol("tasks.stage", "StageConfig"),
        Symbol("tasks.stage", "work"),
    }


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("stage", '"""A stage."""', '"""Another docstring."""\n# and a comment'),
        ("stage", "    return helper", "    # why\n    return  helper"),
        ("stage", "UNUSED = 1", "UNUSED = 2"),
        ("stage", "from tasks.helper import LIMIT, kept", "import json\nfrom tasks.helper import LIMIT, kept"),
        ("stage", "rank: int = 8", "rank: int = 16"),
        ("helper", "return 0", "return 1"),
        ("checks", "too large", "far too large"),
    ],
)
def test_what_does_not_shape_the_work_leaves_its_digest(project, name, old, new):
    before = code_digests(ROOT)
    project(name, old, new)
    assert code_digests(ROOT) == before


@pytest.mark.parametrize(
    ("name", "old", "new", "module"),
    [
        ("stage", "scale(2)", "scale(3)", "tasks.stage"),
        ("stage", "self.rank * 2", "self.rank * 3", "tasks.stage"),
        ("helper", "FACTOR = 3", "FACTOR = 30", "tasks.helper"),
        ("helper", "x * FACTOR", "x + FACTOR", "tasks.helper"),
        ("helper", "LIMIT = 4", "LIMIT = 5", "tasks.helper"),
        ("helper", "FACTOR = 3", "FACTOR = 3\nprint('on import')", "tasks.helper"),
    ],
)
def test_what_shapes_the_work_is_seen_and_named(project, name, old, new, module):
    before = code_digests(ROOT)
    project(name, old, new)
    after = code_digests(ROOT)
    assert {one for one in after if after[one] != before[one]} == {module}


def test_a_module_used_as_a_value_counts_whole(project):
    before = set(closure(ROOT))
    project("stage", "helper.scale(2)", "call(helper)")
    assert set(closure(ROOT)) - before == {Symbol("tasks.helper", "kept")}


def test_a_module_run_by_its_name_counts_whole(project):
    project("stage", "helper.scale(2)", 'run("tasks.checks")')
    assert Symbol("tasks.checks", "sentence") in closure(ROOT)


def test_a_recipe_s_members_count_where_they_are_used(project, tmp_path):
    recipe = tmp_path / "tasks" / "recipes" / "mine"
    recipe.mkdir(parents=True)
    (recipe.parent / "__init__.py").write_text("def load_recipe(name):\n    return name\n")
    (recipe / "recipe.py").write_text("def completion(row):\n    return row\n\n\ndef score(row):\n    return 1\n")
    project("stage", "from tasks import helper\n", "from tasks import helper\nfrom tasks.recipes import load_recipe\n")
    project("stage", "scale(2)", "scale(load_recipe('mine').completion({}))")
    members = {symbol.name for symbol in closure(ROOT, "mine") if symbol.module == "tasks.recipes.mine.recipe"}
    assert members == {"completion"}


def test_a_protocol_shapes_nothing_unless_a_run_looks_at_it(project):
    protocol = "class Scales(Protocol):\n    def scale(self, x): ...\n\n\n"
    project("stage", "def work(config: StageConfig):", f"{protocol}def work(config: StageConfig, scales: Scales):")
    assert Symbol("tasks.stage", "Scales") not in closure(ROOT)
    project("stage", "class Scales", "@runtime_checkable\nclass Scales")
    assert Symbol("tasks.stage", "Scales") in closure(ROOT)


def test_docstrings_count_where_they_become_a_schema(project):
    project("stage", "(Settings)", "")
    plain = code_digests(ROOT)
    schema = code_digests(ROOT, documented=("tasks.stage",))
    project("stage", '"""A rank."""', '"""Another description."""')
    assert code_digests(ROOT) == plain
    assert code_digests(ROOT, documented=("tasks.stage",)) != schema
