"""generate_teacher's settings, its key, its progress: what is refused at once, what stays secret, what one sees meanwhile."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from tasks.clients.endpoint_settings import TEACHER_API_KEY
from tasks.clients.requests import LOADED, Answer, Ask
from tasks.clients.response_log import AnswerLog, answer_all
from tasks.core.artifact import Store
from tasks.core.errors import ConfigError
from tasks.core.stage import Run, build
from tasks.generate_teacher import STAGE, GenerateConfig, generate_teacher
from tests.fixtures.chat_server import ChatServer, Reply
from tests.fixtures.teaching import endpoint_config, good_teacher, job_in, make_dataset
from tests.fixtures.tiny_chain import publish_folder


@pytest.fixture
def dataset(tmp_path) -> Path:
    return make_dataset(tmp_path / "dataset")


@pytest.fixture
def server(dataset):
    with ChatServer(good_teacher(dataset)) as one:
        yield one


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"engine": "endpoint"}, "base_url belong together"),
        ({"engine": "endpoint", "base_url": "http://a/v1"}, "needs model"),
        ({"base_url": "http://a/v1"}, "base_url belong together"),
        ({"engine": "transformers", "temperature": 0.5}, "answers greedily"),
        ({"engine": "llama_cpp", "temperature": None}, "answers greedily"),
        ({"temperature": None}, "needs a temperature"),
        ({"model": "/no/such/folder"}, "is not there"),
        ({"engine": "llama_cpp", "model": "tests"}, "is not there"),
        ({"api_key": "k"}, "Extra inputs"),
    ],
)
def test_wrong_settings(settings, told):
    with pytest.raises(ValidationError, match=told):
        GenerateConfig(**settings)


def test_what_stands_in_the_way_is_told_at_once(tmp_path, dataset):
    config = GenerateConfig(vllm_python="no/such/python")
    assert [one.split(":")[0][:30] for one in config.problems(handed_over=False)] == [
        "vllm_python 'no/such/python' i",
        "model is missing",
    ]
    assert config.problems(handed_over=True)[0].endswith("Run: python deployments/setup.py --with vllm")
    with pytest.raises(ConfigError, match="(?s)cannot be asked.*vllm_python.*model is missing"):
        generate_teacher(config, job_in(tmp_path, dataset))
    assert "would not be asked it" in GenerateConfig(engine="llama_cpp").problems(handed_over=True)[0]


def test_the_key_reaches_the_endpoint_and_no_file(tmp_path, monkeypatch, dataset, server):
    key = "sesame-open-0123456789"
    monkeypatch.setenv(TEACHER_API_KEY, key)
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnopqrstuvwx")
    server.api_key = key
    store = Store(tmp_path / "store")
    run = Run(name="t", recipe="signals", store=str(store.root))
    inputs = {"dataset": publish_folder(store, "dataset", dataset)}
    build(STAGE, run, endpoint_config(server), inputs)
    assert {one.headers["authorization"] for one in server.requests} == {f"Bearer {key}"}
    server.api_key = "another"
    with pytest.raises(ConfigError, match="Incorrect API key provided") as error:
        build(STAGE, run, endpoint_config(server, max_new_tokens=99), inputs)
    assert key not in str(error.value)
    with pytest.raises(ConfigError, match="secrets in the environment") as error:
        endpoint_config(server, base_url="https://me:hunter2@host/v1")
    assert "hunter2" not in str(error.value)
    files = [path for path in store.root.rglob("*") if path.is_file()]
    assert len(files) > 8
    assert not [path for path in files if key.encode() in path.read_bytes() or b"hf_abcdef" in path.read_bytes()]


def test_an_answer_log_reads_answers_of_before_token_ids_were_kept(tmp_path):
    line = {"asked": "d", "model": "m", "text": "t", "finish_reason": "stop", "refusal": "", "hidden_chars": 0}
    (tmp_path / "log.jsonl").write_text(json.dumps({**line, "prompt_tokens": 1, "completion_tokens": 2}) + "\n")
    with AnswerLog(tmp_path / "log.jsonl") as log:
        assert len(log) == 1


def test_progress_counts_answers_tokens_a_second_and_the_time_left(tmp_path, dataset, server):
    beats = []
    job = job_in(tmp_path, dataset)
    job.beat = lambda *one: beats.append(one)
    server.reply = lambda messages, good=server.reply: Reply(good(messages).text, delay_s=0.05)
    generate_teacher(endpoint_config(server, endpoint={"concurrency": 1}), job)
    assert [one[0] for one in beats] == sorted(one[0] for one in beats) and beats[-1][:2] == (12, 12)
    middle = next(numbers for done, _, numbers in beats if done == 6)
    assert middle["tokens_per_s"] > 10 and beats[-1][2]["left_s"] == 0


def test_speed_and_time_left_are_counted_from_when_the_model_was_loaded(tmp_path):
    class Slow:
        def answers(self, asks, alive):
            time.sleep(0.5)
            alive({LOADED: 0.5})
            for ask in asks:
                time.sleep(0.01)
                yield ask, Answer("x", "stop", completion_tokens=10)

    asks, beats = [Ask("w", "m", ({"role": "user", "content": str(i)},), 8) for i in range(4)], []
    with AnswerLog(tmp_path / "log.jsonl") as log:
        answer_all(asks, log, Slow(), lambda *one: beats.append(one))
    assert beats[-1][2]["tokens_per_s"] > 200
