"""Answers in channels (gpt-oss, "harmony"): what was said to the user, and how much was only thought.

A chat in this format is a run of messages `<|start|>role<|channel|>name<|message|>text<|end|>`; the answer begins after
`<|start|>assistant` and ends on `<|return|>` or `<|call|>` (openai-harmony's documentation). The library's own parser reads
token ids wherever the model has the library's vocabulary. It fetches that vocabulary from the network; here it is written from
the model's tokenizer.json, and the library checks its sha256. Any other model with these tokens is read by `parse_marked`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tasks.clients.requests import Answer

FINAL, THOUGHTS = "final", ("analysis", "commentary")
MARKS = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>")
"""A tokenizer with all of these as special tokens speaks in channels."""
_BASE_TOKENS = 199_998
_BASE_SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
"""Size and sha256 of o200k_base.tiktoken, the vocabulary that openai-harmony is made for (as published with tiktoken)."""
_FILE = "o200k_base.tiktoken"
_HEADER = re.compile(
    r"(?:<\|start\|>assistant)?(?:<\|channel\|>(?P<channel>\w+)(?P<to> to=[\w.]+)?[^<]*)?(?:<\|constrain\|>\w+)?"
)


@dataclass(frozen=True)
class Channels:
    """One answer taken apart."""

    final: str
    thoughts_chars: int
    problem: str = ""
    """Why it is not one well-formed answer; empty when it is."""


@dataclass
class ChannelReader:
    """Reads the answers of one model."""

    encoding: Any = None
    """openai-harmony's; None where its vocabulary is not the model's, or the library is not installed."""

    @classmethod
    def of(cls, model: Path, work: Path) -> ChannelReader | None:
        """The reader for a model folder or a .gguf file; None for a model that does not speak in channels.

        `work` gets the vocabulary file of openai-harmony.
        """
        if model.is_file():
            return cls() if _gguf_has_marks(model) else None
        path = model / "tokenizer.json"
        if not path.is_file():
            return None
        tokenizer = json.loads(path.read_text("utf-8"))
        special = {one["content"]: one["id"] for one in tokenizer.get("added_tokens", ())}
        if not special.keys() >= set(MARKS):
            return None
        return cls(_encoding(tokenizer, special, work))

    @property
    def parser(self) -> str:
        """Which parser reads, for the record."""
        if self.encoding is None:
            return "plumbline's own"
        from importlib.metadata import version

        return f"openai-harmony {version('openai-harmony')}"

    def read(self, answer: Answer) -> Answer:
        """The answer with the final channel as its text, and what was only thought counted as hidden.

        One that is not well-formed keeps its text, markers and all: whoever judges it sees them.
        """
        found = self.channels(answer)
        if found.problem:
            return answer
        return replace(answer, text=found.final, hidden_chars=found.thoughts_chars)

    def channels(self, answer: Answer) -> Channels:
        """What stands in each channel."""
        if self.encoding is not None and answer.token_ids:
            return parse_ids(self.encoding, answer.token_ids)
        return parse_marked(answer.text)


def parse_ids(encoding: Any, ids: Sequence[int]) -> Channels:
    """An answer's token ids, without the one that ended it, by openai-harmony's own parser."""
    from openai_harmony import HarmonyError, Role

    try:
        messages = encoding.parse_messages_from_completion_tokens(list(ids), Role.ASSISTANT)
    except HarmonyError as error:
        return Channels("", 0, f"harmony: {' '.join(str(error).split())[:160]}")
    return _joined([(m.channel, m.recipient, "".join(part.text for part in m.content)) for m in messages])


def parse_marked(text: str) -> Channels:
    """The same from text in which the special tokens are written out. Whatever is not the documented layout is a problem."""
    messages, rest = list[tuple[str | None, str | None, str]](), text
    while rest:
        header, mark, body = rest.partition("<|message|>")
        found = _HEADER.fullmatch(header)
        if not mark or not found:
            return Channels("", 0, f"harmony: {header[:60]!r} is no message header")
        if messages and not header.startswith("<|start|>"):
            return Channels("", 0, f"harmony: a second message begins without <|start|>: {header[:60]!r}")
        content, _, rest = body.partition("<|end|>")
        messages.append((found["channel"], found["to"], content))
    return _joined(messages)


def _joined(messages: list[tuple[str | None, str | None, str]]) -> Channels:
    """One final message, after any number of thoughts."""
    finals = [text for channel, to, text in messages if channel == FINAL and not to]
    strange = [channel for channel, to, _ in messages if channel not in (FINAL, *THOUGHTS) or to]
    chars = sum(len(text) for channel, _, text in messages if channel in THOUGHTS)
    if strange:
        return Channels("", chars, f"harmony: a message in channel {strange[0]!r}, or to a tool")
    if len(finals) > 1 or (finals and messages[-1][0] != FINAL):
        return Channels("", chars, f"harmony: {len(finals)} final messages, or thoughts after the last")
    return Channels(finals[0] if finals else "", chars)


def _encoding(tokenizer: dict, special: dict[str, int], work: Path) -> Any:
    """openai-harmony's encoding, with the model's own vocabulary; None where that is not the library's."""
    try:
        import openai_harmony
    except ImportError:
        return None
    data = base_vocabulary(tokenizer)
    if hashlib.sha256(data).hexdigest() != _BASE_SHA256:
        return None
    folder = work / "harmony"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _FILE).write_bytes(data)
    with _vocabulary_in(folder):
        encoding = openai_harmony.load_harmony_encoding(openai_harmony.HarmonyEncodingName.HARMONY_GPT_OSS)
    same = all(encoding.encode(mark, allowed_special="all") == [special[mark]] for mark in MARKS)
    return encoding if same else None


@contextmanager
def _vocabulary_in(folder: Path) -> Iterator[None]:
    """The library reads this variable when it loads, and fetches from the network without it."""
    name = "TIKTOKEN_ENCODINGS_BASE"
    before = os.environ.get(name)
    os.environ[name] = str(folder)
    try:
        yield
    finally:
        os.environ.pop(name) if before is None else os.environ.update({name: before})


def base_vocabulary(tokenizer: dict) -> bytes:
    """A byte-level tokenizer.json as tiktoken's file: base64 of each token's bytes and its rank, one a line."""
    to_byte = {character: value for value, character in _byte_characters().items()}
    vocabulary = tokenizer.get("model", {}).get("vocab", {})
    ranked = sorted((rank, token) for token, rank in vocabulary.items() if rank < _BASE_TOKENS)
    try:
        raw = [(bytes(to_byte[one] for one in token), rank) for rank, token in ranked]
    except KeyError:  # not byte-level
        return b""
    return b"".join(b64encode(token) + b" " + str(rank).encode() + b"\n" for token, rank in raw)


def _byte_characters() -> dict[int, str]:
    """How byte-level tokenizers write each byte as a printable character (GPT-2's table)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def _gguf_has_marks(path: Path) -> bool:
    from tasks.runtimes.llama_model import LlamaEngine

    with LlamaEngine(path) as engine:
        return all(len(engine.tokenize(mark)) == 1 for mark in MARKS)
