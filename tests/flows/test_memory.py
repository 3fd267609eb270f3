"""A card that is too small is refused before the first minute; what cannot be told yet is said, and never passes for a yes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows import memory
from flows.config import FinetuneConfig, load_config, profile_path
from flows.distill_config import DistillConfig
from flows.memory import refuse_too_small_a_card, refuse_too_small_cards
from tasks.core.artifact import hash_folder
from tasks.core.errors import ConfigError
from tasks.prepare_base import BaseConfig
from tasks.release.hub import publish_to_hub
from tests.fixtures.hub_case import TOKEN
from tests.fixtures.hub_server import HubServer
from tests.tasks.training.test_memory import GPT_OSS_20B, QWEN3_06B, TEACHER, WITH_EXPERTS

ROOT = Path(__file__).resolve().parents[2]
OSS = BaseConfig(model_id="alice/oss")
ASK = """
import sys
from flows.memory import refuse_too_small_a_card
from tasks.prepare_base import BaseConfig
from tasks.train_lora import TrainConfig
train = TrainConfig.model_validate_json(sys.argv[2])
print(refuse_too_small_a_card(sys.argv[1], BaseConfig(model_id="alice/oss"), train, 2048))
"""


@pytest.fixture
def known(monkeypatch):
    """The Hub's answer, without a Hub."""
    monkeypatch.setattr(memory, "_config_json", lambda base: GPT_OSS_20B)


@pytest.mark.parametrize(("card", "train"), [("a100-80gb", TEACHER), ("h200", WITH_EXPERTS)])
def test_what_fits_is_said_with_its_parts(known, card, train):
    said = refuse_too_small_a_card(card, OSS, train, 2048)
    assert said.startswith(f"training memory: memory that training takes, beside that of {card}: ")
    assert "weights 38.9" in said


def test_experts_on_80_gb_are_refused_and_may_be_tried(known):
    with pytest.raises(ConfigError, match=r"^train: memory that training takes, beside that of h100: 85\.49 GiB"):
        refuse_too_small_a_card("h100", OSS, WITH_EXPERTS, 2048)
    trying = WITH_EXPERTS.model_copy(update={"when_memory_is_short": "try"})
    assert "85.49 GiB (expected <= 80)" in refuse_too_small_a_card("h100", OSS, trying, 2048)


@pytest.mark.parametrize(
    ("card", "base", "why"),
    [
        (None, OSS, "`hardware` names no card"),
        ("h100", BaseConfig(source="nano"), "the base is built here"),
    ],
)
def test_what_cannot_be_told_yet_is_said(card, base, why):
    said = refuse_too_small_a_card(card, base, TEACHER, 2048)
    assert said == f"training memory: cannot tell yet, {why}; it is compared with the card when training starts"


def test_the_hub_is_asked_for_the_shape_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    (tmp_path / "config.json").write_text(json.dumps(GPT_OSS_20B))
    with HubServer(TOKEN) as hub:
        env = {**os.environ, "HF_ENDPOINT": hub.url, "NO_PROXY": "127.0.0.1,localhost"}
        env["HF_HOME"] = str(tmp_path / "hf")

        def ask(train) -> subprocess.CompletedProcess:
            argv = [sys.executable, "-c", ASK, "a100-80gb", train.model_dump_json()]
            return subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True)

        assert "alice/oss could not be asked for its config.json" in ask(TEACHER).stdout
        files = {"config.json": hash_folder(tmp_path)["config.json"]}
        publish_to_hub(tmp_path, files, "alice/oss", private=True, commit_message="shape", endpoint=hub.url)
        assert "weights 38.9" in ask(TEACHER).stdout
        refused = ask(WITH_EXPERTS)
        assert refused.returncode == 1
        assert "ConfigError: train: memory that training takes" in refused.stderr


def test_an_unknown_card_and_packs_that_cut_rows_are_told_together():
    changes = {"hardware": "abacus", "train.packing_tokens": 256}
    with pytest.raises(ConfigError, match="2 problem") as error:
        load_config(profile_path("signals/nano"), changes)
    said = str(error.value)
    assert "configs/hardware.yaml has no 'abacus'" in said
    assert "train.packing_tokens: found 256, and rows may have 384 tokens" in said


@pytest.mark.parametrize("name", ["qwen3-0.6b", "qwen3-0.6b-16bit"])
def test_the_laptops_profiles_fit_on_their_card(monkeypatch, name):
    monkeypatch.setattr(memory, "_config_json", lambda base: QWEN3_06B)
    config: FinetuneConfig = load_config(profile_path(f"signals/{name}"))
    said = refuse_too_small_a_card(config.hardware, config.base, config.train, config.validate_rows.max_length_tokens)
    assert "(expected <= 8)" in said


def test_every_training_of_a_distillation_is_held_to_its_card(known):
    """The students are asked about one by one; a block that names no card and builds its base has nothing to say."""
    nano = {"source": "nano"}
    oss = {"base": OSS.model_dump(), "train": WITH_EXPERTS.model_dump(), "hardware": "h100"}
    config = {"name": "x", "recipe": "proofkit", "teacher": oss, "student": {"base": nano}}
    with pytest.raises(ConfigError, match=r"beside that of h100: 85\.49 GiB") as caught:
        list(refuse_too_small_cards(DistillConfig.model_validate(config)))
    assert "teacher.train.batch_rows, teacher.validate_rows.max_length_tokens" in str(caught.value)
    config["teacher"] = {"base": nano}
    assert list(refuse_too_small_cards(DistillConfig.model_validate(config))) == []
    config["student"] = {"base": nano, "hardware": "h100"}
    said = list(refuse_too_small_cards(DistillConfig.model_validate(config)))
    assert [one.partition(":")[0] for one in said] == ["student.direct", "student.distilled"]
