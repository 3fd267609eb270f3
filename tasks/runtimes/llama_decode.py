"""Greedy decoding of many prompts at once: one decode call advances every sequence in flight by a token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tasks.runtimes.llama_binding import Entry, decode, llama_api

if TYPE_CHECKING:
    import numpy as np

_MIN_SHARED_PREFIX_TOKENS = 16
"""Below this, copying a shared prompt prefix between sequences costs more than decoding it again."""


@dataclass
class _Slot:
    """One sequence in flight."""

    prompt: int
    pending: list[int]
    """Tokens that wait to be decoded: the rest of the prompt, later the last token produced."""
    position: int
    room_tokens: int


class BatchedRun:
    """Greedy decoding of many prompts over a fixed number of slots; a slot whose answer ended takes the next prompt."""

    def __init__(
        self,
        context: Any,
        prompts: list[list[int]],
        *,
        slots: int,
        shared_tokens: int,
        max_new_tokens: int,
        context_tokens: int,
        batch_tokens: int,
        vocab_size: int,
    ) -> None:
        self._context, self._prompts, self._shared = context, prompts, shared_tokens
        self._max_new_tokens, self._context_tokens = max_new_tokens, context_tokens
        self._batch_tokens, self._vocab_size = batch_tokens, vocab_size
        self._slots: list[_Slot | None] = [None] * slots
        self._waiting = list(range(len(prompts)))[::-1]
        self._answers: list[list[int]] = [[] for _ in prompts]
        self._stopped: list[Literal["eos", "length"]] = ["length"] * len(prompts)

    def answers(
        self, stop_ids: set[int], say: Callable[[int], None]
    ) -> list[tuple[list[int], Literal["eos", "length"]]]:
        """Token ids and why each ended, in the order of the prompts; `say`: each decode call, by tokens so far."""
        tokens = 0
        if self._shared:
            prefix = [(token, at, len(self._slots), False) for at, token in enumerate(self._prompts[0][: self._shared])]
            for start in range(0, len(prefix), self._batch_tokens):
                self._decode(prefix[start : start + self._batch_tokens])
        while self._refill():
            entries, speakers = self._next_batch()
            logits = self._decode(entries)
            for index, token in zip(speakers, logits.argmax(axis=1).tolist() if speakers else [], strict=True):
                self._take(index, token, stop_ids)
                tokens += 1
            say(tokens)
        return list(zip(self._answers, self._stopped, strict=True))

    def _decode(self, entries: list[Entry]) -> np.ndarray:
        return decode(self._context, entries, self._vocab_size)

    def _refill(self) -> bool:
        """Give waiting prompts to free slots; say whether any slot has work."""
        api = llama_api()
        memory = api.llama_get_memory(self._context)
        for index, slot in enumerate(self._slots):
            if slot is None and self._waiting:
                prompt = self._waiting.pop()
                ids = self._prompts[prompt]
                api.llama_memory_seq_rm(memory, index, -1, -1)
                if self._shared:
                    api.llama_memory_seq_cp(memory, len(self._slots), index, -1, -1)
                room = min(self._max_new_tokens, self._context_tokens - len(ids))
                self._slots[index] = _Slot(prompt, ids[self._shared :], self._shared, room)
        return any(self._slots)

    def _next_batch(self) -> tuple[list[Entry], list[int]]:
        """Fill one decode call: sequences that speak first, then prompts as far as there is room."""
        entries: list[Entry] = []
        speakers: list[int] = []
        busy = [(len(slot.pending), index, slot) for index, slot in enumerate(self._slots) if slot]
        for _, index, slot in sorted(busy, key=lambda entry: entry[:2]):
            part = slot.pending[: self._batch_tokens - len(entries)]
            if not part:
                break
            slot.pending = slot.pending[len(part) :]
            entries += [(token, slot.position + i, index, False) for i, token in enumerate(part)]
            slot.position += len(part)
            if not slot.pending:
                entries[-1] = (*entries[-1][:3], True)
                speakers.append(index)
        return entries, speakers

    def _take(self, index: int, token: int, stop_ids: set[int]) -> None:
        """Note what a slot said; free the slot when its answer ends."""
        slot = self._slots[index]
        assert slot is not None, "only a busy slot is given a token"
        answer = self._answers[slot.prompt]
        if token in stop_ids:
            self._stopped[slot.prompt] = "eos"
        else:
            answer.append(token)
            slot.pending = [token]
        ended = token in stop_ids or len(answer) >= slot.room_tokens
        if ended:
            self._slots[index] = None


def shared_prefix_tokens(prompts: list[list[int]]) -> int:
    """Length of the prefix that all prompts share, always short of the shortest; 0 when it is not worth a copy."""
    if len(prompts) < 2:
        return 0
    first, last = min(prompts), max(prompts)  # the two that differ earliest
    limit = min(map(len, prompts)) - 1
    shared = next((i for i in range(limit) if first[i] != last[i]), limit)
    return shared if shared >= _MIN_SHARED_PREFIX_TOKENS else 0
