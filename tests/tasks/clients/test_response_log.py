"""The log of answers: that none is lost, and none paid for twice, whatever is killed when."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tasks.clients import response_log
from tasks.clients.requests import Answer, Ask
from tasks.clients.response_log import AnswerLog, answer_all
from tasks.core.errors import ArtifactError
from tests.fixtures.chat_server import ChatServer, Reply

ROOT = Path(__file__).resolve().parents[3]


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
    assert beats[-1][:2] == (6, 6) and set(beats[-1][2]) == {"unit", "tokens_per_s", "left_s"}


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


def test_a_borrowed_answer_brings_its_share_of_the_seconds_and_keeps_it(tmp_path):
    """The second log borrows two of three answers, the third log one of those again, and one from the first."""
    fill(tmp_path / "1", some(3))
    took = {"1": 30.0, "2": 4.0}
    with AnswerLog(tmp_path / "2", [tmp_path / "1"], lambda path: took[path.name]) as second:
        answer_all([*some(2), *some(5)[3:]], second, Counting())
        assert (len(second), second.borrowed, second.borrowed_seconds) == (4, 2, 20.0)
    (tmp_path / "1").rename(tmp_path / "gone")
    with AnswerLog(tmp_path / "3", [tmp_path / "2"], lambda path: took[path.name]) as third:
        answer_all([*some(1), *some(4)[3:]], third, source=None)
        assert (len(third), third.borrowed, third.borrowed_seconds) == (2, 2, 10.0 + 2.0)
    with AnswerLog(tmp_path / "3") as again:
        assert (again.borrowed, again.borrowed_seconds) == (2, 12.0)
    with AnswerLog(tmp_path / "4", [tmp_path / "gone"]) as unknown:
        answer_all(some(1), unknown, source=None)
        assert (unknown.borrowed, unknown.borrowed_seconds) == (1, None)


class Cramped(Counting):
    """A source without room for prompt 1, until `roomy`."""

    roomy = False

    def answers(self, asks, alive):
        for ask, answer in super().answers(asks, alive):
            cramped = ask.messages[0]["content"] == "1" and not self.roomy
            yield ask, Answer.without_room("too long") if cramped else answer


def test_a_prompt_that_found_no_room_is_asked_again_at_the_next_start_and_not_before(tmp_path):
    source = Cramped()
    with AnswerLog(tmp_path / "log") as log:
        for _ in range(2):
            assert [one.no_room for one in answer_all(some(3), log, source)] == [False, True, False]
    assert len(source.asked) == 3
    with AnswerLog(tmp_path / "log") as log:
        assert answer_all(some(3), log, source=None)[1].no_room
    borrowing = AnswerLog(tmp_path / "other", [tmp_path / "log"])
    with borrowing as other, pytest.raises(ArtifactError, match="1 of 3 prompts have no answer"):
        answer_all(some(3), other, source=None)
    source.roomy = True
    for _ in range(2):
        with AnswerLog(tmp_path / "log") as log:
            assert answer_all(some(3), log, source)[1].text.startswith("to 1")
            assert log.repeated == 0 and len(log) == 3
    assert len(source.asked) == 4


def test_an_answer_that_stands_twice_is_counted_and_the_first_holds(tmp_path):
    fill(tmp_path / "log", some(2))
    first = (tmp_path / "log").read_bytes().splitlines(keepends=True)[0]
    with (tmp_path / "log").open("ab") as file:
        file.write(first.replace(b'"to 0', b'"no 0'))
    with AnswerLog(tmp_path / "log") as log:
        assert log.repeated == 1
        assert log.get(some(1)[0]).text.startswith("to 0")


def test_one_process_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(response_log, "_LOCK_S", 0.2)
    with AnswerLog(tmp_path / "log"), pytest.raises(ArtifactError, match="another process has held"):
        AnswerLog(tmp_path / "log").__enter__()
    with AnswerLog(tmp_path / "log") as log:
        assert len(log) == 0


CLIENT = """
import sys
from pathlib import Path
from tasks.clients.response_log import AnswerLog, answer_all
from tasks.clients.requests import Ask
from tasks.clients.openai_endpoint import ChatEndpoint
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
        asks = [Ask(server.url, "m", ({"role": "user", "content": f"prompt {i}"},), 64) for i in range(PROMPTS)]
        digests = {ask.digest: ask.messages[0]["content"] for ask in asks}
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
