"""One model asked every row: a transformers folder, with or without an adapter, or a GGUF file, as a user would ask it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field

from data_contracts.prompt import PromptContract
from tasks.core.child import Beat, silent
from tasks.core.stage import Settings
from tasks.engines import chat, hf_engine
from tasks.engines.gguf_convert import PROMPT_CONTRACT_KEY
from tasks.engines.llama_engine import Generation, LlamaEngine
from tasks.engines.prompt_digest import refuse_another_contract

_OTHER_SLOTS = 11
"""Sequences decoded together when rows are answered again; a number that divides neither 32 nor the rows asked."""


class AskingConfig(Settings):
    """How models are asked; every answer is greedy."""

    max_new_tokens: int = Field(default=512, ge=8)
    """Longest answer, in tokens; one that is cut off counts as unreadable."""
    repeated_rows: int = Field(default=32, ge=0)
    """Held-out rows that every model but the ceiling answers twice, batched otherwise: their disagreement is the noise
    floor of every comparison. 0 measures none, and no model is then called better than its base."""
    batch_rows: int = Field(default=64, ge=1)
    """Rows that transformers answers at once."""
    compute_dtype: str = Field(default="float32", pattern="^(float32|bfloat16|float16)$")
    """Type in which transformers computes."""


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


def ask_transformers(
    config: AskingConfig,
    contract: PromptContract,
    rows: list[dict],
    folder: Path,
    adapter: Path | None = None,
    beat: Beat = silent,
) -> Answers:
    """A model folder, with an adapter on top when one is given."""
    with hf_engine.quiet():
        tokenizer = hf_engine.load_tokenizer(folder)
        model = hf_engine.load_model(folder, config.compute_dtype, adapter)
    stops = chat.stop_ids(tokenizer, model.generation_config.to_dict())
    prompts = [chat.text_ids(tokenizer, chat.prompt_text(tokenizer, contract, row)) for row in rows]

    def generate(some: list[list[int]], batch_rows: int, beat: Beat) -> list[Generation]:
        return hf_engine.generate(model, tokenizer, some, config.max_new_tokens, stops, batch_rows, beat)

    fewer = max(1, config.batch_rows // 3)
    return _asked_twice(
        prompts,
        config.repeated_rows,
        lambda some: generate(some, config.batch_rows, beat),
        lambda some: generate(some, fewer, silent),
    )


def ask_gguf(
    config: AskingConfig, contract: PromptContract, rows: list[dict], path: Path, digest: str, beat: Beat = silent
) -> Answers:
    """A GGUF by its own chat template, tokenizer and end token.

    Raises:
        ArtifactError: the file carries another prompt contract than `digest`.
    """
    with LlamaEngine(path) as engine:
        refuse_another_contract(f"evaluation: {path.name}", engine.metadata.get(PROMPT_CONTRACT_KEY), digest)
        prompts = [engine.tokenize(engine.render_chat(contract.messages(row))) for row in rows]
        return _asked_twice(
            prompts,
            config.repeated_rows,
            lambda some: engine.generate(some, config.max_new_tokens, progress=beat),
            lambda some: engine.generate(some, config.max_new_tokens, slots=_OTHER_SLOTS),
        )


Ask = Callable[[list[list[int]]], list[Generation]]


def _asked_twice(prompts: list[list[int]], repeated_rows: int, ask: Ask, ask_otherwise: Ask) -> Answers:
    started = time.monotonic()
    answers = ask(prompts)
    seconds = time.monotonic() - started
    some = prompts[:repeated_rows]
    return Answers(
        model="",
        texts=[one.text for one in answers],
        again=[one.text for one in ask_otherwise(some)] if some else [],
        cut_off=sum(one.stopped == "length" for one in answers),
        generated_tokens=sum(len(one.ids) for one in answers),
        seconds=seconds,
    )
