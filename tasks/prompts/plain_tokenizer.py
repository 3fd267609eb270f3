"""A model folder's tokenizer and chat template by the small libraries behind transformers: in milliseconds, without torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from data_contracts.errors import ConfigError
from tasks.prompts.chat_template import render_template, template_of

_FILES = ("tokenizer.json", "tokenizer_config.json")


class PlainTokenizer:
    """What prompts/chat.py asks of a tokenizer; the ids and texts are those of transformers (tested on hard text).

    Raises:
        ConfigError: the folder lacks a file, its chat template, or an end token.
    """

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        if missing := [name for name in _FILES if not (folder / name).is_file()]:
            raise ConfigError(
                f"tokenizer: {folder} lacks {' and '.join(missing)}. Give the folder of a model in the transformers format."
            )
        config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
        named = {name: _text(config.get(name)) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
        self._named = {name: text for name, text in named.items() if text is not None}
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.chat_template = template_of(folder)
        self.eos_token_id = self._tokenizer.token_to_id(self._named.get("eos_token", ""))
        if not self.chat_template or self.eos_token_id is None:
            lacking = "end token that its vocabulary knows" if self.chat_template else "chat template"
            raise ConfigError(f"tokenizer: {folder} has no {lacking}. Give the folder of an instruct model.")

    def apply_chat_template(
        self, messages: Sequence[dict], tokenize: bool = False, add_generation_prompt: bool = False, **switch: bool
    ) -> str:
        """The chat as text; as transformers does with `tokenize=False`."""
        values = {**self._named, "messages": list(messages), "add_generation_prompt": add_generation_prompt}
        return render_template(str(self.chat_template), **values, **switch)

    def __call__(self, text: str, add_special_tokens: bool = False) -> dict[str, list[int]]:
        return {"input_ids": self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids}

    def decode(self, ids: Sequence[int]) -> str:
        """Text with every special token written out."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)


def _text(token: str | dict | None) -> str | None:
    return token["content"] if isinstance(token, dict) else token
