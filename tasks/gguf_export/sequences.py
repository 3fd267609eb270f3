"""The token sequences on which logits are compared."""

from __future__ import annotations


def parity_sequences(
    chats: list[list[int]], lengths: list[int], context_tokens: int, chat_count: int
) -> list[list[int]]:
    """Token sequences to compare on: the first chats as they are, and runs of chats cut at each of `lengths`.

    Both are clipped to the model's context; a run starts over when there are too few chats to fill it.
    """
    chats = [ids for ids in chats if ids]
    if not chats:
        return []
    sequences = [ids[:context_tokens] for ids in chats[:chat_count]]
    for length in sorted({min(length, context_tokens) for length in lengths}):
        run: list[int] = []
        while len(run) < length:
            for ids in chats:
                run += ids
                if len(run) >= length:
                    break
        sequences.append(run[:length])
    return sequences
