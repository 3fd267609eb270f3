"""A model on this disk that answers chats in this process: a GGUF file, or a folder that transformers loads."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from tasks.clients.requests import Answer, Ask
from tasks.core.artifact import canonical_json, hash_folder, sha256_file
from tasks.core.progress import Beat
from tasks.runtimes.greedy_model import open_model


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
            ArtifactError: the model cannot be loaded, or its template refuses a prompt.
        """
        if not asks:
            return
        with open_model(self.path, keep_header=True) as model:
            prompts = [model.tokenize(model.render(ask.messages, ask.thinking)) for ask in asks]
            fitting, others = _parted(asks, prompts, model.context_tokens)
            yield from others
            for limit_tokens, batch in _batches(fitting, self._batch_rows):
                made = model.generate([ids for _, ids, _ in batch], limit_tokens, self._batch_rows, _tokens(alive))
                yield from _as_answers(batch, made)


def _tokens(alive: Callable[[dict], None]) -> Beat:
    """A batch's tokens so far as a sign of life between its answers."""
    return lambda tokens, _total, _numbers: alive({"tokens": tokens})


def local_identity(path: Path) -> str:
    """sha256 of what a local model is made of: another file under the same name is another teacher."""
    return (
        sha256_file(path) if path.is_file() else hashlib.sha256(canonical_json(hash_folder(path)).encode()).hexdigest()
    )


_Sent = tuple[Ask, list[int], int]
"""An ask, its prompt in token ids, and the longest answer that it may get, in tokens."""


def _parted(
    asks: Sequence[Ask], prompts: Sequence[list[int]], context_tokens: int | None
) -> tuple[list[_Sent], list[tuple[Ask, Answer]]]:
    """The asks that have room in the context, and what stands for the answers of the others."""
    fitting, others = [], []
    for ask, ids in zip(asks, prompts, strict=True):
        room = ask.max_tokens if context_tokens is None else min(ask.max_tokens, context_tokens - len(ids))
        if room > 0:
            fitting.append((ask, ids, room))
        else:
            others.append((ask, Answer.too_long(len(ids), context_tokens or 0)))
    return fitting, others


def _batches(fitting: Sequence[_Sent], rows: int) -> Iterator[tuple[int, list[_Sent]]]:
    """(limit, asks): runs of asks with the same limit, in order."""
    for limit_tokens, run in groupby(fitting, key=itemgetter(2)):
        some = list(run)
        for start in range(0, len(some), rows):
            yield limit_tokens, some[start : start + rows]


def _as_answers(batch: Sequence[_Sent], made: list) -> Iterator[tuple[Ask, Answer]]:
    for (ask, ids, _), one in zip(batch, made, strict=True):
        reason = "length" if one.stopped == "length" else "stop"
        yield (
            ask,
            Answer(
                one.text,
                reason,
                prompt_tokens=len(ids),
                completion_tokens=len(one.ids),
                token_ids=tuple(one.ids),
            ),
        )
