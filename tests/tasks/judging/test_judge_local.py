"""Judges on this disk, really loaded: a random model says nothing of use, so everything is unscored and nobody has a rank;
held to the schema by llama.cpp's own server, the same model gives a verdict on everything."""

from __future__ import annotations

import json
import shutil

import pytest

from data_contracts.errors import ConfigError
from tasks.clients.response_log import AnswerLog
from tasks.core.artifact import content_digest, hash_folder, sha256_file
from tasks.core.stage_process import execute
from tasks.judge_answers import STAGE, JudgeConfig
from tasks.judging.judge import JudgeSettings, ask_judge, identity_of
from tasks.judging.verdicts import Questions
from tests.fixtures import judge_panel as world
from tests.fixtures.real_servers import llama_server
from tests.fixtures.tiny_model import make_tiny_model

PROMPTS = 3
ANSWERS = {name: [world.letter(name, n, 3) for n in range(PROMPTS)] for name in ("student", "base")}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict:
    """A random model with room for a rubric: as a folder that transformers loads, and as a GGUF."""
    from tasks.core.math_kernels import settle_math_kernels
    from tasks.gguf_export.convert import convert

    settle_math_kernels()
    folder = tmp_path_factory.mktemp("judge")
    make_tiny_model(folder / "model", hidden_size=64, context_tokens=8192)
    convert(folder / "model", folder / "judge.gguf", name="tiny", prompt_digest="0", tick=lambda _: None)
    return {"transformers": folder / "model", "gguf": folder / "judge.gguf"}


@pytest.fixture(autouse=True)
def _letters(monkeypatch):
    world.use_letters(monkeypatch)


def local(path, name="local") -> dict:
    return {"name": name, "family": name, "local_model": str(path), "max_tokens": 16, "concurrency": 4}


@pytest.mark.parametrize("kind", ["transformers", "gguf"])
def test_noise_is_unscored_and_ranks_nobody(tmp_path, models, kind):
    settings = JudgeConfig(judges=[local(models[kind])], compared_pairs=2)
    job = world.job(tmp_path, direct=world.evaluation(tmp_path / "ev", ANSWERS))
    outcome = execute(STAGE, settings, job)
    board = json.loads((job.out / "judgement.json").read_text())
    (judge,) = board["judges"]
    assert (
        judge["coverage_fraction"] == 0.0 and sum(judge["unscored"].values()) == judge["asked"] == 2 * PROMPTS + 2 + 4
    )
    assert judge["died"] == "" and not judge["counts"] and judge["structured"] == "plain"
    assert {one["verdict"] for one in judge["checks"]} == {"cannot tell"}
    for one in board["rows"]:
        assert one["rank"] is None and one["final"]["value"] is None and one["columns"]["local"]["value"] is None
    lines = [json.loads(line) for line in (job.out / "verdicts.jsonl").read_text().splitlines()]
    assert all(one["raw"] and one["unscored"] and one["levels"] is None for one in lines)
    assert board["agreement"]["alpha"]["value"] is None and board["findings"][0]["kind"] == "nothing"
    assert all(one["verdict"] == "pass" for one in outcome["checks"])  # that nothing can be told is no error
    assert (job.work / "judge-local.jsonl").read_text().count("\n") == len(lines)


def test_a_local_judge_that_is_a_model_under_test_is_known_by_its_bytes(tmp_path, models):
    """A GGUF under another name, and a merged folder outside the store."""
    copy = tmp_path / "another-name.gguf"
    copy.write_bytes(models["gguf"].read_bytes())
    merged = content_digest("model", hash_folder(models["transformers"]))
    extra = {"student": {"file_digest": sha256_file(models["gguf"])}, "base": {"file_digest": merged}}
    job = world.job(tmp_path, direct=world.evaluation(tmp_path / "ev", ANSWERS, extra))
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({"inputs": {"base": {"kind": "model", "digest": merged}}}))
    job.manifests = {"direct": manifest}
    settings = JudgeConfig(judges=[local(copy, "a"), local(models["transformers"], "b")])
    with pytest.raises(ConfigError) as caught:
        execute(STAGE, settings, job)
    assert "judge a is student, a model under test" in str(caught.value)
    assert "judge b is base, a model under test" in str(caught.value)
    assert not list(job.work.iterdir())


def test_a_damaged_local_judge_dies_alone(tmp_path, models):
    from tests.fixtures.chat_server import ChatServer

    broken = tmp_path / "broken.gguf"
    broken.write_bytes(models["gguf"].read_bytes()[:5000])
    with ChatServer(world.taste()) as server:
        fine = {"name": "fine", "family": "gpt", "base_url": server.url, "model": "m"}
        job = world.job(tmp_path, direct=world.evaluation(tmp_path / "ev", ANSWERS))
        execute(STAGE, JudgeConfig(judges=[local(broken, "broken"), fine], compared_pairs=0), job)
    board = json.loads((job.out / "judgement.json").read_text())
    assert "broken.gguf" in board["judges"][0]["died"] and [one["counts"] for one in board["judges"]] == [False, True]
    assert [one["rank"] for one in board["rows"]] == [1, 1] and board["findings"][0]["kind"] == "nothing"


def test_a_local_judge_whose_template_takes_no_system_message_dies_alone(tmp_path, models):
    folder = tmp_path / "judge"
    shutil.copytree(models["transformers"], folder)
    refuses = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    (folder / "chat_template.jinja").write_text(refuses)
    one = JudgeSettings(**local(folder))
    question = (Questions(world.RUBRIC, 0).of("Write.", "A letter."), world.RUBRIC.verdict_schema())
    with AnswerLog(tmp_path / "log.jsonl") as log:
        heard = ask_judge(one, [question], log, identity_of(one).where)
    assert "it cannot be rendered for messages of system, user: System role not supported" in heard.died
    assert heard.refused and heard.answers == [None]


def test_held_to_the_schema_by_a_real_server_even_noise_is_a_verdict(tmp_path, models):
    with llama_server(models["gguf"]) as url:
        judge = {"name": "llama", "family": "tiny", "base_url": url, "model": "tiny", "reasons": False}
        judge |= {"max_tokens": 512, "concurrency": 1, "retries": 0}
        job = world.job(tmp_path, direct=world.evaluation(tmp_path / "ev", ANSWERS))
        execute(STAGE, JudgeConfig(judges=[judge], compared_pairs=2), job)
    board = json.loads((job.out / "judgement.json").read_text())
    (found,) = board["judges"]
    assert found["structured"] == "json_object" and found["unscored"] == {} and found["coverage_fraction"] == 1.0
    assert sorted(one["rank"] for one in board["rows"]) == [1, 2]
    assert board["findings"][0]["sentence"].startswith("No finding: 1 judge(s) of 1 family counted")
