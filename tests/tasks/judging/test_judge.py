"""Judges behind endpoints: every fault of a server, structured output where it is taken, keys by name, death without loss."""

from __future__ import annotations

import json
import time

import pytest
from pydantic import ValidationError

from data_contracts.errors import ConfigError
from tasks.clients import openai_endpoint
from tasks.clients.requests import Ask
from tasks.clients.response_log import AnswerLog
from tasks.core.backoff import Backoff
from tasks.judging.judge import JudgeSettings, ask_judge, identity_of, shuffled, twice_on_the_panel
from tasks.judging.verdicts import Questions, read_verdict
from tests.fixtures.chat_server import ChatServer, Reply
from tests.fixtures.judge_panel import CRITERIA, RUBRIC, letter, taste, verdict

LETTERS = [letter("a", number, 1 + number % 5) for number in range(10)]
QUESTIONS = [(Questions(RUBRIC, 0).of(f"Letter {n}", text), RUBRIC.verdict_schema()) for n, text in enumerate(LETTERS)]


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch):
    monkeypatch.setattr(openai_endpoint, "_FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(Backoff, "wait_s", lambda self, failed_attempts, at_least_s=None: 0.01)


def judge(server: ChatServer | str, **more) -> JudgeSettings:
    url = server if isinstance(server, str) else server.url
    return JudgeSettings(**{"name": "j", "family": "gpt", "base_url": url, "model": "judge-1", "retries": 2, **more})


def ask(one: JudgeSettings, tmp_path, questions=QUESTIONS):
    with AnswerLog(tmp_path / "log.jsonl") as log:
        return ask_judge(one, questions, log, identity_of(one).where)


def scores(heard) -> list[int | None]:
    """Level that each question got; None where it is unscored."""
    read = [None if one is None else read_verdict(one, RUBRIC).levels for one in heard.answers]
    return [levels and levels["integrity"] for levels in read]


EXPECTED = [1 + number % 5 for number in range(10)]


@pytest.mark.parametrize(
    "faults",
    [
        [Reply(status=429, headers={"Retry-After": "0"})],
        [Reply(status=500), Reply(status=503)],
        [Reply(reset=True)],
        [Reply(cut_to=40)],
        [Reply(body=b"<html>busy</html>")],
    ],
    ids=["429", "500 and 503", "reset", "completion cut off", "a proxy's page"],
)
def test_a_fault_that_passes_costs_nothing(tmp_path, faults):
    with ChatServer(taste()) as server:
        server.script("Letter 3", *faults, Reply(verdict(4)))
        heard = ask(judge(server), tmp_path)
        assert scores(heard) == EXPECTED and heard.died == ""
        assert len(server.seen("Letter 3")) == len(faults) + 1 and len(server.requests) == 10 + len(faults)


def test_a_slow_judge_is_asked_again_and_then_given_up(tmp_path):
    with ChatServer(taste()) as server:
        server.script("Letter 0", Reply(verdict(1), delay_s=0.6), Reply(verdict(1)))
        assert scores(ask(judge(server, timeout_s=0.3), tmp_path)) == EXPECTED
        server.script("Letter", Reply(verdict(1), delay_s=0.6))
        started = time.monotonic()
        heard = ask(judge(server, timeout_s=0.3, model="judge-2"), tmp_path)
        assert "no whole answer within 0.3 s" in heard.died and time.monotonic() - started < 20


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply(verdict(4)[:60]), "no verdict"),
        (Reply(f"Sure! Here is my verdict:\n{verdict(4)}\nI hope it helps."), ""),
        (Reply(verdict(90)), "out of scale"),
        (Reply(verdict(4), finish_reason="length"), "truncated"),
        (Reply(None, finish_reason="stop", reasoning="hmm " * 90), "empty"),
        (Reply("", refusal="I will not judge this."), "refusal"),
        (Reply(status=400, body=b'{"error": {"message": "filtered", "code": "content_filter"}}'), "refusal"),
    ],
    ids=[
        "truncated JSON",
        "prose around JSON",
        "out of range",
        "cut off",
        "only thoughts",
        "refusal",
        "content filter",
    ],
)
def test_what_a_judge_says_badly_is_unscored_alone(tmp_path, reply, kind):
    with ChatServer(taste()) as server:
        server.script("Letter 3", reply)
        heard = ask(judge(server), tmp_path)
        expected = [*EXPECTED[:3], 4 if not kind else None, *EXPECTED[4:]]
        assert scores(heard) == expected and heard.died == ""
        assert read_verdict(heard.answers[3], RUBRIC).unscored.partition(":")[0] == kind
        assert len(server.requests) == 10  # what came is not asked for again


def test_the_server_is_told_the_schema_greedy_and_without_names(tmp_path):
    with ChatServer(taste()) as server:
        heard = ask(judge(server), tmp_path)
        held = server.requests[0].body["response_format"]
        assert heard.structured == held["type"] == "json_schema" and held["json_schema"]["strict"] is True
        assert held["json_schema"]["schema"]["required"] == ["reason", *CRITERIA]
        assert all(one.body["temperature"] == 0.0 and one.body["model"] == "judge-1" for one in server.requests)


def test_a_server_that_knows_no_schema_is_asked_plainly(tmp_path):
    with ChatServer(taste(), takes=()) as server:
        heard = ask(judge(server), tmp_path)
        assert scores(heard) == EXPECTED and heard.structured == "plain"
        assert [one.body["response_format"]["type"] for one in server.requests[:2]] == ["json_schema", "json_object"]
        assert not any("response_format" in one.body for one in server.requests[2:])
        ask(judge(server), tmp_path)
        assert len(server.requests) == 12  # the log knows: neither tried nor asked again
    with ChatServer(taste(), takes=()) as server:
        heard = ask(judge(server, structured="json_schema"), tmp_path)
        assert "response_format is not supported" in heard.died and scores(heard) == [None] * 10


def test_a_server_that_knows_the_form_of_llama_cpp_is_asked_in_it(tmp_path):
    with ChatServer(taste(), takes=("json_object",)) as server:
        server.refuses_with = 500  # as llama_cpp.server does
        heard = ask(judge(server), tmp_path)
        assert scores(heard) == EXPECTED and heard.structured == "json_object"
        held = server.requests[-1].body["response_format"]
        assert held["type"] == "json_object" and held["schema"]["required"] == ["reason", *CRITERIA]


def test_an_answer_too_long_for_a_judge_is_unscored_alone_and_says_nothing_of_the_form(tmp_path):
    long = (Questions(RUBRIC, 0).of("Letter x", "endless " * 50), RUBRIC.verdict_schema())
    refusal = json.dumps({"error": {"message": "too many tokens", "code": "context_length_exceeded"}}).encode()
    with ChatServer(taste(), takes=("json_object",)) as server:
        server.script("endless", Reply(status=400, body=refusal))
        assert scores(ask(judge(server), tmp_path, [long])) == [None]
        for order in ([long, *QUESTIONS], [*QUESTIONS, long]):
            heard = ask(judge(server), tmp_path, order)
            assert heard.structured == "json_object" and not heard.died
            assert [one is None for one in scores(heard)] == [one is long for one in order]


@pytest.mark.parametrize(
    "silence", [Reply(delay_s=0.6), Reply(reset=True), Reply(status=429)], ids=["hangs", "drops", "is busy"]
)
def test_a_silent_judge_is_tried_in_one_form_and_its_tries_are_signs_of_life(tmp_path, silence):
    beats = []
    with ChatServer(taste()) as server, AnswerLog(tmp_path / "log.jsonl") as log:
        server.script("", silence)
        one = judge(server, timeout_s=0.2)
        heard = ask_judge(one, QUESTIONS, log, identity_of(one).where, lambda *numbers: beats.append(numbers))
        assert "gave no answer in 3 tries" in heard.died and scores(heard) == [None] * 10
        assert [one.body["response_format"]["type"] for one in server.requests] == ["json_schema"] * 3
    assert [numbers["retries"] for _, _, numbers in beats if "retries" in numbers], "the watchdog sees each try"


def test_a_judge_that_is_gone_keeps_what_it_said_to_other_questions(tmp_path):
    """Another build asks in another order, or more: the form is that of any answer in the log."""
    with ChatServer(taste()) as server:
        ask(judge(server), tmp_path, QUESTIONS[:6])
        server.script("", Reply(status=503))
        heard = ask(judge(server, concurrency=1), tmp_path, QUESTIONS[::-1])
        assert heard.structured == "json_schema" and heard.died
        assert scores(heard) == [None] * 4 + EXPECTED[:6][::-1]


def test_thinking_is_switched_where_it_is_asked_for(tmp_path):
    with ChatServer(taste()) as server:
        ask(judge(server), tmp_path)
        assert not any("chat_template_kwargs" in one.body for one in server.requests)
        ask(judge(server, thinking=False), tmp_path)
        assert [one.body["chat_template_kwargs"] for one in server.requests[10:]] == [{"enable_thinking": False}] * 10


def test_a_schema_that_is_not_wanted_is_not_sent(tmp_path):
    with ChatServer(taste()) as server:
        heard = ask(judge(server, structured="plain", temperature=None), tmp_path)
        assert heard.structured == "plain" and scores(heard) == EXPECTED
        assert not any({"response_format", "temperature"} & one.body.keys() for one in server.requests)


def test_a_judge_that_dies_keeps_what_it_said_and_is_asked_only_for_the_rest(tmp_path):
    with ChatServer(taste()) as server:
        server.script("Letter [6-9]", Reply(status=500))
        heard = ask(judge(server, concurrency=1), tmp_path)
        assert scores(heard) == [*EXPECTED[:6], None, None, None, None] and "3 tries" in heard.died
    with ChatServer(taste()) as back:
        one = judge(server, concurrency=1).model_copy(update={"base_url": back.url})
        with AnswerLog(tmp_path / "log.jsonl") as log:
            heard = ask_judge(one, QUESTIONS, log, identity_of(judge(server)).where)
        assert scores(heard) == EXPECTED and len(back.requests) == 4


def test_a_wrong_key_is_told_without_the_key(tmp_path, monkeypatch):
    monkeypatch.setenv("PLUMBLINE_JUDGE_API_KEY", "sk-" + "wrong" * 6)
    with ChatServer(taste(), api_key="right") as server:
        heard = ask(judge(server), tmp_path)
        assert "401" in heard.died and "wrongwrong" not in heard.died and scores(heard) == [None] * 10
        monkeypatch.setenv("OTHER_API_KEY", "right")
        assert scores(ask(judge(server, api_key_env="OTHER_API_KEY"), tmp_path)) == EXPECTED


def test_no_key_is_sent_where_none_is_set(tmp_path, monkeypatch):
    monkeypatch.delenv("PLUMBLINE_JUDGE_API_KEY", raising=False)
    with ChatServer(taste()) as server:
        ask(judge(server), tmp_path)
        assert not any("authorization" in one.headers for one in server.requests)


def test_each_judge_has_an_order_of_its_own_and_the_same_one_again():
    orders = {(seed, name): tuple(shuffled(LETTERS, seed, name)) for seed in (0, 1) for name in ("a", "b")}
    assert len(set(orders.values())) == 4 and tuple(range(10)) not in orders.values()
    assert tuple(shuffled(LETTERS, 0, "a")) == orders[0, "a"] and sorted(orders[0, "a"]) == list(range(10))


def test_one_model_cannot_sit_twice(tmp_path):
    judges = [
        judge("http://localhost:1/v1", name="a"),
        judge("http://127.0.0.1:1/v1/", name="b"),
        judge("http://127.0.0.1:1/v1", name="c", model="judge-2"),
        judge("http://127.0.0.1:2/v1", name="c"),
    ]
    assert twice_on_the_panel(judges, [identity_of(one) for one in judges]) == [
        "the name c stands there twice",
        "a and b are the same model",
    ]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"base_url": None}, "give base_url or local_model"),
        ({"model": None}, "base_url needs model"),
        ({"local_model": "nowhere.gguf"}, "and not both"),
        ({"base_url": None, "local_model": "nowhere.gguf"}, "neither a .gguf file nor a folder"),
        ({"api_key_env": "sk-123456789"}, "pattern"),
        ({"api_key_env": "MY_JUDGE"}, "the name must hold API_KEY or TOKEN"),
        ({"name": "a/b"}, "pattern"),
        ({"family": ""}, "at least 1 character"),
        ({"family": " "}, "at least 1 character"),
        ({"colour": "red"}, "Extra inputs"),
    ],
)
def test_settings_that_cannot_be_are_refused(changed, told):
    with pytest.raises(ValidationError, match=told):
        judge("http://127.0.0.1:1/v1", **changed)


def test_an_address_with_a_password_is_refused_without_repeating_it():
    with pytest.raises(ConfigError, match="password") as caught:
        judge("http://me:hunter22@127.0.0.1/v1")
    assert "hunter22" not in str(caught.value)


def test_old_logs_stay_good():
    """A question without a schema has the digest that it had before questions could have one."""
    one = Ask("http://x/v1", "m", ({"role": "user", "content": "hi"},), 16)
    plain = {"where": one.where, "model": "m", "messages": list(one.messages), "max_tokens": 16, "temperature": None}
    import hashlib

    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert one.digest == hashlib.sha256(text.encode()).hexdigest()
