"""Will training fit on the card? Asked before the first minute, of the base's config.json and of configs/hardware.yaml."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from data_contracts.verdict import Verdict
from tasks.core.errors import ConfigError
from tasks.core.hardware import load_hardware
from tasks.prepare_base import BaseConfig
from tasks.training.config import TrainConfig
from tasks.training.memory import check_memory, estimate

if TYPE_CHECKING:
    from flows.distill_config import DistillConfig

_LATER = "it is compared with the card when training starts"


def refuse_too_small_a_card(hardware: str | None, base: BaseConfig, train: TrainConfig, row_tokens: int) -> str:
    """One line: it fits, or why that cannot be told yet; asks the Hub for the base's config.json (a few kilobytes).

    Raises:
        ConfigError: it does not fit, and `train.when_memory_is_short` is not "try".
    """
    if hardware is None or base.source != "hub":
        why = "`hardware` names no card" if hardware is None else "the base is built here"
        return f"training memory: cannot tell yet, {why}; {_LATER}"
    about = _config_json(base)
    needed = estimate(about, train, row_tokens) if about else None
    if needed is None:
        why = "has a config.json of an unusual form" if about else "could not be asked for its config.json"
        return f"training memory: cannot tell, {base.model_id} {why}; {_LATER}"
    card = load_hardware(hardware)
    found = check_memory(needed, card.memory_gib, card.name)
    if found.verdict is not Verdict.PASS and train.when_memory_is_short == "refuse":
        raise ConfigError(f"train: {found.sentence()}")
    return f"training memory: {found.sentence()}"


def refuse_too_small_cards(config: DistillConfig) -> Iterator[str]:
    """The same for every training of a distillation that says where it runs, or comes from the Hub; one line each."""
    for field, block, train in config.blocks:
        if block.hardware or block.base.source == "hub":
            longest_tokens = block.validate_rows.max_length_tokens
            try:
                line = refuse_too_small_a_card(block.hardware, block.base, train, longest_tokens)
            except ConfigError as error:
                part = "teacher" if field == "teacher.train" else field.rpartition(".")[2]
                raise ConfigError([config.named(part, text) for text in error.problems]) from None
            yield f"{field}: {line}"


def _config_json(base: BaseConfig) -> dict | None:
    import httpx
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        path = hf_hub_download(str(base.model_id), "config.json", revision=base.revision)
        return json.loads(Path(path).read_text("utf-8"))
    except (httpx.HTTPError, HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError):
        return None  # whatever is wrong, prepare_base says it in its own words
