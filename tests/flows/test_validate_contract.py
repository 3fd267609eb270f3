"""Rows against their contract, from a terminal and as a flow: what passes, what fails, and what people are told."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from data_contracts.errors import ConfigError, ContractError
from data_contracts.paths import CONTRACTS_FOLDER
from data_contracts.rows.rows_file import read_rows
from data_contracts.validation.validate import recipes, validate_file
from data_contracts.verdict import Verdict

ROOT = Path(__file__).resolve().parents[2]
GOLD = CONTRACTS_FOLDER / "signals" / "examples" / "gold.jsonl"
ROWS = len(GOLD.read_text("utf-8").splitlines())


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """The gold rows with two rules broken in rows 2 and 5."""
    rows = [json.loads(line) for line in GOLD.read_text("utf-8").splitlines()]
    assert not {"error_code"} & {name for row in (rows[1], rows[4]) for name in row if row[name] is not None}
    rows[1]["novelty"] = 7.0
    rows[4]["question"] = "Will it rain"
    path = tmp_path / "broken.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture
def leaning(tmp_path: Path) -> Path:
    """Rows that each keep every rule, but as a set hold no noise."""
    path = tmp_path / "leaning.jsonl"
    read_rows(GOLD).filter(pl.col("relevance") > 0.1).vstack(read_rows(GOLD).head(0)).write_ndjson(path)
    return path


def run_command(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """`python -m flows validate ...`; the folder of its output is the working directory's."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv[0] = 'flows'; from flows.__main__ import main; "
    tail = (
        "code = main(); print('HEAVY', sorted({'torch', 'prefect', 'transformers'} & set(sys.modules))); sys.exit(code)"
    )
    argv = [sys.executable, "-c", code + tail, "validate", *arguments]
    return subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=300)


def test_good_rows_pass_in_both_formats(tmp_path):
    parquet = tmp_path / "gold.parquet"
    read_rows(GOLD).write_parquet(parquet)
    for path in (GOLD, parquet):
        found = validate_file("signals", path, out=tmp_path / "out")
        assert found.verdict is Verdict.PASS and found.rejected_path is None
        assert len(found.checks) >= 18 and found.findings.n_rows == ROWS
        assert found.sentence().startswith(f"validate: all {ROWS} rows of {path.name} keep the signals contract")
        assert [one.name for one in found.page_path.parent.iterdir()] == ["report.html"]


def test_broken_rows_are_told_counted_and_written_out(broken, tmp_path):
    found = validate_file("signals", broken, out=tmp_path / "out")
    assert found.verdict is Verdict.FAIL
    assert "2 rules broken in 2 rows" in found.sentence()
    assert "novelty   not from 0 to 1" in found.table() and "2 (7.0)" in found.table()
    rejected = read_rejected(found.rejected_path)
    assert [(row["row"], row["reasons"][0].split(":")[0]) for row in rejected] == [(2, "novelty"), (5, "question")]
    assert (found.findings.n_rows, found.findings.n_rejected) == (ROWS, 2)
    assert validate_file("signals", GOLD, out=tmp_path / "out").rejected_path is None
    assert found.rejected_path.is_file(), "another file's rejected rows stay"


def test_a_file_set_right_leaves_no_old_rejects(broken, tmp_path):
    old = validate_file("signals", broken, out=tmp_path / "out").rejected_path
    broken.write_bytes(GOLD.read_bytes())
    assert validate_file("signals", broken, out=tmp_path / "out").verdict is Verdict.PASS
    assert not old.exists()


def test_a_set_can_fail_while_every_row_is_right(leaning, tmp_path):
    found = validate_file("signals", leaning, out=tmp_path / "out")
    assert found.findings.n_rejected == 0 and found.verdict is Verdict.FAIL
    assert any(one.name == "noise fraction (at least)" and one.verdict is Verdict.FAIL for one in found.audit)
    assert "on the set failed" in found.sentence() and "0 of 59 well-formed rows" in found.table()


def test_limits_decide(tmp_path):
    assert validate_file("signals", GOLD, "nano", out=tmp_path / "out").verdict is not Verdict.PASS


def test_too_few_rows_are_never_a_pass(tmp_path):
    path = tmp_path / "few.jsonl"
    path.write_text("".join(GOLD.read_text("utf-8").splitlines(keepends=True)[:3]), "utf-8")
    found = validate_file("signals", path, out=tmp_path / "out")
    assert found.verdict is Verdict.FAIL and "could not tell" in found.sentence()


def test_missing_columns_leave_the_set_untold(tmp_path):
    path = tmp_path / "columns.jsonl"
    read_rows(GOLD).drop("trace").write_ndjson(path)
    found = validate_file("signals", path, out=tmp_path / "out")
    assert [one.verdict for one in found.audit] == [Verdict.CANNOT_TELL]
    assert "the column is missing" in found.table() and "no row was accepted" in found.table()


@pytest.mark.parametrize(
    ("recipe", "data", "limits", "told"),
    [
        ("signals", "nowhere.jsonl", "default", r"nowhere\.jsonl is not a file"),
        ("signals", "rows.csv", "default", r"ends in '\.csv'"),
        ("signals", "line.jsonl", "default", r"1 broken line.*line\.jsonl:2"),
    ],
)
def test_unreadable_rows_are_refused_with_the_place(recipe, data, limits, told, tmp_path):
    (tmp_path / "rows.csv").write_text("a,b\n")
    lines = GOLD.read_text("utf-8").splitlines(keepends=True)
    (tmp_path / "line.jsonl").write_text(lines[0] + lines[1][:40] + "\n" + lines[2], "utf-8")
    with pytest.raises(ContractError, match=f"(?s){told}"):
        validate_file(recipe, tmp_path / data, limits, out=tmp_path / "out")


def test_unknown_recipe_and_profile_are_told_with_the_known():
    assert "signals" in recipes()
    with pytest.raises(ConfigError, match=r"no contract 'nope'\. Known: proofkit, signals"):
        validate_file("nope", GOLD)
    with pytest.raises(ConfigError, match=r"no profile 'nope'\. Found default, nano"):
        validate_file("signals", GOLD, "nope")


def test_command_passes_without_torch_or_prefect(tmp_path):
    done = run_command("signals", str(GOLD), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "checks passed" in done.stdout and "HEAVY []" in done.stdout
    page = tmp_path / "validation" / "gold.jsonl" / "report.html"
    assert page.is_file() and str(page.relative_to(tmp_path)) in done.stdout
    assert re.search(r"not checked +token budget +no tokenizer was given; --tokenizer FOLDER", done.stdout)
    assert "checks passed. Not checked: token budget" in done.stdout and "Not checked: token" in page.read_text()


def test_command_counts_tokens_of_a_named_model_without_torch(tmp_path, tiny_base):
    asked = ("signals", str(GOLD), "--tokenizer", str(tiny_base), "--max-length-tokens")
    done = run_command(*asked, "100000", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "file's rows longer than max_length_tokens" in done.stdout and "HEAVY []" in done.stdout
    assert "not checked" not in done.stdout.lower()
    assert "max_length_tokens" in (tmp_path / "validation" / "gold.jsonl" / "report.html").read_text()
    done = run_command(*asked, "100", cwd=tmp_path)
    assert done.returncode == 1 and "1 of " in done.stderr and "checks on the set failed" in done.stderr
    assert "Shorten the rows or raise" in done.stdout
    done = run_command("signals", str(GOLD), "--tokenizer", str(tmp_path), cwd=tmp_path)  # no model
    assert done.returncode == 1 and "lacks tokenizer.json" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
@pytest.mark.parametrize(("given", "passed_on"), [(["TOKENIZER=some/model"], " --tokenizer some/model"), ([], "")])
def test_make_passes_the_tokenizer_on(given, passed_on):
    argv = ["make", "--dry-run", "validate", "RECIPE=signals", "DATA=rows.jsonl", *given]
    outside = {
        name: value for name, value in os.environ.items() if not name.startswith("MAKE")
    }  # `make test` runs this
    done = subprocess.run(argv, cwd=ROOT, env=outside, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].rstrip() == f".venv/bin/python -m flows validate signals rows.jsonl{passed_on}"


def test_tokens_of_rows_that_break_their_contract_are_not_counted_and_that_is_said(broken, tmp_path, tiny_base):
    done = run_command("signals", str(broken), "--tokenizer", str(tiny_base), cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert re.search(r"cannot tell +token budget", done.stdout) and "may not even render" in done.stdout


def test_command_fails_with_the_table_and_no_traceback(broken, tmp_path):
    done = run_command("signals", str(broken), cwd=tmp_path)
    assert done.returncode == 1 and "2 rules broken in 2 rows" in done.stderr and "novelty" in done.stdout
    assert "Not checked: token budget" in done.stderr
    assert len(read_rejected(tmp_path / "validation" / "broken.jsonl" / "rejected.jsonl")) == 2
    assert "validation/broken.jsonl/rejected.jsonl" in done.stdout and "broken.jsonl/report.html" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("signals", "nowhere.jsonl"), 1, "is not a file"),
        (("signals", str(GOLD), "--limits", "nano"), 1, "do not keep"),
        (("signals",), 2, "Missing argument"),
        (("signals", str(GOLD), "--what"), 2, "No such option"),
    ],
)
def test_command_exit_codes(arguments, code, told, tmp_path):
    done = run_command(*arguments, cwd=tmp_path)
    assert done.returncode == code and told in done.stderr and "Traceback" not in done.stderr, done


def test_an_unwritable_folder_is_one_sentence(broken, tmp_path):
    (tmp_path / "validation").write_text("a file, not a folder")
    done = run_command("signals", str(broken), cwd=tmp_path)
    assert done.returncode == 1 and "cannot write" in done.stderr and "Traceback" not in done.stderr, done


def read_rejected(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


class TestFlow:
    """The same in Prefect: state, message and artifact."""

    def run(self, data: Path, limits: str = "default"):
        from flows.validate_contract import validate_contract

        return validate_contract("signals", str(data), limits, return_state=True)

    def artifact(self, state) -> str:
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.filters import ArtifactFilter

        run = state.state_details.flow_run_id
        with get_client(sync_client=True) as client:
            made = client.read_artifacts(
                artifact_filter=ArtifactFilter.model_validate({"flow_run_id": {"any_": [str(run)]}})
            )
        assert len(made) == 1, made
        return made[0].data

    def test_good_rows_complete_with_a_page(self, prefect_server, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        state = self.run(GOLD)
        assert state.is_completed() and "checks passed" in state.result()
        assert self.artifact(state).startswith("# pass: gold.jsonl")

    def test_broken_rows_fail_with_a_sentence_and_a_page(self, prefect_server, broken, tmp_path, monkeypatch, caplog):
        monkeypatch.chdir(tmp_path)
        state = self.run(broken)
        assert state.is_failed() and "2 rules broken in 2 rows" in state.message
        page = self.artifact(state)
        assert "# fail: broken.jsonl" in page and "| novelty | not from 0 to 1" in page and "rejected.jsonl" in page
        assert (tmp_path / "validation" / "broken.jsonl" / "rejected.jsonl").is_file()
        assert "Traceback" not in caplog.text

    def test_a_missing_file_fails_with_its_sentence(self, prefect_server, tmp_path, caplog):
        state = self.run(tmp_path / "nowhere.jsonl")
        assert state.is_failed() and "is not a file" in state.message and "Traceback" not in caplog.text

    def test_a_wrong_parameter_never_starts(self, prefect_server):
        from prefect.exceptions import ParameterTypeError

        from flows.validate_contract import validate_contract

        with pytest.raises(ParameterTypeError, match="recipe"):
            validate_contract("nope", str(GOLD))
