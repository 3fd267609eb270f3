"""Configs: every mistake is told at once, before anything runs, each with its field, its value and what is allowed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flows.__main__ import _changes
from flows.config import CONFIGS_FOLDER, flow_of, load_config, profile_path, profiles
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
    assert {
        "signals/nano",
        "proofkit/gpt-oss-20b-teacher",
        "proofkit/gpt-oss-20b-teacher-experts",
        "proofkit/qwen2.5-0.5b-direct",
    } <= set(found)
    for name in found:
        anywhere = {"min_free_gib": 0}  # a 20B model needs 180 GiB of disk to run, not to be read
        assert load_config(profile_path(name), anywhere).recipe == name.split("/")[0]
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
    "arguments",
    [["no/such"], *(["signals/nano", "--set", one] for one in ("train.rnak=3", "x", "publish.hub_repo=@me"))],
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
    assert STAGE.key_parts(run, config, {}).work["outside"] != before.work["outside"]


def test_the_qwen_profiles_are_the_storys_run():
    """15 steps at 5e-5, r 16, alpha 32, 1.67 % of the parameters: counted on a model of the true shape, without weights."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from tasks.training.trainer import _steps_per_epoch

    laptop, card = (load_config(profile_path(f"signals/{name}")) for name in ("qwen3-0.6b", "qwen3-0.6b-16bit"))
    changed = {"engine": "trl", "base_precision": "16bit"}
    assert laptop.train.model_copy(update=changed) == card.train
    assert (laptop.train.engine, laptop.train.base_precision) == ("unsloth", "nf4")
    train = laptop.train
    assert (train.learning_rate, train.rank, train.alpha, train.seed) == (5e-5, 16, 32, 42)
    assert _steps_per_epoch(train, laptop.dataset.train_rows) * train.epochs == 15
    with torch.device("meta"):
        shape = Qwen3Config(
            hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16,
            num_key_value_heads=8, head_dim=128, vocab_size=151936, tie_word_embeddings=True,
        )  # fmt: skip
        lora = LoraConfig(r=train.rank, lora_alpha=train.alpha, target_modules=train.target_modules)
        trained, every = get_peft_model(Qwen3ForCausalLM(shape), lora).get_nb_trainable_parameters()
    assert round(100 * trained / every, 2) == 1.67


def _differing(one: dict, other: dict, where: str = "") -> set[str]:
    """Dotted names of the settings in which two configurations differ."""
    found: set[str] = set()
    for name in one.keys() | other.keys():
        mine, theirs = one.get(name), other.get(name)
        if isinstance(mine, dict) and isinstance(theirs, dict):
            found |= _differing(mine, theirs, f"{where}{name}.")
        elif mine != theirs:
            found.add(f"{where}{name}")
    return found


def test_the_two_teachers_differ_in_the_experts_alone():
    """Whatever else differed, an evaluation could not say what the experts are worth."""
    names = ("proofkit/gpt-oss-20b-teacher", "proofkit/gpt-oss-20b-teacher-experts")
    attention, experts = (load_config(profile_path(name), {"min_free_gib": 0}) for name in names)
    found = _differing(attention.model_dump(), experts.model_dump())
    assert found == {"name", "publish.name", "hardware", "train.target_parameters"}  # a release takes its run's name
    assert attention.train.target_parameters == ()
    assert experts.train.target_parameters == ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")
    for one, card in ((attention, "a100-80gb"), (experts, "h200")):
        assert (one.train.dropout, one.train.target_modules, one.hardware) == (0, "all-linear", card)


def test_a_typo_in_an_optional_block_names_what_is_allowed_there(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(
        "name: c\nrecipe: signals\nbase: {source: nano}\ndataset: {teacher: {modle: x, base_url: 'http://h/v1'}}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    (line,) = [one for one in str(caught.value).splitlines() if "modle" in one]
    assert "unknown setting" in line and "model, retries" in line


MINIMAL = "name: c\nrecipe: signals\nbase: {source: nano}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (MINIMAL + "train: {learning_rate: 1.0e-4, rank: 8, learning_rate: 1.0e-2}\n", "key 'learning_rate' stands in"),
        (MINIMAL + "train: {{ x }}\n", "c.yaml, line 4 cannot be read: a key is a list or a mapping"),
        (MINIMAL + "merge: 2026-02-30\n", "c.yaml, line 4 cannot be read: '2026-02-30' is no timestamp"),
        ((MINIMAL + "store: caf\xe9\n").encode("latin-1"), "c.yaml, line 4 cannot be read: byte 0xe9 is not UTF-8"),
        (MINIMAL + "1: 2\n", "problem(s). Nothing was run."),
        ("", "holds no settings"),
    ],
)
def test_a_file_that_is_no_yaml_is_told_with_its_line(tmp_path, text, said):
    path = tmp_path / "c.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert said in str(error.value)
    assert profile_path("signals/nano", "finetune").is_file()
    assert flow_of(path) == "finetune"


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("publish.hub_repo=@me", "the value of --set publish.hub_repo, line 1 cannot be read: found character '@'"),
        ("x=[", "the value of --set x, line 1 cannot be read"),
        ("x={a: 1, a: 2}", "key 'a' stands in line 1 and again"),
        ("x=2026-02-30", "'2026-02-30' is no timestamp"),
    ],
)
def test_a_change_that_is_no_yaml_is_told_with_its_name(pair, said):
    with pytest.raises(ConfigError) as error:
        _changes([pair])
    assert said in str(error.value)
    assert _changes(["a.b=c=d", "e=[1, x]"]) == {"a.b": "c=d", "e": [1, "x"]}
