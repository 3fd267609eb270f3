"""A chat that is asked of a model, the answer that comes, and whatever answers: one form for every engine."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Protocol

from tasks.core.artifact import canonical_json

_UNABLE = (
    r"(?:can(?:no|['’])?t|cannot|won['’]t|will not|am (?:not able|unable) to|['’]m (?:not able|unable) to|must decline)"
)
_DEEDS = (
    r"(?:help|assist|comply|provide|write|create|generate|produce|fulfil|complete|continue|answer|do (?:that|this))"
)
_REFUSAL = re.compile(
    rf"^\W*(?:(?:I['’]m|I am) sorry\b|Sorry,|As an AI\b|I {_UNABLE}(?: to)? {_DEEDS}\b|I['’]m (?:not able|unable) to {_DEEDS}\b)",
    re.IGNORECASE,
)
"""How refusals open. A trace may well say "I cannot tell": what is refused must be a deed."""
_OWN_THOUGHTS = re.compile(r"^(?:\s*<think(?:ing)?>|(?!.*<think(?:ing)?>)).*?</think(?:ing)?>", re.DOTALL)
"""A block of thoughts in front; where the model's template opened it, only its end is in the answer."""


@dataclass(frozen=True)
class Ask:
    """One prompt as it is sent. All of it shapes the answer, so all of it is in `digest`."""

    where: str
    """Base URL, or the digest of a local model's files."""
    model: str
    messages: tuple[dict[str, str], ...]
    max_tokens: int
    temperature: float | None = None
    """None leaves it to the server."""
    thinking: bool | None = None
    """As in chat_template.thinking_switch; None leaves it to the model's template."""
    response_format: dict | None = None
    """What the server is told to hold its answer to, as it is sent; None asks for plain text. A local model ignores it."""
    seed: int | None = None
    """What a sampled answer is drawn with; None where nothing is drawn, or the server chooses."""

    @cached_property
    def digest(self) -> str:
        """sha256 of model, prompt and sampling settings."""
        parts = asdict(self)
        for name in ("thinking", "response_format", "seed"):
            if parts[name] is None:  # logs of answers without one stay good
                del parts[name]
        return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


NO_ROOM = "context_length_exceeded"
"""The finish_reason of a prompt that no answer was begun for: the two do not fit into the model's context together."""


@dataclass(frozen=True)
class Answer:
    """One answer as it came, good or bad."""

    text: str
    finish_reason: str
    """As the server has it: "stop", "length", "content_filter", ...; NO_ROOM where it took no such prompt."""
    refusal: str = ""
    """What the server says of a refusal, where it tells one apart."""
    hidden_chars: int = 0
    """Characters of reasoning that came in a channel of their own."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    token_ids: tuple[int, ...] = ()
    """The generated tokens without the one that ended them; empty where the server gives text only."""
    thoughts: str = ""
    """The hidden reasoning, where the server shows it."""

    @classmethod
    def without_room(cls, why: str) -> Answer:
        """What stands for the answer where prompt and answer do not fit into the context; `why` in the server's words."""
        return cls("", NO_ROOM, why)

    @classmethod
    def too_long(cls, prompt_tokens: int, context_tokens: int) -> Answer:
        """The same for a model of our own."""
        return cls.without_room(f"the prompt has {prompt_tokens:,} tokens, the context {context_tokens:,}")

    @property
    def no_room(self) -> bool:
        """Nothing was begun, so nothing was paid: more room in the server may change it, more allowed tokens cannot."""
        return self.finish_reason == NO_ROOM

    @property
    def said(self) -> str:
        """The text without a block of the model's own thoughts in front."""
        return _OWN_THOUGHTS.sub("", self.text, count=1).strip()

    @property
    def trouble(self) -> str:
        """Why nothing can be made of it, as `kind: detail`; empty when something may."""
        if self.no_room:
            return f"no room: prompt and answer do not fit the model's context: {self.refusal[:200]}"
        if self.finish_reason == "length":
            return f"truncated: cut off after {self.completion_tokens or 'all allowed'} tokens, before it was finished"
        if self.refusal or self.finish_reason == "content_filter":
            return f"refusal: {self.refusal[:120] or 'the content filter held the answer back'}"
        if not self.said:
            thought = self.hidden_chars or len(self.text.strip())
            return f"empty: no answer{f', only {thought:,} characters of hidden reasoning' if thought else ''}"
        return f"refusal: {self.said[:120]!r}" if _REFUSAL.search(self.said) else ""


LOADED = "loaded_s"
"""Among the numbers of `alive`: the model is ready now, so many seconds after its start; speed is counted from here."""


class Source(Protocol):
    """Whatever answers chats."""

    def answers(self, asks: Sequence[Ask], alive: Callable[[dict], None]) -> Iterator[tuple[Ask, Answer]]:
        """Each answer as it comes, in any order; `alive` is called with numbers while none comes."""
