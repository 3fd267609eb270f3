"""The five steps of data_contracts/README.md, walked in a copy of the project with the commands that the page gives."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "data_contracts" / "README.md").read_text("utf-8")
SHOUTING = "shouts; write the headline as published"
RULE = f"""    @pa.check("headline", error="{SHOUTING}")
    def no_shouting(cls, data: PolarsData) -> pl.LazyFrame:
        return _lacks(data, "!!")

    class Config:
"""


def commands(page: str = PAGE) -> list[str]:
    """Every command of the page, in its order: in backquotes, or on an indented line of its own."""
    starts = r"(?:python|make|\S*/python) "
    return re.findall(rf"`({starts}[^`]+)`|^ {{6,}}({starts}.+)$", page, re.MULTILINE)


COMMANDS = [first or second for first, second in commands()]


@pytest.fixture
def copy(tmp_path) -> Path:
    """What the steps touch; the tests in it are those of the examples, not this one again."""
    for name in ("data_contracts", "flows", "tasks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tests" / "data_contracts").mkdir(parents=True)
    for name in ("conftest.py", "signals/test_signals_examples.py"):
        shutil.copy(ROOT / "tests" / "data_contracts" / name, tmp_path / "tests" / "data_contracts")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def run(folder: Path, command: str) -> tuple[int, str]:
    """A command of the page in the copy, by the interpreter of these tests."""
    python, *arguments = shlex.split(command)
    assert python == ".venv/bin/python", "a new user has no activated environment"
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert text.count(old) == 1, (path, old)
    path.write_text(text.replace(old, new), "utf-8")


def add_row(path: Path, **changes: str) -> None:
    row = json.loads(path.with_name("good.jsonl").read_text("utf-8").splitlines()[0])
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row | changes) + "\n")


def test_the_page_names_set_up_tests_and_validation_and_no_other_command():
    setup, tests, made, validate = COMMANDS
    assert setup == "python deployments/setup.py --with dev"
    assert 'choices=["dev"' in (ROOT / "deployments" / "setup.py").read_text("utf-8")
    assert (ROOT / tests.split()[-1]).is_dir() and (ROOT / validate.split()[-1]).is_file()
    assert made == "make validate RECIPE=signals DATA=path"
    assert "$(RUN) -m flows validate $(RECIPE) $(DATA)" in (ROOT / "Makefile").read_text("utf-8")


def test_the_files_of_step_one_exist():
    named = set(re.findall(r"`<recipe>/(\S+?)`", PAGE))
    assert len(named) >= 6
    for recipe in ("signals", "proofkit"):
        for name in named:
            assert (ROOT / "data_contracts" / recipe / name).exists(), name


@pytest.mark.slow
def test_a_rule_an_example_and_a_number_are_changed_as_the_page_says(copy):
    _, tests, _, validate = COMMANDS
    contract = copy / "data_contracts" / "signals"
    add_row(
        contract / "examples" / "bad.jsonl",
        headline="Rates rise!! Markets fall",
        expected_reason=f"headline: {SHOUTING}",
    )
    add_row(contract / "examples" / "good.jsonl", headline="Rates rise! Markets fall")
    code, said = run(copy, tests)
    assert code == 1 and f"expected only 'headline: {SHOUTING}', found []" in said, said[-2000:]
    edit(contract / "rows.py", "    class Config:\n", RULE)
    code, said = run(copy, tests)
    assert code == 0 and " passed" in said, said[-2000:]
    code, said = run(copy, validate)
    assert code == 0 and (copy / "validation" / "gold.jsonl" / "report.html").is_file(), said[-2000:]
    edit(contract / "limits.yaml", "  min_rows: 20 ", "  min_rows: 5000 ")
    code, said = run(copy, validate)
    assert code == 1 and "(>= 5000 rows)" in said, said[-2000:]
