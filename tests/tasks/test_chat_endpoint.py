"""The chat client and the log of answers: what is tried again, what is told at once, and that no answer is paid for twice."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import httpx
import pytest

from tasks.core.artifact import canonical_json
from tasks.core.errors import ArtifactError, ConfigError, TransientError
from tasks.engines import answer_log
from tasks.engines.answer_log import AnswerLog, answer_all
from tasks.engines.asks import Answer, Ask
from tasks.engines.chat_endpoint import ChatEndpoint, ServerError, _retry_after_s, url_problem
from tests.fixtures.chat_server import ChatServer, Reply

ROOT = Path(__file__).resolve().parents[2]
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
        pauses = [[endpoint._pause_s(attempt, None) for _ in range(50)] for attempt in (0, 1, 2, 12)]
        asked_for = [endpoint._pause_s(0, 5.0) for _ in range(50)]
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


# --- the log


class Counting:
    """A source that answers at once and counts."""

    def __init__(self) -> None:
        self.asked: list[Ask] = []

    def answers(self, asks, _alive):
        for ask in asks:
            self.asked.append(ask)
            yield ask, Answer(f"to {ask.messages[0]['content']} \u2028 \ud800", "stop", completion_tokens=3)


def some(n: int) -> list[Ask]:
    return [Ask("w", "m", ({"role": "user", "content": str(i)},), 64) for i in range(n)]


def fill(path: Path, asks: list[Ask]) -> list[Answer]:
    with AnswerLog(path) as log:
        return answer_all(asks, log, Counting())


def test_equal_prompts_are_asked_once_and_answers_come_in_the_order_of_the_asks(tmp_path):
    source, beats = Counting(), []
    asks = [*some(3), *some(3)[::-1]]
    with AnswerLog(tmp_path / "log") as log:
        answers = answer_all(asks, log, source, lambda *beat: beats.append(beat))
    assert len(source.asked) == 3
    assert [one.text.split()[1] for one in answers] == ["0", "1", "2", "2", "1", "0"]
    assert beats[-1][:2] == (6, 6) and set(beats[-1][2]) == {"tokens_per_s", "left_s"}


def test_the_log_gives_back_every_character_without_asking(tmp_path):
    first = fill(tmp_path / "log", some(4))
    with AnswerLog(tmp_path / "log") as log:
        assert answer_all(some(4), log, source=None) == first
        with pytest.raises(ArtifactError, match="1 of 5 prompts have no answer"):
            answer_all(some(5), log, source=None)


def test_a_last_line_torn_anywhere_costs_that_answer_alone(tmp_path):
    fill(tmp_path / "log", some(3))
    whole = (tmp_path / "log").read_bytes()
    start = whole[:-1].rindex(b"\n") + 1
    for cut in range(start, len(whole)):
        path = tmp_path / f"log-{cut}"
        path.write_bytes(whole[:cut])
        source = Counting()
        with AnswerLog(path) as log:
            answer_all(some(3), log, source)
        assert [ask.messages[0]["content"] for ask in source.asked] == ["2"]
        assert path.read_bytes() == whole


def test_damage_before_the_last_line_is_told_with_its_number(tmp_path):
    fill(tmp_path / "log", some(3))
    lines = (tmp_path / "log").read_bytes().splitlines(keepends=True)
    (tmp_path / "log").write_bytes(lines[0] + lines[1][:20] + b"\n" + lines[2])
    with pytest.raises(ArtifactError, match="line 2 of .* is damaged"), AnswerLog(tmp_path / "log"):
        pass


def test_earlier_logs_are_borrowed_from_and_copied(tmp_path):
    fill(tmp_path / "old", some(3))
    with (tmp_path / "old").open("ab") as file:
        file.write(b'{"torn')
    source = Counting()
    with AnswerLog(tmp_path / "new", [tmp_path / "old", tmp_path / "gone"]) as log:
        answer_all(some(4), log, source)
    assert len(source.asked) == 1
    with AnswerLog(tmp_path / "new") as log:
        assert len(answer_all(some(4), log, source=None)) == 4


def test_an_answer_that_stands_twice_is_counted_and_the_first_holds(tmp_path):
    fill(tmp_path / "log", some(2))
    first = (tmp_path / "log").read_bytes().splitlines(keepends=True)[0]
    with (tmp_path / "log").open("ab") as file:
        file.write(first.replace(b'"to 0', b'"no 0'))
    with AnswerLog(tmp_path / "log") as log:
        assert log.repeated == 1
        assert log.get(some(1)[0]).text.startswith("to 0")


def test_one_process_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(answer_log, "_LOCK_S", 0.2)
    with AnswerLog(tmp_path / "log"), pytest.raises(ArtifactError, match="another process has held"):
        AnswerLog(tmp_path / "log").__enter__()
    with AnswerLog(tmp_path / "log") as log:
        assert len(log) == 0


CLIENT = """
import sys
from pathlib import Path
from tasks.engines.answer_log import AnswerLog, answer_all
from tasks.engines.asks import Ask
from tasks.engines.chat_endpoint import ChatEndpoint
url, path, n = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
asks = [Ask(url, "m", ({"role": "user", "content": f"prompt {i}"},), 64) for i in range(n)]
with ChatEndpoint(url, concurrency=4) as endpoint, AnswerLog(path) as log:
    answer_all(asks, log, endpoint)
"""
PROMPTS, OPEN_AT_ONCE = 60, 4


def logged(path: Path) -> list[str]:
    """Digests of the whole lines."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    return [json.loads(line)["asked"] for line in lines]


def test_kill_9_at_random_moments_loses_only_what_was_in_flight(tmp_path):
    moments, log, kills = random.Random(7), tmp_path / "log", 0
    with ChatServer(lambda _m: Reply(delay_s=0.02)) as server:
        digests = {ask_of(server, f"prompt {i}").digest: f"prompt {i}" for i in range(PROMPTS)}
        while True:
            kept = {digests[one] for one in logged(log)}
            before = len(server.requests)
            child = subprocess.Popen([sys.executable, "-c", CLIENT, server.url, str(log), str(PROMPTS)], cwd=ROOT)
            some_requests = moments.randrange(1, 14)
            while child.poll() is None and len(server.requests) < before + some_requests:
                time.sleep(0.001)
            time.sleep(moments.uniform(0, 0.03))
            child.kill()
            code = child.wait()
            time.sleep(0.1)  # what was in flight ends at the server
            again = [one.user for one in server.requests[before:] if one.user in kept]
            assert not again, "a logged answer was asked for once more"
            if code == 0:
                break
            assert code == -signal.SIGKILL
            kills += 1
    assert kills >= 5
    assert sorted(logged(log)) == sorted(digests), "every prompt stands in the log exactly once"
    per_prompt = Counter(one.user for one in server.requests)
    assert set(per_prompt) == set(digests.values())
    assert len(server.requests) <= PROMPTS + kills * OPEN_AT_ONCE
