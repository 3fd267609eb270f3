"""A model behind an OpenAI-compatible API, asked every row like those on this disk; no answer is paid twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from data_contracts.prompting.prompt import PromptContract
from tasks.clients.requests import Answer, Ask
from tasks.clients.response_log import AnswerLog, answer_all
from tasks.comparison.model_entry import ModelEntry
from tasks.core.progress import Beat, named, silent
from tasks.evaluation.local_models import Answers, AskingConfig


def ask_endpoint(
    config: AskingConfig,
    entry: ModelEntry,
    contract: PromptContract,
    rows: Sequence[Mapping[str, object]],
    log: Path,
    known_by: str,
    as_text: Callable[[Answer], str],
    beat: Beat = silent,
) -> Answers:
    """Its answers to every row; `as_text` makes one text of an answer and the reasoning that came apart from it.

    `log`: file in which answers are kept as they come, so that a crash loses only what was in flight; those of the second
    asking lie beside it. `known_by` tells this very model from another that answered at the same address (askable.py).

    Raises:
        ConfigError: the server refuses a request.
        TransientError: it gave no answer on any try; run again, answers that came are kept.
    """
    endpoint = entry.endpoint
    assert endpoint is not None, f"{entry.name} is no endpoint"
    limit_tokens = entry.max_new_tokens or config.max_new_tokens
    where = f"{endpoint.base_url} {known_by}"
    asks = [
        Ask(
            where,
            endpoint.model,
            tuple(contract.messages(row)),
            limit_tokens,
            endpoint.temperature,
            thinking=entry.thinking,
        )
        for row in rows
    ]
    some = asks[: config.repeated_rows]

    doing = f"answers of {entry.name}"
    started = time.monotonic()
    with endpoint.client(endpoint.base_url) as client, AnswerLog(log) as first:
        asked_before = len(first)
        answers = answer_all(asks, first, client, named(beat, doing))
        seconds = time.monotonic() - started
        with AnswerLog(log.with_name(f"again-{log.name}")) as second:
            # In reverse: other neighbours in the server's batches, as the local engines are given.
            again = answer_all(some[::-1], second, client, named(beat, f"{doing}, again"))[::-1]
    return Answers(
        model=entry.name,
        texts=[as_text(one) for one in answers],
        again=[as_text(one) for one in again],
        cut_off=sum(one.finish_reason == "length" or one.no_room for one in answers),
        generated_tokens=sum(one.completion_tokens for one in answers),
        seconds=0.0 if asked_before else seconds,  # answers of an earlier try took no time now: no speed to tell
    )
