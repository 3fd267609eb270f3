"""Teachers and judges behind the servers that people run: the answers of the engines that load the model here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.clients.vllm_settings import DEFAULT_PYTHON, interpreter_problem
from tasks.core.stage_process import execute
from tasks.generate_teacher import STAGE, GenerateConfig
from tasks.judge_answers import STAGE as JUDGE_STAGE
from tasks.judge_answers import JudgeConfig
from tests.fixtures import judge_panel as world
from tests.fixtures.real_servers import llama_server, vllm_server
from tests.fixtures.teaching import job_in, make_dataset, rows_of
from tests.fixtures.tiny_model import make_tiny_model

needs_vllm = pytest.mark.skipif(bool(interpreter_problem(DEFAULT_PYTHON)), reason=interpreter_problem(DEFAULT_PYTHON))
PROMPTS = 8
TORN = "\ufffd"
"""Bytes that are no character, of which a random model writes many. llama.cpp's server drops them; vLLM's holds them
back until more comes, so those at a cut-off end are lost; the engines of this process show each."""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A random model whose logits differ clearly, with room for a judge's rubric."""
    return make_tiny_model(tmp_path_factory.mktemp("served") / "model", hidden_size=256, context_tokens=8192)


@pytest.fixture(scope="module")
def gguf(model) -> Path:
    from tasks.core.math_kernels import settle_math_kernels
    from tasks.gguf_export.convert import convert

    settle_math_kernels()
    convert(model, model.parent / "tiny.gguf", name="tiny", prompt_digest="0", tick=lambda _: None)
    return model.parent / "tiny.gguf"


@pytest.fixture(scope="module")
def vllm(model, tmp_path_factory):
    """The server is started once for all tests here: that takes most of a minute."""
    with vllm_server(model, tmp_path_factory.mktemp("vllm") / "server.log") as url:
        yield url


def answers_of(folder: Path, dataset: Path, **engine) -> list[tuple]:
    """What a teacher answers; a random model writes nothing of use, which is no part of these tests."""
    config = GenerateConfig(max_new_tokens=24, attempts=1, max_refused_fraction=1.0, **engine)
    job = job_in(folder, dataset)
    facts = execute(STAGE, config, job)["facts"]
    assert facts["prompts"] == facts["new_answers"] == PROMPTS and facts["completion_tokens"] > 100
    answers = rows_of(job.out, "answers")
    assert len({one["text"] for one in answers}) == PROMPTS, "each prompt has an answer of its own"
    return [(one["text"], one["finish_reason"], one["prompt_tokens"], one["completion_tokens"]) for one in answers]


def behind(url: str, concurrency: int) -> dict:
    endpoint = {"concurrency": concurrency, "retries": 0}
    return {"engine": "endpoint", "base_url": url, "model": "tiny", "endpoint": endpoint}


def test_a_teacher_behind_llama_cpp_s_own_server_answers_as_llama_cpp_does(tmp_path, gguf):
    dataset = make_dataset(tmp_path / "dataset", PROMPTS)
    with llama_server(gguf) as url:
        served = answers_of(tmp_path / "served", dataset, **behind(url, 1))
    here = answers_of(tmp_path / "here", dataset, engine="llama_cpp", model=str(gguf))
    wanted = [(text.replace(TORN, ""), *more) for text, *more in here]
    ran_on = [i for i, one in enumerate(served) if one[-1] != wanted[i][-1]]
    assert len(ran_on) <= PROMPTS // 2, "it gives an answer up to three tokens more, to end a torn character"
    for i, (mine, theirs) in enumerate(zip(served, wanted, strict=True)):
        if i in ran_on:
            assert mine[0].startswith(theirs[0]) and mine[1:3] == theirs[1:3] and 0 < mine[3] - theirs[3] <= 3
        else:
            assert mine == theirs


@needs_vllm
def test_a_teacher_behind_vllm_s_server_answers_as_vllm_offline_does(tmp_path, model, vllm):
    """The server renders the chat and reads the end tokens by itself: what it is sent must come to the same ids."""
    dataset = make_dataset(tmp_path / "dataset", PROMPTS)
    served = answers_of(tmp_path / "served", dataset, **behind(vllm, 4))
    here = answers_of(tmp_path / "here", dataset, engine="vllm", model=str(model))
    assert served == [(text.rstrip(TORN), *more) for text, *more in here]


@needs_vllm
def test_a_judge_behind_vllm_s_server_is_held_to_the_schema(tmp_path, monkeypatch, vllm):
    """A random model, which says nothing by itself, gives a verdict on everything: the server took json_schema."""
    world.use_letters(monkeypatch)
    answers = {name: [world.letter(name, n, 3) for n in range(3)] for name in ("student", "base")}
    judge = {"name": "vllm", "family": "tiny", "base_url": vllm, "model": "tiny", "reasons": False}
    judge |= {"max_tokens": 128, "concurrency": 4, "retries": 0}
    job = world.job(tmp_path, direct=world.evaluation(tmp_path / "ev", answers))
    execute(JUDGE_STAGE, JudgeConfig(judges=[judge], compared_pairs=2), job)
    board = json.loads((job.out / "judgement.json").read_text())
    (found,) = board["judges"]
    assert (found["structured"], found["unscored"], found["coverage_fraction"]) == ("json_schema", {}, 1.0)
    assert sorted(one["rank"] for one in board["rows"]) == [1, 2]
    lines = [json.loads(line) for line in (job.out / "verdicts.jsonl").read_text().splitlines()]
    levels = [one["levels"] for one in lines if one["kind"] == "answer"]
    assert len(levels) == 6 and all(set(one) == set(world.CRITERIA) for one in levels)


@needs_vllm
def test_without_the_schema_the_same_judge_says_nothing(tmp_path, monkeypatch, vllm):
    world.use_letters(monkeypatch)
    answers = {name: [world.letter(name, n, 3) for n in range(3)] for name in ("student", "base")}
    judge = {"name": "vllm", "family": "tiny", "base_url": vllm, "model": "tiny", "structured": "plain"}
    judge |= {"max_tokens": 128, "concurrency": 4, "retries": 0, "reasons": False}
    job = world.job(tmp_path, direct=world.evaluation(tmp_path / "ev", answers))
    execute(JUDGE_STAGE, JudgeConfig(judges=[judge], compared_pairs=0), job)
    (found,) = json.loads((job.out / "judgement.json").read_text())["judges"]
    assert (found["structured"], found["coverage_fraction"], found["died"]) == ("plain", 0.0, "")
