"""A model on this disk that answers chats in this process: a GGUF file, or a folder that transformers loads."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tasks.core.artifact import canonical_json, hash_folder, sha256_file
from tasks.engines.asks import Answer, Ask
from tasks.engines.chat_template import thinking_switch


class LocalChat:
    """A GGUF file, or a folder that transformers loads, answering greedily; use it in a `with` block."""

    def __init__(self, path: Path, batch_rows: int = 8) -> None:
        self.path, self._batch_rows = path, batch_rows

    def __enter__(self) -> LocalChat:
        return self

    def __exit__(self, *_: object) -> None:
        """The model goes with the iteration that loaded it."""

    def answers(self, asks: Sequence[Ask], alive: Callable[[dict], None]) -> Iterator[tuple[Ask, Answer]]:
        """Batch by batch, so that a crash loses one batch.

        Raises:
            ArtifactError: the model cannot be loaded, or a prompt does not fit its context.
        """
        if not asks:
            return
        ask_gguf = self.path.suffix == ".gguf"
        yield from (self._ask_llama if ask_gguf else self._ask_transformers)(asks, alive)

    def _ask_llama(self, asks: Sequence[Ask], alive: Callable[[dict], None]) -> Iterator[tuple[Ask, Answer]]:
        from tasks.engines.llama_engine import LlamaEngine

        with LlamaEngine(self.path) as engine:
            for batch in _batches(asks, self._batch_rows):
                prompts = [
                    engine.tokenize(engine.render_chat(list(ask.messages), thinking=ask.thinking)) for ask in batch
                ]
                made = engine.generate(prompts, batch[0].max_tokens, progress=lambda _d, _t, numbers: alive(numbers))
                yield from _as_answers(batch, prompts, made)

    def _ask_transformers(self, asks: Sequence[Ask], alive: Callable[[dict], None]) -> Iterator[tuple[Ask, Answer]]:
        from tasks.core.math_kernels import settle_math_kernels
        from tasks.engines import chat, hf_engine

        settle_math_kernels()
        with hf_engine.quiet():
            tokenizer = hf_engine.load_tokenizer(self.path)
            dtype = "float32" if hf_engine.best_device() == "cpu" else "bfloat16"
            model = hf_engine.load_model(self.path, dtype)
        stops = chat.stop_ids(tokenizer, model.generation_config.to_dict())
        for batch in _batches(asks, self._batch_rows):
            rendered = [
                tokenizer.apply_chat_template(
                    list(ask.messages), tokenize=False, add_generation_prompt=True, **thinking_switch(ask.thinking)
                )
                for ask in batch
            ]
            prompts = [chat.text_ids(tokenizer, text) for text in rendered]
            made = hf_engine.generate(model, tokenizer, prompts, batch[0].max_tokens, stops)
            alive({})
            yield from _as_answers(batch, prompts, made)


def local_identity(path: Path) -> str:
    """sha256 of what a local model is made of: another file under the same name is another teacher."""
    return (
        sha256_file(path) if path.is_file() else hashlib.sha256(canonical_json(hash_folder(path)).encode()).hexdigest()
    )


def _batches(asks: Sequence[Ask], rows: int) -> Iterator[list[Ask]]:
    """Runs of asks with the same limit, in order."""
    batch: list[Ask] = []
    for ask in asks:
        if batch and (len(batch) == rows or ask.max_tokens != batch[0].max_tokens):
            yield batch
            batch = []
        batch.append(ask)
    if batch:
        yield batch


def _as_answers(batch: list[Ask], prompts: list[list[int]], made: list) -> Iterator[tuple[Ask, Answer]]:
    for ask, prompt, one in zip(batch, prompts, made, strict=True):
        reason = "length" if one.stopped == "length" else "stop"
        counts = {"prompt_tokens": len(prompt), "completion_tokens": len(one.ids)}
        yield ask, Answer(one.text, reason, **counts, token_ids=tuple(one.ids))
