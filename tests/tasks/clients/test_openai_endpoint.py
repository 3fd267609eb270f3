"""The chat client: what is tried again, what is told at once, and what is one prompt's own trouble."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import replace
from email.utils import formatdate

import httpx
import pytest

from tasks.clients.openai_endpoint import ChatEndpoint, ServerError, _retry_after_s, url_problem
from tasks.clients.requests import Answer, Ask
from tasks.clients.response_log import AnswerLog, answer_all
from tasks.core.artifact import canonical_json
from tasks.core.errors import ConfigError, TransientError
from tests.fixtures.chat_server import ChatServer, Reply

KEY = "sesame-0123456789"


def ask_of(server: ChatServer, text: str, **changes) -> Ask:
    return replace(Ask(server.url, "m", ({"role": "user", "content": text},), 64), **changes)


def asked(server: ChatServer, *texts: str, **settings) -> dict[str, Answer]:
    """Text -> answer, through an endpoint that waits for hundredths of a second only."""
    settings = {"first_wait_s": 0.01, "timeout_s": 5.0, **settings}
    with ChatEndpoint(server.url, **settings) as endpoint:
        found = endpoint.answers([ask_of(server, text) for text in texts], lambda _numbers: None)
        return {ask.messages[0]["content"]: answer for ask, answer in found}


def test_the_server_of_these_tests_satisfies_the_real_client():
    from openai import OpenAI

    with ChatServer(lambda _m: "fine") as server:
        client = OpenAI(base_url=server.url, api_key="none", max_retries=0)
        made = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}])
    assert (made.choices[0].message.content, made.choices[0].finish_reason) == ("fine", "stop")


def test_an_answer_is_read_whole():
    with ChatServer(lambda _m: Reply("fine words", reasoning="hm, hm")) as server:
        found = asked(server, "hello there")["hello there"]
        body = server.requests[0].body
    assert found == Answer(
        "fine words", "stop", hidden_chars=6, thoughts="hm, hm", prompt_tokens=2, completion_tokens=2
    )
    assert body == {"model": "m", "messages": [{"role": "user", "content": "hello there"}], "max_tokens": 64}


FAULTS = {
    "429": Reply(status=429),
    "408": Reply(status=408),
    "500": Reply(status=500),
    "503 with a page": Reply(status=503, body=b"<html>busy</html>"),
    "truncated JSON": Reply(cut_to=60),
    "no choices": Reply(body=b'{"error": {"message": "upstream is gone"}}'),
    "an empty body": Reply(body=b""),
    "JSON without end": Reply(body=b"[" * 200_000),
    "JSON without end and 503": Reply(status=503, body=b"[" * 200_000),
    "reset": Reply(reset=True),
    "reset in the body": Reply(reset_after=40),
    "slow": Reply(delay_s=1.5),
    "dripping": Reply(drip_s=0.2),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_may_pass_is_tried_again(fault):
    with ChatServer() as server:
        server.script("hello", FAULTS[fault], FAULTS[fault], Reply("at last"))
        assert asked(server, "hello", timeout_s=0.5)["hello"].text == "at last"
        assert len(server.requests) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
def test_a_refused_request_is_told_at_once_in_the_servers_words(status):
    with ChatServer() as server:
        server.script("hello", Reply(status=status, body=b'{"error": {"message": "model m does not exist"}}'))
        with pytest.raises(ConfigError, match=f"status {status}: model m does not exist.*Nothing is retried"):
            asked(server, "hello")
        assert len(server.requests) == 1


def test_a_redirect_is_not_followed():
    with ChatServer() as server:
        server.script("hello", Reply(status=307, headers={"Location": "http://elsewhere.example/v1"}))
        with pytest.raises(ConfigError, match=r"points to elsewhere\.example"):
            asked(server, "hello", api_key=KEY)
        assert len(server.requests) == 1


def test_a_hosts_content_filter_is_one_rows_refusal():
    body = json.dumps({"error": {"message": "filtered by policy", "code": "content_filter"}}).encode()
    with ChatServer() as server:
        server.script("hello", Reply(status=400, body=body))
        assert asked(server, "hello")["hello"].trouble == "refusal: filtered by policy"


def body_of(message: str, **fields: object) -> bytes:
    return json.dumps({"error": {"message": message, **fields}}).encode()


NO_ROOM = {
    "OpenAI": (
        400,
        body_of(
            "Your input exceeds the limit of this model.", type="invalid_request_error", code="context_length_exceeded"
        ),
    ),
    "vLLM": (
        400,
        body_of(
            "This model's maximum context length is 2048 tokens. However, your prompt contains 2600 input tokens, which "
            "exceeds this limit even without any output tokens.",
            type="BadRequestError",
            code=400,
        ),
    ),
    "vLLM, of max_tokens": (
        400,
        body_of("max_tokens=4096 cannot be greater than max_model_len=2048. Please request fewer output tokens.", code=400),
    ),
    "vLLM, its engine": (
        400,
        body_of("The decoder prompt (length 2600) is longer than the maximum model length of 2048.", code=400),
    ),
    "an older vLLM": (
        400,
        b'{"object": "error", "message": "This model\'s maximum context length is 2048 tokens. However, you requested 2648 '
        b'tokens (600 in the messages, 2048 in the completion).", "type": "BadRequestError", "code": 400}',
    ),
    "llama.cpp": (
        400,
        body_of("the request exceeds the available context size, try increasing it", type="exceed_context_size_error", code=400),
    ),
    "an older llama.cpp": (500, body_of("the request exceeds the available context size. try increasing the context size")),
    "Ollama": (500, body_of("the input length exceeds the context length", type="api_error")),
    "SGLang": (400, b'{"message": "The input (2600 tokens) is longer than the model\'s context length (2048 tokens)."}'),
    "TGI": (422, b'{"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2048."}'),
}  # fmt: skip


@pytest.mark.parametrize("host", NO_ROOM)
def test_a_prompt_beyond_the_context_is_one_rows_trouble(host):
    status, body = NO_ROOM[host]
    with ChatServer() as server:
        server.script("long", Reply(status=status, body=body))
        found = asked(server, "long", "short")
        assert len(server.requests) == 2
    assert found["short"].text == "fine" and found["long"].no_room
    assert found["long"].trouble.startswith("no room: prompt and answer do not fit the model's context: ")


def test_a_limit_on_tokens_a_minute_is_no_want_of_room():
    body = body_of("Request too large: the maximum context length of your tier is used up", code="rate_limit_exceeded")
    with ChatServer() as server:
        server.script("hello", Reply(status=429, body=body), Reply("at last"))
        assert asked(server, "hello")["hello"].text == "at last"


@pytest.mark.parametrize("count", ["1e999", "-1", "-1e999", "1e30", "NaN", '"many"', "[[]]", "null"])
def test_a_count_that_is_none_leaves_the_answer_as_it_is(count):
    choice = '{"message": {"content": "fine"}, "finish_reason": "stop"}'
    body = f'{{"choices": [{choice}], "usage": {{"prompt_tokens": {count}, "completion_tokens": 7}}}}'
    with ChatServer(lambda _m: Reply(body=body.encode())) as server:
        assert asked(server, "hello", retries=0)["hello"] == Answer("fine", "stop", completion_tokens=7)


def test_tries_end_and_the_last_reason_is_told():
    with ChatServer(lambda _m: Reply(status=503)) as server:
        with pytest.raises(ServerError, match=r"no answer in 3 tries; last: status 503: scripted 503"):
            asked(server, "hello", retries=2)
        assert len(server.requests) == 3


def test_no_server_at_all_is_told_as_such():
    with ChatServer() as server:
        pass
    with pytest.raises(TransientError, match=r"ConnectError.*Is the server running") as caught:
        asked(server, "hello", retries=1)
    assert not isinstance(caught.value, ServerError)


def test_retry_after_is_honoured():
    with ChatServer() as server:
        server.script("hello", Reply(status=429, headers={"Retry-After": "0.6"}), Reply("fine"))
        asked(server, "hello")
        first, second = server.requests
    assert 0.6 <= second.at_s - first.at_s < 2


def test_a_pause_longer_than_the_watchdog_bears_is_told_at_once():
    with ChatServer() as server:
        server.script("hello", Reply(status=429, headers={"Retry-After": "3600"}))
        with pytest.raises(TransientError, match=r"pause of 3,600 s"):
            asked(server, "hello")
        assert len(server.requests) == 1


def test_retry_after_may_be_a_date_and_may_be_nonsense():
    assert _retry_after_s(httpx.Headers({"Retry-After": formatdate(time.time() + 30)})) == pytest.approx(30, abs=2)
    assert _retry_after_s(httpx.Headers({"Retry-After": formatdate(time.time() - 30)})) == 0
    assert _retry_after_s(httpx.Headers({"Retry-After": "soon"})) is None
    assert _retry_after_s(httpx.Headers({})) is None


def test_pauses_double_with_a_spread_up_to_a_cap():
    with ChatEndpoint("http://127.0.0.1:1/v1") as endpoint:
        pauses = [[endpoint._backoff.wait_s(attempt + 1) for _ in range(50)] for attempt in (0, 1, 2, 12)]
        asked_for = [endpoint._backoff.wait_s(1, 5.0) for _ in range(50)]
    for ours, most in zip(pauses, (1, 2, 4, 60), strict=True):
        assert most / 2 <= min(ours) < max(ours) <= most
    assert 5.0 <= min(asked_for) < max(asked_for) <= 5.5


def test_no_more_requests_are_open_than_allowed():
    with ChatServer(lambda _m: Reply(delay_s=0.05)) as server:
        asked(server, *map(str, range(20)), concurrency=4)
        assert server.busiest == 4
        assert len(server.requests) == 20


def test_nothing_new_is_sent_while_answers_wait_to_be_kept():
    """A slow disk must not let answers pile up that a crash would lose."""
    with ChatServer() as server, ChatEndpoint(server.url, concurrency=4) as endpoint:
        asks = [ask_of(server, str(i)) for i in range(20)]
        for kept, _ in enumerate(endpoint.answers(asks, lambda _numbers: None)):
            time.sleep(0.05)
            assert len(server.requests) <= kept + 4
        assert len(server.requests) == 20


def test_the_key_travels_in_the_header_and_in_no_message():
    with ChatServer(api_key=KEY) as server:
        assert asked(server, "hello", api_key=KEY)["hello"].text == "fine"
        with pytest.raises(ConfigError, match="not accepted") as error:
            asked(server, "hello", api_key="short")
        assert "short" not in str(error.value) and "<api key>" in str(error.value)
        with pytest.raises(ConfigError, match="No API key was set"):
            asked(server, "hello")


def test_what_is_in_flight_at_a_failure_is_kept_and_nothing_new_is_sent(tmp_path):
    with ChatServer() as server:
        server.script("bad", Reply(status=400, delay_s=0.1))
        server.script("slow", Reply("kept", delay_s=0.5))
        asks = [ask_of(server, text) for text in ("bad", "slow", *map(str, range(50)))]
        server.reply = lambda _m: Reply(delay_s=0.2)
        with ChatEndpoint(server.url, concurrency=2) as endpoint, AnswerLog(tmp_path / "log") as log:
            with pytest.raises(ConfigError):
                answer_all(asks, log, endpoint)
            assert log.get(asks[1]).text == "kept"
            assert len(log) == len(server.requests) - 1
        assert len(server.requests) <= 4


@pytest.mark.parametrize(
    ("answer", "trouble"),
    [
        (Answer("A trace.", "stop"), ""),
        (Answer("I cannot tell whether the vote passes, and I can't see a link.", "stop"), ""),
        (Answer("<think>I can't help with that? I can.</think> A trace.", "stop"), ""),
        (Answer("A tra", "length", completion_tokens=9), "truncated: cut off after 9"),
        (Answer("", "stop"), "empty: no answer"),
        (Answer("", "stop", hidden_chars=900), "empty: no answer, only 900"),
        (Answer("<think>Only thoughts.</think>\n", "stop"), "empty: no answer, only 29"),
        (Answer("", "content_filter"), "refusal: the content filter"),
        (Answer("", "stop", refusal="Not this."), "refusal: Not this."),
        (Answer("I'm sorry, but this is not something to write about.", "stop"), "refusal: "),
        (Answer("I can't help with that.", "stop"), "refusal: "),
        (Answer("I cannot provide a trace for this market.", "stop"), "refusal: "),
        (Answer("Sorry, no.", "stop"), "refusal: "),
        (Answer("As an AI, I have no view.", "stop"), "refusal: "),
        (Answer("I’m unable to assist with gambling.", "stop"), "refusal: "),
    ],
)
def test_what_nothing_can_be_made_of(answer, trouble):
    assert answer.trouble.startswith(trouble) and bool(answer.trouble) == bool(trouble)


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        ("http://127.0.0.1:8000/v1", False),
        ("https://api.example.com/v1/", False),
        ("https://me:hunter2@example.com/v1", True),
        ("https://example.com/v1?key=hunter2", True),
        ("ftp://example.com", True),
        ("localhost:8000", True),
    ],
)
def test_addresses(url, wrong):
    assert bool(url_problem(url)) is wrong
    assert "hunter2" not in url_problem(url)


def test_every_setting_is_part_of_what_was_asked():
    one = Ask("w", "m", ({"role": "user", "content": "a"},), 64)
    others = [
        replace(one, **change) for change in ({"where": "x"}, {"model": "n"}, {"max_tokens": 65}, {"temperature": 0.0})
    ]
    others += [replace(one, thinking=False), replace(one, thinking=True)]
    others.append(replace(one, messages=({"role": "user", "content": "b"},)))
    assert len({other.digest for other in [one, *others]}) == 8
    assert replace(one).digest == one.digest


def test_answers_that_were_asked_before_the_thinking_switch_are_still_known():
    one = Ask("w", "m", ({"role": "user", "content": "a"},), 64)
    before = {"where": "w", "model": "m", "messages": one.messages, "max_tokens": 64, "temperature": None}
    assert one.digest == hashlib.sha256(canonical_json(before).encode()).hexdigest()


def test_the_thinking_switch_is_sent_as_servers_take_it():
    with ChatServer() as server, ChatEndpoint(server.url) as endpoint:
        asks = [ask_of(server, f"q{state}", thinking=state) for state in (None, True, False)]
        list(endpoint.answers(asks, lambda _numbers: None))
        sent = {one.user: one.body.get("chat_template_kwargs") for one in server.requests}
    assert sent == {"qNone": None, "qTrue": {"enable_thinking": True}, "qFalse": {"enable_thinking": False}}
