"""Each prompt answered once, whatever is killed when: answers are appended to a log as they come, and read before asking.

One JSON object a line, on the disk before the next answer is taken. What a crash can lose is what was in flight. A prompt
that found no room in the model's context cost nothing, and the server may have more by now: it is asked again at the next start.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from tasks.clients.requests import LOADED, Answer, Ask, Source
from tasks.core.errors import ArtifactError
from tasks.core.progress import UNIT, Beat, silent

_LOCK_S = 60.0
"""Longest wait for another process on the same log: a killed one is gone in seconds."""


@dataclass(frozen=True)
class _Kept:
    """One line of a log."""

    answer: Answer
    borrowed: bool = False
    """Another log's; `seconds`, its share of what that log took, is told of no other line. None where it is not known."""
    seconds: float | None = None


class AnswerLog:
    """Answers by the digest of what was asked; open it in a `with` block. One process at a time holds it.

    `others` are logs of earlier builds with other settings: what they hold is copied here and not asked for again.
    `seconds_of` tells how long one of them took in all, where that is known.
    """

    def __init__(
        self,
        path: Path,
        others: Sequence[Path] = (),
        seconds_of: Callable[[Path], float | None] = lambda _path: None,
    ) -> None:
        self.path = path
        self.repeated = 0
        """Lines whose question was already answered by an earlier line; more than none is a defect."""
        self._others, self._seconds_of = [one for one in others if one != path], seconds_of
        self._kept: dict[str, _Kept] = {}
        self._earlier: dict[str, _Kept] | None = None
        self._ask_again: set[str] = set()
        self._lock = FileLock(path.with_name(path.name + ".lock"), timeout=_LOCK_S)

    def __enter__(self) -> AnswerLog:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout:
            raise ArtifactError(
                f"answers: another process has held {self.path} for {_LOCK_S:g} s. Wait for that build, or end it; "
                "two at once would pay for every answer twice."
            ) from None
        try:
            self._kept, whole_bytes = self._read()
            self._ask_again = {digest for digest, one in self._kept.items() if one.answer.no_room}
            self._file = self.path.open("ab")
            self._file.truncate(whole_bytes)  # a line that was torn by a crash must not grow onto the next one
            _sync_folder(self.path.parent)
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._lock.release()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def borrowed(self) -> int:
        """How many of the answers are other logs'; the rest was asked for here, at this start or an earlier one."""
        return sum(one.borrowed for one in self._kept.values())

    @property
    def borrowed_seconds(self) -> float | None:
        """What the borrowed answers took where they were asked for; None when that is not known of all of them."""
        shares = [one.seconds for one in self._kept.values() if one.borrowed]
        known = [seconds for seconds in shares if seconds is not None]
        return sum(known) if len(known) == len(shares) else None

    def get(self, ask: Ask) -> Answer | None:
        """The answer, from this log or an earlier one."""
        found = self._kept.get(ask.digest)
        if found is None and (found := self._lent().get(ask.digest)) is not None:
            self._write(ask, found)
        return found.answer if found else None

    def lacks(self, ask: Ask, *, again: bool) -> bool:
        """Whether there is no answer; with `again` also whether an earlier start found no room for one."""
        return self.get(ask) is None or (again and ask.digest in self._ask_again)

    def add(self, ask: Ask, answer: Answer) -> None:
        """Write an answer down; it is on the disk when this returns."""
        self._write(ask, _Kept(answer))

    def _write(self, ask: Ask, kept: _Kept) -> None:
        lent = {"borrowed": True, "seconds": kept.seconds} if kept.borrowed else {}
        # ASCII: half a surrogate pair too
        line = json.dumps({"asked": ask.digest, "model": ask.model, **lent, **vars(kept.answer)})
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._kept[ask.digest] = kept
        self._ask_again.discard(ask.digest)

    def _read(self) -> tuple[dict[str, _Kept], int]:
        """The answers, and how many bytes of the file are whole lines.

        Raises:
            ArtifactError: a line that is not the last cannot be read.
        """
        data = self.path.read_bytes() if self.path.is_file() else b""
        found: dict[str, _Kept] = {}
        start = 0
        for number, line in enumerate(data.splitlines(keepends=True), start=1):
            last = start + len(line) == len(data)
            try:
                if not line.endswith(b"\n"):
                    raise ValueError("torn")
                digest, kept = _parse(line)
            except (ValueError, TypeError, KeyError, AttributeError):
                if last:
                    break
                raise ArtifactError(
                    f"answers: line {number} of {self.path} is damaged, and it is not the last. Delete that line; "
                    "its prompt is then asked again."
                ) from None
            if digest in found and not found[digest].answer.no_room:
                self.repeated += 1
            else:
                found[digest] = kept
            start += len(line)
        return found, start

    def _lent(self) -> dict[str, _Kept]:
        """What the other logs hold, each answer with its share of the seconds."""
        if self._earlier is None:
            self._earlier = {}
            for path in sorted(self._others):
                lines: dict[str, _Kept] = {}
                for digest, one in _readable(path):
                    if not one.answer.no_room:
                        lines.setdefault(digest, one)
                seconds, asked = self._seconds_of(path), sum(not one.borrowed for one in lines.values())
                share = None if seconds is None else seconds / max(1, asked)
                for digest, one in lines.items():
                    lent = one if one.borrowed else _Kept(one.answer, borrowed=True, seconds=share)
                    self._earlier.setdefault(digest, lent)
        return self._earlier


def answer_all(
    asks: Sequence[Ask], log: AnswerLog, source: Source | None, beat: Beat = silent, done: int = 0
) -> list[Answer]:
    """The answers in the order of `asks`; only what the log lacks is asked, equal prompts once.

    `done` prompts were answered before these, for the progress. `source` None asks nobody.

    Raises:
        ArtifactError: the log lacks an answer and there is nobody to ask, or a prompt was left without one.
    """
    missing = list({ask.digest: ask for ask in asks if log.lacks(ask, again=source is not None)}.values())
    if missing and source is None:
        raise ArtifactError(
            f"answers: {len(missing)} of {len(asks)} prompts have no answer in {log.path}. Build again to ask them."
        )
    shown = _Shown(beat, done + len(asks) - len(missing), done + len(asks), len(missing))
    shown.alive({})
    if missing and source is not None:
        for ask, answer in source.answers(missing, shown.alive):
            log.add(ask, answer)
            shown.answered(answer)
    answers = [kept for ask in asks if (kept := log.get(ask)) is not None]
    if left := len(asks) - len(answers):
        raise ArtifactError(f"answers: {left} of {len(asks)} prompts were left without an answer. Build again.")
    return answers


Sent = TypeVar("Sent")


def answer_in_rounds(
    prompts: list[Sent],
    attempts: int,
    ask_of: Callable[[Sent], Ask],
    unfinished: Callable[[list[Sent], list[Ask], list[Answer]], list[Sent]],
    log: AnswerLog,
    source: Source | None,
    beat: Beat = silent,
) -> Counter[str]:
    """Every prompt sent up to `attempts` times: the one loop of those that are sent again, with more tokens or other words.

    `unfinished` takes a round's prompts, requests and answers, and returns the prompts of the next one. Returns the number of
    requests under "requests", and the tokens of all answers. `source` None asks nobody: the log must do.

    Raises:
        As `answer_all`.
    """
    left, spent = prompts, Counter(requests=0)
    for _ in range(attempts):
        asks = [ask_of(prompt) for prompt in left]
        answers = answer_all(asks, log, source, beat, spent["requests"])
        spent["requests"] += len(asks)
        for answer in answers:
            spent.update(prompt_tokens=answer.prompt_tokens, completion_tokens=answer.completion_tokens)
        if not (left := unfinished(left, asks, answers)):
            break
    return spent


class _Shown:
    """The progress of some prompts: tokens a second and seconds left, from when the model was loaded."""

    def __init__(self, beat: Beat, done: int, total: int, missing: int) -> None:
        self._beat, self._done, self._total, self._missing = beat, done, total, missing
        self._started, self._answered, self._tokens = time.monotonic(), 0, 0

    def alive(self, numbers: dict) -> None:
        """No new answer: the numbers say what else moved, or the watchdog counts it as a standstill."""
        if LOADED in numbers:
            self._started = time.monotonic()
        self._beat(self._done + self._answered, self._total, {UNIT: "answers", **numbers})

    def answered(self, answer: Answer) -> None:
        self._answered += 1
        self._tokens += answer.completion_tokens
        seconds = max(time.monotonic() - self._started, 1e-9)
        left_s = (self._missing - self._answered) * seconds / self._answered
        self.alive({"tokens_per_s": round(self._tokens / seconds, 1), "left_s": round(left_s)})


def _parse(line: bytes) -> tuple[str, _Kept]:
    value = json.loads(line)
    digest, _ = value.pop("asked"), value.pop("model")
    borrowed, seconds = value.pop("borrowed", False), value.pop("seconds", None)
    answer = Answer(**{**value, "token_ids": tuple(value.get("token_ids", ()))})
    return str(digest), _Kept(answer, borrowed, seconds)


def _readable(path: Path) -> Iterator[tuple[str, _Kept]]:
    """What can be read of another build's log; its own next build tells of damage."""
    with suppress(OSError):
        for line in path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                with suppress(ValueError, TypeError, KeyError, AttributeError):
                    yield _parse(line)


def _sync_folder(folder: Path) -> None:
    """Put a new file's name on the disk too; not every system lets a folder be synced."""
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
