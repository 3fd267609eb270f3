"""Prompts asked of a teacher until they are answered or out of attempts, and the lines in which the answers are kept."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from tasks.clients.engine_choice import Answerer, AnsweringConfig
from tasks.clients.harmony import ChannelReader
from tasks.clients.requests import Answer, Ask
from tasks.clients.response_log import AnswerLog, answer_in_rounds
from tasks.core.artifact import canonical_json
from tasks.core.child import Beat
from tasks.distillation.contamination import needs_more_room, reason_against

ANSWERS, REFUSED = "answers.jsonl", "refused.jsonl"
_KEPT = ("text", "finish_reason", "refusal", "hidden_chars", "prompt_tokens", "completion_tokens")


@dataclass
class Prompt:
    """One prompt on its way to an answer."""

    row: int
    """Its line in train.jsonl, from 1."""
    messages: tuple[dict[str, str], ...]
    max_tokens: int
    answer: Answer | None = None
    """The last one, as it came; the one before where there was no room for another."""
    attempts: int = 0
    room_tokens: int | None = None
    """What the model's context leaves to the answer; None where the source settles it."""

    @property
    def limit_tokens(self) -> int:
        """The room that the answer really has: it shapes the answer, so it is what is asked for."""
        return self.max_tokens if self.room_tokens is None else min(self.max_tokens, self.room_tokens)

    @property
    def digest(self) -> str:
        return prompt_digest(self.messages)


def prompt_digest(messages: Sequence[dict[str, str]]) -> str:
    """sha256 of a chat as it is sent."""
    return hashlib.sha256(canonical_json(list(messages)).encode()).hexdigest()


def ask_all(
    config: AnsweringConfig, prompts: list[Prompt], answerer: Answerer, log: AnswerLog, beat: Beat, *, ask: bool = True
) -> Counter[str]:
    """Give every prompt its answer; returns the tokens of all answers, those that were asked again included.

    `ask` False asks nobody: the log must do.
    """
    if answerer.room_tokens:
        for one in prompts:
            one.room_tokens = answerer.room_tokens(one.messages)

    def unfinished(sent: list[Prompt], asks: list[Ask], answers: list[Answer]) -> list[Prompt]:
        for prompt, answer in zip(sent, answers, strict=True):
            prompt.attempts += 1
            prompt.max_tokens *= 2
            if prompt.answer is None or not answer.no_room:  # refused more tokens, it keeps the answer before
                prompt.answer = answer
        return [
            prompt
            for prompt, ask, answer in zip(sent, asks, answers, strict=True)
            if prompt.limit_tokens > ask.max_tokens and needs_more_room(_read(answerer.reader, answer))
        ]

    source = answerer.source if ask else None
    spent = answer_in_rounds(
        prompts, config.attempts, lambda prompt: _ask(config, answerer, prompt), unfinished, log, source, beat
    )
    del spent["requests"]
    return spent


def _ask(config: AnsweringConfig, answerer: Answerer, one: Prompt) -> Ask:
    seed = config.sampling_seed(one.digest)
    return Ask(
        where=answerer.where,
        model=answerer.name,
        messages=one.messages,
        max_tokens=one.limit_tokens,
        temperature=config.temperature,
        thinking=config.thinking,
        seed=seed,
    )


def _read(reader: ChannelReader | None, answer: Answer) -> Answer:
    return reader.read(answer) if reader else answer


def line_of(one: Prompt, reader: ChannelReader | None) -> dict:
    """A line of answers.jsonl; token ids only of a model that speaks in channels, whose parser can be asked again."""
    assert one.answer is not None, "lines are written once every prompt has its answer"
    fields = asdict(_read(reader, one.answer))
    ids = {"token_ids": list(fields["token_ids"])} if reader else {}
    problem = reader.channels(one.answer).problem if reader else ""
    kept = {name: fields[name] for name in _KEPT}
    return {"row": one.row, "prompt_digest": one.digest, **kept, "attempts": one.attempts, "problem": problem, **ids}


def answer_of(line: dict) -> Answer:
    """The answer in a line of answers.jsonl."""
    return Answer(**{name: line[name] for name in _KEPT}, token_ids=tuple(line.get("token_ids", ())))


def refusal_of(line: dict, keeps_trace: bool) -> dict | None:
    """A line of refused.jsonl; None where nothing speaks against the answer."""
    reason = reason_against(answer_of(line), keeps_trace, line["problem"])
    return {"row": line["row"], "reason": reason, "text": line["text"]} if reason else None


def kinds(reasons: Sequence[str]) -> dict[str, int]:
    """Kind of each reason -> how many, the most frequent first."""
    return dict(Counter(one.partition(":")[0] for one in reasons).most_common())
