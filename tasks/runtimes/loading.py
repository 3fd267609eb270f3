"""Beats of a model being loaded: by tensors, as transformers places them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tasks.core.progress import UNIT, Beat, named, silent


@contextmanager
def loading_beats(beat: Beat, what: str) -> Iterator[None]:
    """Within it, each tensor that transformers loads is a beat: "loading the base model: 120 of 290 tensors".

    transformers shows its progress through one bar, whose maker it lets us set; the bar itself stays as it was.
    """
    from transformers.utils import logging as hf_logging

    if beat is silent:
        yield
        return
    before = hf_logging.set_tqdm_hook(_counting(named(beat, f"loading {what}")))
    try:
        yield
    finally:
        hf_logging.set_tqdm_hook(before)


def _counting(beat: Beat) -> Callable[[Callable, tuple, Mapping[str, Any]], _Bar]:
    return lambda make, args, kwargs: _Bar(make(*args, **kwargs), len(args[0]) if args else 0, beat)


class _Bar:
    """A progress bar that also beats as it is iterated; all else is the bar's own."""

    def __init__(self, bar: Any, total: int, beat: Beat) -> None:
        self._bar, self._total, self._beat = bar, total, beat

    def __iter__(self) -> Iterator:
        for done, item in enumerate(self._bar, 1):
            yield item
            self._beat(done, self._total, {UNIT: "tensors"})

    def __enter__(self) -> _Bar:
        self._bar.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.__exit__(*error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bar, name)
