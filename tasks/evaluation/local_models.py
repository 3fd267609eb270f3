"""Models on this disk, asked every row as a user would ask them: a transformers folder, with or without an adapter, or a GGUF.

One model is in memory at a time; only GGUF files so small that they run on one thread each are asked together.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from data_contracts.prompting.prompt import PromptContract
from tasks.core.progress import Beat, named, silent, summed
from tasks.core.settings import Settings
from tasks.prompts.prompt_digest import PROMPT_CONTRACT_KEY, refuse_another_contract
from tasks.recipes.interface import Row
from tasks.runtimes.generation import Generation, is_small
from tasks.runtimes.greedy_model import open_model

if TYPE_CHECKING:
    import numpy as np

_OTHER_SLOTS = 11
"""Sequences decoded together when rows are answered again; a number that divides neither 32 nor the rows asked."""


class AskingConfig(Settings):
    """How models are asked; every answer is greedy."""

    max_new_tokens: int = Field(default=512, ge=8)
    """Longest answer, in tokens; one that is cut off counts as unreadable."""
    repeated_rows: int = Field(default=32, ge=0)
    """Held-out rows that every model but the ceiling answers twice, batched otherwise: their disagreement is the noise
    floor of every comparison. 0 measures none, and no model is then called better than another."""
    batch_rows: int = Field(default=64, ge=1)
    """Rows that transformers answers at once."""
    compute_dtype: str = Field(default="float32", pattern="^(float32|bfloat16|float16)$")
    """Type in which transformers computes."""


@dataclass(frozen=True)
class LocalModel:
    """A model on this disk, and how it is asked."""

    name: str
    path: Path
    """A folder that transformers loads, or a .gguf file."""
    contract: PromptContract
    """The words of the prompt."""
    adapter: Path | None = None
    """Folder of a LoRA adapter on top of `path`."""
    contract_digest: str | None = None
    """Of a GGUF: what its header must carry (prompt_digest.py); None for a file of others, which carries nothing."""
    file_digest: str | None = None
    """sha256 of what is scored, as a board lists it."""
    size_bytes: int | None = None
    thinking: bool | None = None
    """As in chat_template.thinking_switch."""
    max_new_tokens: int | None = None
    """In place of the config's, for a model that needs more room to think."""

    @property
    def is_gguf(self) -> bool:
        return self.path.suffix == ".gguf"


@dataclass(frozen=True)
class OpenModel:
    """A model in memory."""

    name: str
    render: Callable[[Mapping[str, object]], str]
    """Row -> the chat up to where the answer begins, by the model's own template."""
    tokenize: Callable[[str], list[int]]
    """Token ids of rendered text."""
    logits: Callable[[list[int]], np.ndarray]
    """Teacher-forced logits (tokens, vocab) float32 of one sequence."""
    generate: Callable[[list[list[int]], bool, Beat], list[Generation]]
    """(prompts, batched otherwise, beat) -> greedy answers in their order."""


Look = Callable[[OpenModel], None]
"""A further look at a model while it is in memory; several may look at once."""


@dataclass
class Answers:
    """What one model said to every row, and what it is."""

    model: str
    texts: list[str]
    again: list[str] = field(default_factory=list)
    """The first rows, answered once more among other neighbours: what a comparison cannot tell apart."""
    cut_off: int = 0
    """Answers that reached max_new_tokens."""
    generated_tokens: int = 0
    seconds: float = 0.0
    file_digest: str | None = None
    size_bytes: int | None = None


def ask_all(
    config: AskingConfig,
    models: Sequence[LocalModel],
    rows: Sequence[Row],
    beat: Beat = silent,
    look: Look | None = None,
) -> Iterator[Answers]:
    """Each model's answers to every row, in the order of the models.

    Raises:
        ArtifactError: a model cannot be loaded, or a GGUF carries another prompt contract than it must.
    """
    for small, members in groupby(models, lambda one: one.is_gguf and is_small(one.path)):
        if not small:
            yield from (ask(config, one, rows, beat, look) for one in members)
            continue
        # Small files run on one thread each (LlamaEngine), so that several are asked at once; large ones take every core.
        together = list(members)
        ask_one = partial(ask, config, rows=rows, beat=summed(beat, f"answers of {len(together)} models"), look=look)
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            yield from pool.map(ask_one, together)


def ask(
    config: AskingConfig, one: LocalModel, rows: Sequence[Row], beat: Beat = silent, look: Look | None = None
) -> Answers:
    """One model's answers to every row; the first rows are asked twice.

    Raises:
        ArtifactError: as `ask_all`.
    """
    with _opened(config, one) as model:
        prompts = [model.tokenize(model.render(row)) for row in rows]
        started = time.monotonic()
        answers = model.generate(prompts, False, named(beat, f"answers of {one.name}"))
        seconds = time.monotonic() - started
        some = prompts[: config.repeated_rows]
        again = model.generate(some, True, named(beat, f"answers of {one.name}, batched otherwise")) if some else []
        if look:
            look(model)
    del model
    gc.collect()  # PEFT's wrappers hold one another, and the next model needs the room
    return Answers(
        model=one.name,
        texts=[each.text for each in answers],
        again=[each.text for each in again],
        cut_off=sum(each.stopped == "length" for each in answers),
        generated_tokens=sum(len(each.ids) for each in answers),
        seconds=seconds,
        file_digest=one.file_digest,
        size_bytes=one.size_bytes,
    )


@contextmanager
def _opened(config: AskingConfig, one: LocalModel) -> Iterator[OpenModel]:
    limit_tokens = one.max_new_tokens or config.max_new_tokens
    otherwise_rows = _OTHER_SLOTS if one.is_gguf else max(1, config.batch_rows // 3)
    batch_rows = None if one.is_gguf else config.batch_rows
    with open_model(one.path, config.compute_dtype, one.adapter) as model:
        if one.contract_digest is not None:
            carried = model.metadata.get(PROMPT_CONTRACT_KEY)
            refuse_another_contract(f"evaluation: {one.path.name}", carried, one.contract_digest)
        model.load()
        yield OpenModel(
            one.name,
            render=lambda row: model.render(one.contract.messages(row), one.thinking),
            tokenize=model.tokenize,
            logits=model.logits,
            generate=lambda prompts, otherwise, beat: model.generate(
                prompts, limit_tokens, otherwise_rows if otherwise else batch_rows, beat
            ),
        )
