"""Prompts that do not fit the model's context, with their answer: each one's own trouble, and never the run's."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from data_contracts.prompting.prompt import load_prompt
from tasks.build_dataset import STAGE as DATASET_STAGE
from tasks.build_dataset import DatasetConfig
from tasks.clients import vllm_client
from tasks.clients.chat_tokens import Prompts
from tasks.clients.local_model import LocalChat
from tasks.clients.requests import Ask
from tasks.clients.vllm_client import Finished, VllmSource
from tasks.clients.vllm_settings import VllmSettings
from tasks.comparison.endpoint_model import ask_endpoint
from tasks.comparison.model_entry import ModelEntry
from tasks.comparison.preflight import try_endpoint
from tasks.core.artifact import sha256_file
from tasks.core.errors import ArtifactError
from tasks.core.stage import Job
from tasks.core.stage_process import execute
from tasks.distillation.teacher_settings import TeacherSettings
from tasks.evaluation.local_models import AskingConfig
from tasks.generate_teacher import STAGE, GenerateConfig, generate_teacher
from tasks.judge_answers import STAGE as JUDGE_STAGE
from tasks.judge_answers import JudgeConfig
from tasks.recipes.signals import recipe as signals
from tests.fixtures import judge_panel
from tests.fixtures.chat_server import ChatServer, Reply
from tests.fixtures.teaching import endpoint_config, good_teacher, job_in, make_dataset, rows_of, script, user_text
from tests.fixtures.tiny_model import make_tiny_model

TOLD = "This model's maximum context length is 2048 tokens. However, your prompt contains 2600 input tokens."
REFUSED = Reply(status=400, body=json.dumps({"error": {"message": TOLD, "code": 400}}).encode())
CUT = Reply("<think>\nIt begins", finish_reason="length")


@pytest.fixture
def dataset(tmp_path) -> Path:
    return make_dataset(tmp_path / "dataset")


@pytest.fixture
def server(dataset):
    with ChatServer(good_teacher(dataset)) as one:
        yield one


# --- a teacher behind an endpoint


def test_a_row_that_finds_no_room_is_refused_alone_and_asked_again_at_the_next_start(tmp_path, dataset, server):
    row = rows_of(dataset)[3]
    script(server, row, REFUSED, REFUSED, good_teacher(dataset)([{"content": user_text(row)}]))
    job, config = job_in(tmp_path, dataset), endpoint_config(server)
    for requests in (12, 13):
        outcome = execute(STAGE, config, job)
        assert outcome["facts"]["refused"] == {"no room": 1} and outcome["facts"]["asked_again"] == 0
        (refused,) = rows_of(job.out, "refused")
        assert refused["row"] == 4 and refused["reason"].endswith(TOLD)
        assert len(server.requests) == requests
    assert execute(STAGE, config, job)["facts"]["refused"] == {}, "the server has more room now"
    assert len(server.requests) == 14


def test_more_room_that_is_refused_leaves_the_reason_that_there_was(tmp_path, dataset, server):
    script(server, rows_of(dataset)[3], CUT, REFUSED)
    job = job_in(tmp_path, dataset)
    outcome = execute(STAGE, endpoint_config(server, attempts=4), job)
    (refused,) = rows_of(job.out, "refused")
    assert outcome["facts"]["refused"] == {"truncated": 1} and refused["reason"].startswith("truncated: cut off")
    assert refused["text"] == CUT.text and rows_of(job.out, "answers")[3]["attempts"] == 2
    assert len(server.requests) == 13


def test_no_room_for_any_row_stops_the_run_with_counts(tmp_path, dataset, server):
    server.reply = lambda _messages: REFUSED
    with pytest.raises(ArtifactError, match=r"useless answers: 1 .*'no room': 12}, e.g. no room: .*larger context"):
        execute(STAGE, endpoint_config(server), job_in(tmp_path, dataset))


# --- a teacher of a dataset's traces


SEED = json.loads(signals.teacher_seeds().read_text("utf-8").splitlines()[3])


@pytest.mark.parametrize(
    ("replies", "reasons"), [([REFUSED], ["no room"]), ([CUT, REFUSED], ["truncated"])], ids=["first", "retry"]
)
def test_a_seed_that_finds_no_room_is_refused_alone(tmp_path, replies, reasons):
    def trace(messages: list[dict]) -> str:
        headline = re.search(r"Headline: (.*)", messages[-1]["content"])[1]
        return f"<trace>{' '.join(f'Then {headline} moves the odds, case {n}.' for n in range(40))[:850]}</trace>"

    teacher = {"model": "big", "concurrency": 4, "min_accepted_fraction": 0, "attempts": 3}
    job = Job("signals", tmp_path / "out", work=tmp_path / "work")
    for path in (job.out, job.work):
        path.mkdir()
    with ChatServer(trace) as server:
        server.script(re.escape(SEED["headline"]), *replies)
        settings = TeacherSettings(base_url=server.url, **teacher)
        execute(DATASET_STAGE, DatasetConfig(source="gold", train_rows=30, heldout_rows=20, teacher=settings), job)
        assert len(server.seen(re.escape(SEED["headline"]))) == len(replies)
    refused = {one["headline"]: one for one in rows_of(job.out, "refused")}[SEED["headline"]]
    assert [reason.partition(":")[0] for reason in refused["reasons"]] == reasons
    assert len(refused["answers"]) == len(reasons)


# --- a judge


def test_a_verdict_that_finds_no_room_is_unscored(tmp_path, monkeypatch):
    judge_panel.use_letters(monkeypatch)
    answers = {name: [judge_panel.letter(name, n, 3) for n in range(3)] for name in ("student", "base")}
    with ChatServer(judge_panel.taste()) as server:
        server.script("Letter 1", REFUSED)
        judge = {"name": "j", "family": "gpt", "base_url": server.url, "model": "m", "structured": "plain"}
        job = judge_panel.job(tmp_path, direct=judge_panel.evaluation(tmp_path / "ev", answers))
        execute(JUDGE_STAGE, JudgeConfig(judges=[judge], compared_pairs=0), job)
    (found,) = json.loads((job.out / "judgement.json").read_text())["judges"]
    assert found["died"] == "" and found["unscored"] == {"no room": 2} and found["asked"] == 6


# --- a compared model behind an endpoint


def test_a_compared_model_is_told_at_once_and_a_single_row_is_cut_off(tmp_path, dataset, server):
    entry = ModelEntry(name="big", endpoint={"base_url": server.url, "model": "big", "retries": 0})
    contract, rows = load_prompt("signals"), rows_of(dataset)[:3]
    script(server, rows[1], REFUSED)
    problem, _ = try_endpoint(entry, contract.messages(rows[1]), 64)
    assert "no room: " in problem and problem.endswith(TOLD)
    config = AskingConfig(max_new_tokens=64, repeated_rows=0)
    made = ask_endpoint(config, entry, contract, rows, tmp_path / "log", "known", lambda one: one.text)
    assert made.cut_off == 1 and [bool(text) for text in made.texts] == [True, False, True]


# --- models of this machine

CONTEXT_TOKENS = 128


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model", hidden_size=64, context_tokens=CONTEXT_TOKENS)


@pytest.fixture(scope="module")
def gguf(folder) -> Path:
    from tasks.core.math_kernels import settle_math_kernels
    from tasks.gguf_export.convert import convert

    settle_math_kernels()
    path = folder.parent / "tiny.gguf"
    convert(folder, path, name="tiny", prompt_digest="0", tick=lambda _: None)
    return path


def asks(*texts: str, max_tokens: int = 9999) -> list[Ask]:
    return [Ask("here", "tiny", ({"role": "user", "content": text},), max_tokens, 0.0) for text in texts]


SHORT, MIDDLE, LONG = "rates", "rates " * 8, "rates " * 600


@pytest.mark.parametrize("kind", ["folder", "gguf"])
def test_a_local_prompt_beyond_the_context_is_refused_alone_and_room_ends_with_it(request, kind):
    with LocalChat(request.getfixturevalue(kind)) as chat:
        made = chat.answers(asks(SHORT, LONG, MIDDLE), lambda _numbers: None)
        found = {ask.messages[0]["content"]: answer for ask, answer in made}
    assert found[LONG].trouble.startswith("no room: ") and "tokens, the context 128" in found[LONG].trouble
    for text in (SHORT, MIDDLE):
        one = found[text]
        assert one.prompt_tokens + one.completion_tokens <= CONTEXT_TOKENS and one.text
        assert one.finish_reason == "stop" or one.prompt_tokens + one.completion_tokens == CONTEXT_TOKENS


def test_a_local_model_is_not_loaded_for_prompts_that_do_not_fit(folder, monkeypatch):
    from tasks.runtimes import hf_model

    monkeypatch.setattr(hf_model, "load_model", lambda *_: pytest.fail("loaded for nothing"))
    with LocalChat(folder) as chat:
        assert [answer.no_room for _, answer in chat.answers(asks(LONG), lambda _n: None)] == [True]


@pytest.mark.parametrize(
    "template", ["{{ raise_exception('System role not supported') }}", None], ids=["refuses", "none"]
)
@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_a_template_that_refuses_the_messages_is_told_as_such(folder, tmp_path, template, engine):
    import shutil

    copy = Path(shutil.copytree(folder, tmp_path / "model"))
    (copy / "chat_template.jinja").unlink()
    if template:
        (copy / "chat_template.jinja").write_text(template)
    told = "chat template: it cannot be rendered for messages of user: .*(System role not supported|not set)"
    with pytest.raises(ArtifactError, match=told):
        if engine == "vllm":
            Prompts.of(copy).render(asks(SHORT)[0].messages)
        else:
            list(LocalChat(copy).answers(asks(SHORT), lambda _n: None))


# --- vLLM: its context is a setting


@pytest.fixture
def runs(monkeypatch) -> list[dict]:
    """What vLLM would have been sent; every answer wants 40 tokens."""
    sent: list[dict] = []

    def run(self, lines, stop_ids, alive):
        sent.extend(lines)
        for line in lines:
            tokens = min(line["max_tokens"], 40)
            yield line["id"], Finished([7] * tokens, "stop" if tokens == 40 else "length")

    monkeypatch.setattr(VllmSource, "run", run)
    monkeypatch.setattr(vllm_client, "vllm_interpreter", lambda python: python)
    monkeypatch.setattr("tasks.clients.engine_choice.interpreter_problem", lambda python: "")
    return sent


def test_vllm_is_not_sent_what_does_not_fit(folder, runs, tmp_path):
    with VllmSource(folder, VllmSettings(), "python", tmp_path) as source:
        made = source.answers(asks(SHORT, LONG), lambda _n: None)
        found = {ask.messages[0]["content"]: answer for ask, answer in made}
    assert found[LONG].no_room and not found[SHORT].no_room
    (line,) = runs
    assert line["max_tokens"] == CONTEXT_TOKENS - len(line["ids"])


def test_a_larger_context_asks_again_what_the_smaller_one_bounded_and_nothing_else(tmp_path, dataset, runs):
    """Prompts of two lengths, a context that is too small for one kind's answers, and then one that is not."""
    model = make_tiny_model(tmp_path / "teacher", hidden_size=64, context_tokens=4096)
    prompts = Prompts.of(model)
    rows = rows_of(dataset)[:4]
    for row in rows[2:]:
        row["headline"] = f"{row['headline']}, {'as rents rose again ' * 10}"
    (dataset / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = replace(job_in(tmp_path, dataset, teacher=model), digests={"teacher": sha256_file(model / "config.json")})
    contract = load_prompt("signals")
    lengths = [len(prompts.render(contract.messages(row))[0]) for row in rows]
    assert max(lengths[:2]) + 64 <= min(lengths[2:]), "the kinds differ by more than an answer"

    def ask(context_tokens: int, attempts: int = 2) -> list[int]:
        runs.clear()
        vllm = {"max_model_len_tokens": context_tokens}
        config = GenerateConfig(max_new_tokens=48, attempts=attempts, max_refused_fraction=1.0, vllm=vllm)
        facts = generate_teacher(config, job)
        assert facts["new_answers"] == len(runs)
        return sorted(len(line["ids"]) for line in runs)

    small = max(lengths) + 20
    assert ask(small) == sorted(lengths)
    answers = rows_of(job.out, "answers")
    assert [one["finish_reason"] for one in answers][:2] == ["stop", "stop"]
    assert "length" in [one["finish_reason"] for one in answers[2:]] and {one["attempts"] for one in answers} == {1}
    assert ask(small) == []
    assert ask(max(lengths) + 100, attempts=1) == sorted(lengths[2:])
    assert [one["finish_reason"] for one in rows_of(job.out, "answers")] == ["stop"] * 4
