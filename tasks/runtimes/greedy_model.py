"""A model on this disk that answers greedily: a folder that transformers loads, an adapter on top of it, or a GGUF file.

Both render, tokenise and stop as the model's own files say. Whoever needs answers of a local model takes them from here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tasks.core.math_kernels import settle_math_kernels
from tasks.core.progress import Beat, silent
from tasks.prompts import chat
from tasks.runtimes import hf_model
from tasks.runtimes.generation import Generation
from tasks.runtimes.llama_model import LlamaEngine

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel

_FOLDER_BATCH_ROWS, _GGUF_BATCH_ROWS = 64, 32
"""Prompts answered at once, where a caller leaves it open."""


class GreedyModel(Protocol):
    """What both kinds of file can do."""

    @property
    def context_tokens(self) -> int | None:
        """Longest prompt and answer together; None where the files do not say."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """The header of a GGUF file; empty for a folder."""

    def load(self) -> None:
        """Have the weights in memory before the first answer: for whoever measures time."""

    def render(self, messages: Sequence[dict[str, str]], thinking: bool | None = None) -> str:
        """A chat up to where the answer begins, by the model's own template; `thinking` as in chat_template.thinking_switch."""

    def tokenize(self, text: str) -> list[int]:
        """Ids of rendered text."""

    def logits(self, ids: list[int]) -> np.ndarray:
        """Teacher-forced logits (tokens, vocab) float32 of one sequence."""

    def generate(
        self, prompts: list[list[int]], limit_tokens: int, batch_rows: int | None = None, beat: Beat = silent
    ) -> list[Generation]:
        """Greedy answers in the order of the prompts, `batch_rows` at once."""


@contextmanager
def open_model(
    path: Path, dtype: str | None = None, adapter: Path | None = None, *, keep_header: bool = False
) -> Iterator[GreedyModel]:
    """The model in `path`. `dtype`: of a folder's computation; float32 on a CPU, bfloat16 on a card when left out.
    `keep_header`: for whoever parses the channels of a folder's answers; elsewhere a channel's header in front is left out.

    Raises:
        ArtifactError: it cannot be loaded.
    """
    if path.suffix == ".gguf":
        with LlamaEngine(path) as engine:
            yield _Gguf(engine)
    else:
        yield FolderModel(path, dtype, adapter, keep_header=keep_header)


class FolderModel:
    """A folder that transformers loads. The tokenizer is read at once, the weights with the first answer: a chat that does
    not fit the context needs none."""

    metadata: Mapping[str, str] = {}

    def __init__(
        self,
        path: Path,
        dtype: str | None = None,
        adapter: Path | None = None,
        *,
        keep_header: bool = False,
        beat: Beat = silent,
    ) -> None:
        """`beat`: each tensor, while the weights are loaded."""
        settle_math_kernels()
        self._path, self._adapter, self._keep_header, self._beat = path, adapter, keep_header, beat
        self._dtype = dtype or ("float32" if hf_model.best_device() == "cpu" else "bfloat16")
        with hf_model.quiet():
            self.tokenizer = hf_model.load_tokenizer(path)
        self.context_tokens = hf_model.own_context_tokens(path)

    @cached_property
    def model(self) -> PreTrainedModel:
        with hf_model.quiet():
            return hf_model.load_model(self._path, self._dtype, self._adapter, self._beat)

    def load(self) -> None:
        _ = self.model

    def render(self, messages: Sequence[dict[str, str]], thinking: bool | None = None) -> str:
        return chat.messages_text(self.tokenizer, messages, thinking)

    def tokenize(self, text: str) -> list[int]:
        return chat.text_ids(self.tokenizer, text)

    def logits(self, ids: list[int]) -> np.ndarray:
        return hf_model.logits(self.model, ids).numpy()

    def generate(
        self, prompts: list[list[int]], limit_tokens: int, batch_rows: int | None = None, beat: Beat = silent
    ) -> list[Generation]:
        stops = chat.stop_ids(self.tokenizer, self.model.generation_config.to_dict())
        header = "" if self._keep_header else chat.answer_header(self.tokenizer)
        made = hf_model.generate(
            self.model, self.tokenizer, prompts, limit_tokens, stops, batch_rows or _FOLDER_BATCH_ROWS, beat
        )
        return [replace(answer, text=answer.text.removeprefix(header)) for answer in made]


class _Gguf:
    """By the file's own chat template, tokenizer and end token."""

    def __init__(self, engine: LlamaEngine) -> None:
        self._engine = engine
        self.context_tokens: int | None = engine.context_tokens
        self.metadata: Mapping[str, str] = engine.metadata

    def load(self) -> None:
        """The file was loaded when it was opened."""

    def render(self, messages: Sequence[dict[str, str]], thinking: bool | None = None) -> str:
        return self._engine.render_chat(list(messages), thinking=thinking)

    def tokenize(self, text: str) -> list[int]:
        return self._engine.tokenize(text)

    def logits(self, ids: list[int]) -> np.ndarray:
        return self._engine.logits(ids)

    def generate(
        self, prompts: list[list[int]], limit_tokens: int, batch_rows: int | None = None, beat: Beat = silent
    ) -> list[Generation]:
        return self._engine.generate(prompts, limit_tokens, beat=beat, slots=batch_rows or _GGUF_BATCH_ROWS)
