"""A GGUF file as a model: tokens, rendered chats, logits and fast greedy answers, through the llama.cpp that users run.

`generate` keeps many sequences in one decode call; `logits` scores every position of one. Nothing here samples.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_contracts.errors import ArtifactError
from tasks.core.progress import Beat, silent
from tasks.prompts.chat_template import render_template, thinking_switch
from tasks.runtimes.generation import Generation, is_small, token_beat
from tasks.runtimes.llama_binding import complaints, decode, forget_complaints, llama_api
from tasks.runtimes.llama_decode import BatchedRun, shared_prefix_tokens

if TYPE_CHECKING:
    import numpy as np


def _threads_for(path: Path) -> int:
    return 1 if is_small(path) else max(1, os.cpu_count() or 1)


class LlamaEngine:
    """Opens a GGUF; use it in a `with` block. `n_ctx` is the context of one sequence, 0 the one the file was made for.

    Raises:
        ArtifactError: the file is missing, truncated, damaged, or of a kind that this llama.cpp cannot run.
    """

    def __init__(self, path: Path | str, *, n_ctx: int = 0, n_threads: int = 0, n_batch: int = 512) -> None:
        self.path = Path(path)
        self._threads = n_threads or _threads_for(self.path)
        self._batch_tokens = n_batch
        self._model: Any = None
        if not self.path.is_file():
            raise ArtifactError(
                f"llama: there is no file {self.path.name} in {self.path.parent.name}. Export the model again."
            )
        api = llama_api()
        params = api.llama_model_default_params()
        params.check_tensors = True
        forget_complaints()
        self._model = api.llama_model_load_from_file(str(self.path).encode(), params)
        if not self._model:
            raise ArtifactError(
                f"llama: {self.path.name} ({self.path.stat().st_size:,} bytes) cannot be loaded. "
                f"llama.cpp says: {complaints()}. "
                "The file is truncated, damaged, or of a type that this llama.cpp does not know; export it again."
            )
        self._vocab = api.llama_model_get_vocab(self._model)
        self.vocab_size: int = api.llama_vocab_n_tokens(self._vocab)
        self.trained_context_tokens: int = api.llama_model_n_ctx_train(self._model)
        self.eos_id: int = api.llama_vocab_eos(self._vocab)
        self.context_tokens = n_ctx or self.trained_context_tokens

    def __enter__(self) -> LlamaEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the memory back; the engine is of no use afterwards."""
        if self._model:
            llama_api().llama_model_free(self._model)
            self._model = None

    @cached_property
    def metadata(self) -> dict[str, str]:
        """Every scalar key of the GGUF header, as text."""
        api = llama_api()

        def text(read: Callable, index: int) -> str:
            buffer = ctypes.create_string_buffer(max(0, read(self._model, index, None, 0)) + 1)
            read(self._model, index, buffer, len(buffer))
            return buffer.value.decode("utf-8", "replace")

        return {
            text(api.llama_model_meta_key_by_index, i): text(api.llama_model_meta_val_str_by_index, i)
            for i in range(api.llama_model_meta_count(self._model))
        }

    def tokenize(self, text: str, parse_special: bool = True) -> list[int]:
        """Token ids of a text, nothing added in front. `parse_special=False` reads special tokens as characters."""
        api, raw = llama_api(), text.encode("utf-8")
        size = len(raw) + 8
        for _ in range(2):
            buffer = (api.llama_token * size)()
            found = api.llama_tokenize(self._vocab, raw, len(raw), buffer, size, False, parse_special)
            if found >= 0:
                return list(buffer[:found])
            size = -found
        raise ArtifactError(
            f"llama: {self.path.name} could not tokenize a text of {len(raw)} bytes. Check the vocabulary."
        )

    def detokenize(self, ids: list[int]) -> str:
        """The text of token ids, special tokens written out."""
        api, size = llama_api(), 16 * len(ids) + 64
        tokens = (api.llama_token * len(ids))(*ids)
        for _ in range(2):
            buffer = ctypes.create_string_buffer(size)
            found = api.llama_detokenize(self._vocab, tokens, len(ids), buffer, size, False, True)
            if found >= 0:
                return buffer.raw[:found].decode("utf-8", "replace")
            size = -found
        raise ArtifactError(
            f"llama: {self.path.name} could not turn {len(ids)} tokens into text. Check the vocabulary."
        )

    def render_chat(
        self, messages: list[dict[str, str]], add_generation_prompt: bool = True, thinking: bool | None = None
    ) -> str:
        """A conversation as the template inside the GGUF writes it; `thinking` as in chat_template.thinking_switch."""
        api = llama_api()
        template = self.metadata.get("tokenizer.chat_template")
        if not template:
            raise ArtifactError(
                f"llama: {self.path.name} carries no chat template. Export a model whose tokenizer has one."
            )
        tokens = {
            name: (api.llama_vocab_get_text(self._vocab, token) or b"").decode("utf-8", "replace") if token >= 0 else ""
            for name, token in (("bos_token", api.llama_vocab_bos(self._vocab)), ("eos_token", self.eos_id))
        }
        values = {"messages": messages, "add_generation_prompt": add_generation_prompt, **thinking_switch(thinking)}
        return render_template(template, **values, **tokens)

    def logits(self, ids: list[int]) -> np.ndarray:
        """Logits (tokens, vocab) float32 of every position of one sequence."""
        import numpy as np

        self._refuse_too_long(len(ids))
        out = np.empty((len(ids), self.vocab_size), np.float32)
        with self._context(len(ids), sequences=1) as context:
            for start in range(0, len(ids), self._batch_tokens):
                part = ids[start : start + self._batch_tokens]
                entries = [(token, start + i, 0, True) for i, token in enumerate(part)]
                out[start : start + len(part)] = decode(context, entries, self.vocab_size)
        return out

    def generate(
        self,
        prompts: list[list[int]],
        max_new_tokens: int,
        stop_ids: Collection[int] | None = None,
        beat: Beat = silent,
        *,
        slots: int = 32,
    ) -> list[Generation]:
        """Greedy answers in the order of the prompts, `slots` sequences at a time in one decode call.

        A prefix that all prompts share is decoded once and copied. `stop_ids` defaults to the file's EOS.
        `beat`: each decode call, by tokens so far.
        """
        if not prompts:
            return []
        if empty := sum(not prompt for prompt in prompts):
            raise ArtifactError(f"llama: {empty} of {len(prompts)} prompts are empty. Nothing can follow nothing.")
        longest = max(map(len, prompts))
        self._refuse_too_long(longest + 1)
        per_sequence = min(self.context_tokens, longest + max_new_tokens)
        shared = shared_prefix_tokens(prompts)
        slots = min(slots, len(prompts), self._batch_tokens)
        most_tokens = sum(min(max_new_tokens, per_sequence - len(prompt)) for prompt in prompts)
        with self._context(per_sequence, sequences=slots + bool(shared)) as context:
            run = BatchedRun(
                context,
                prompts,
                slots=slots,
                shared_tokens=shared,
                max_new_tokens=max_new_tokens,
                context_tokens=per_sequence,
                batch_tokens=self._batch_tokens,
                vocab_size=self.vocab_size,
            )
            produced = run.answers({self.eos_id} if stop_ids is None else set(stop_ids), token_beat(beat, most_tokens))
        return [Generation(ids, self.detokenize(ids), stopped) for ids, stopped in produced]

    def _refuse_too_long(self, tokens: int) -> None:
        if tokens > self.context_tokens:
            raise ArtifactError(
                f"llama: a prompt needs {tokens} tokens and the context of {self.path.name} is {self.context_tokens}. "
                "Shorten the prompt or open the file with a larger context; it is never cut silently."
            )

    @contextmanager
    def _context(self, tokens: int, sequences: int) -> Iterator[Any]:
        """A llama.cpp context with room for `tokens` in each of `sequences`.

        Each sequence has its own stream of the KV cache: in one unified buffer a token attends, masked, over the cells
        of all sequences, which is slower and lets an answer depend on its neighbours' place in the buffer. Flash
        attention is off, as in llama_cpp.server: on a CPU it sums in float16 and was slower in every setting tried.
        """
        api = llama_api()
        params = api.llama_context_default_params()
        padded = -(-tokens // 256) * 256
        params.n_ctx, params.n_seq_max, params.kv_unified = padded * sequences, sequences, sequences == 1
        params.n_batch = params.n_ubatch = self._batch_tokens
        params.n_threads = params.n_threads_batch = self._threads
        params.flash_attn_type = api.LLAMA_FLASH_ATTN_TYPE_DISABLED
        forget_complaints()
        context = api.llama_init_from_model(self._model, params)
        if not context:
            raise ArtifactError(
                f"llama: no context of {sequences} x {padded} tokens for {self.path.name}: {complaints()}. "
                "Use fewer slots or a shorter context."
            )
        try:
            yield context
        finally:
            api.llama_free(context)
