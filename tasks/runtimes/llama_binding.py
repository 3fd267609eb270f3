"""The llama.cpp binding: loaded once, silent, its complaints kept for our own error messages; and one decode call."""

from __future__ import annotations

import ctypes
import threading
from collections import deque
from functools import cache
from typing import TYPE_CHECKING, Any

from data_contracts.errors import ArtifactError

if TYPE_CHECKING:
    import numpy as np

Entry = tuple[int, int, int, bool]
"""(token, position, sequence, are its logits wanted)."""

_WARN_LEVEL, _ERROR_LEVEL = 3, 4
_complaints: deque[str] = deque(maxlen=8)
_loading = threading.Lock()


def llama_api() -> Any:
    """The module `llama_cpp`, with llama.cpp's log going nowhere but into `complaints()`.

    Threads may call it first together, and `cache` alone would let each of them set a log callback of its own: C keeps the
    last one set, Python the last one stored, and when these differ the next line of the log calls freed memory.
    """
    with _loading:
        return _loaded()


@cache
def _loaded() -> Any:
    import llama_cpp

    @llama_cpp.llama_log_callback
    def keep(level: int, text: bytes, _data: Any) -> None:
        if _WARN_LEVEL <= level <= _ERROR_LEVEL and (line := text.decode("utf-8", "replace").strip()):
            _complaints.append(line)

    llama_cpp.llama_log_set(keep, ctypes.c_void_p(0))
    llama_cpp.plumbline_log_callback = keep  # C holds only a pointer: it must outlive this call
    llama_cpp.llama_backend_init()
    return llama_cpp


def forget_complaints() -> None:
    """Start a new list, before a call whose failure is to be explained."""
    _complaints.clear()


def complaints() -> str:
    """What llama.cpp warned of since, newest last."""
    return "; ".join(dict.fromkeys(_complaints)) or "it gave no reason"


def decode(context: Any, entries: list[Entry], vocab_size: int) -> np.ndarray:
    """Decode entries of any mix of sequences in one call.

    Returns logits (wanted, vocab) float32 in the order of the wanted entries: a view that the next call overwrites.
    """
    import numpy as np

    api, count = llama_api(), len(entries)
    tokens, positions, sequences, wanted = (np.array(column, np.int32) for column in zip(*entries, strict=True))
    ones, flags = np.ones(count, np.int32), wanted.astype(np.int8)
    pointers = (sequences.ctypes.data + sequences.itemsize * np.arange(count)).astype(np.uintp)
    kinds = dict(api.llama_batch._fields_)
    arrays: dict[str, np.ndarray] = {
        "token": tokens,
        "pos": positions,
        "n_seq_id": ones,
        "seq_id": pointers,
        "logits": flags,
    }
    fields = {name: ctypes.cast(array.ctypes.data, kinds[name]) for name, array in arrays.items()}
    forget_complaints()
    if code := api.llama_decode(context, api.llama_batch(n_tokens=count, **fields)):
        raise ArtifactError(f"llama: decoding {count} tokens failed with code {code}. llama.cpp says: {complaints()}.")
    rows = int(flags.sum())
    if not rows:
        return np.empty((0, vocab_size), np.float32)
    return np.ctypeslib.as_array(api.llama_get_logits(context), shape=(rows, vocab_size))
