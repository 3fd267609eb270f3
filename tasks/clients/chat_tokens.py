"""Chats as the token ids of a model's own template, and its answers back as text."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.errors import ArtifactError
from tasks.prompts import chat
from tasks.runtimes import hf_model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_OPEN_THOUGHT = re.compile(r"<think(?:ing)?>\s*$")


@dataclass
class Prompts:
    """One model folder's way to write a chat."""

    folder: Path
    tokenizer: PreTrainedTokenizerBase
    context_tokens: int
    """Longest prompt and answer together."""

    @classmethod
    def of(cls, folder: Path, max_tokens: int | None = None) -> Prompts:
        """Read tokenizer and context of a folder; `max_tokens` lowers the context."""
        with hf_model.quiet():
            tokenizer = hf_model.load_tokenizer(folder)
        limits = [one for one in (hf_model.own_context_tokens(folder), max_tokens) if one]
        if not limits:
            raise ArtifactError(
                f"model: config.json of {folder.name} does not say its context. Set generate.vllm.max_model_len_tokens."
            )
        return cls(folder, tokenizer, min(limits))

    @cached_property
    def stop_ids(self) -> list[int]:
        """Every id that ends an answer."""
        path = self.folder / "generation_config.json"
        return chat.stop_ids(self.tokenizer, json.loads(path.read_text("utf-8")) if path.is_file() else {})

    def render(self, messages: Sequence[dict[str, str]], thinking: bool | None = None) -> tuple[list[int], str]:
        """(ids of the chat up to the answer, the think tag that the template has opened, or nothing).

        `thinking` as in chat_template.thinking_switch. A template that opens the model's thoughts hides their beginning from
        the answer; without it they look like the answer.
        """
        text = chat.messages_text(self.tokenizer, messages, thinking)
        opened = _OPEN_THOUGHT.search(text)
        return chat.text_ids(self.tokenizer, text), opened.group() if opened else ""

    def decode(self, ids: Sequence[int]) -> str:
        """Text with every special token written out, so that a check can see it."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=False)

    def room_tokens(self, ids: Sequence[int]) -> int:
        """Longest answer that the context leaves to a prompt; 0 where it leaves none."""
        return max(0, self.context_tokens - len(ids))
