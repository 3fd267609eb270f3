"""Configs: every mistake is told at once, before anything runs, each with its field, its value and what is allowed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flows.config import CONFIGS_FOLDER, load_config, profile_path, profiles
from tasks.core.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]

BROKEN = """
name: Bad Name
recipe: nothing
base: {source: nano, seed: -1, colour: red}
dataset: {source: file, rows_file: nowhere.jsonl}
train: {rank: 1.5, engine: foo, learning_rate: 0}
merge: {dtype: int4}
extra: 1
"""


def test_every_profile_that_ships_is_valid_and_says_its_command():
    found = profiles()
    assert "signals/nano" in found
    for name in found:
        assert load_config(profile_path(name)).recipe == name.split("/")[0]
        assert name in (CONFIGS_FOLDER / f"{name}.yaml").read_text().splitlines()[0]


def test_all_problems_at_once_with_field_value_and_what_is_allowed(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text(BROKEN)
    with pytest.raises(ConfigError) as error:
        load_config(path)
    said = str(error.value)
    for part in (
        "10 problem(s). Nothing was run.",
        "name: found 'Bad Name'",
        "recipe: found 'nothing'. allowed: signals",
        "base.seed: found -1",
        "base.colour: unknown setting. Allowed here: batch_rows",
        "rows_file 'nowhere.jsonl' is not there",
        "train.engine: found 'foo'. Input should be 'trl' or 'unsloth'",
        "train.rank: found 1.5",
        "train.learning_rate: found 0. Input should be greater than 0",
        "merge.dtype: found 'int4'",
        "extra: unknown setting",
    ):
        assert part in said, part


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"validate_rows.limits": "nope"}, "no profile 'nope'"),
        ({"min_free_gib": 1e7}, "GiB free"),
        ({"publish.serve_quantization": "q6_k"}, "Allowed: what export.quantizations makes, f16, q8_0, q4_k_m"),
        ({"train.engine": "unsloth", "train.dropout": 0.1}, "dropout must be 0 with engine unsloth"),
    ],
)
def test_what_a_type_cannot_know_is_checked_too(change, said):
    with pytest.raises(ConfigError, match="Nothing was run") as error:
        load_config(profile_path("signals/nano"), change)
    assert said in str(error.value)


def test_a_missing_engine_is_told_before_the_first_minute(monkeypatch):
    monkeypatch.setattr("flows.config.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="unsloth is not installed"):
        load_config(profile_path("signals/nano"), {"train.engine": "unsloth"})


@pytest.mark.parametrize(
    "arguments", [["no/such"], ["signals/nano", "--set", "train.rnak=3"], ["signals/nano", "--set", "x"]]
)
def test_the_command_line_ends_with_a_message_and_code_1(arguments):
    done = subprocess.run(
        [sys.executable, "-m", "flows", "finetune", *arguments], cwd=ROOT, text=True, capture_output=True
    )
    assert done.returncode == 1
    assert "config:" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_a_secret_typed_into_a_config_is_not_repeated(tmp_path):
    path = tmp_path / "secret.yaml"
    path.write_text("name: a\nrecipe: signals\nbase: {source: nano}\nhf_token: hf_abcdefghijklmnopqrstuv\n")
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert "abcdefgh" not in str(error.value)


def test_own_rows_in_a_file_count_by_content_not_by_path(tmp_path):
    from tasks.build_dataset import STAGE, DatasetConfig
    from tasks.core.stage import Run

    run = Run(name="t", recipe="signals", store=str(tmp_path))
    file = tmp_path / "rows.jsonl"
    file.write_text("{}\n")
    config = DatasetConfig(source="file", rows_file=str(file))
    before = STAGE.key_parts(run, config, {})
    assert before == STAGE.key_parts(run, config, {})
    file.write_text('{"a": 1}\n')
    assert STAGE.key_parts(run, config, {})["outside"] != before["outside"]
