"""Dotted names of settings, as `--set` takes them: which exist, and what a block is called in a flow of several models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel

_DOTTED = re.compile(r"(?<![\w./-])([a-z_]+)((?:\.[a-z_][a-z0-9_]*)+)")


def setting_names(kind: type[BaseModel], before: str = "") -> set[str]:
    """`train.forgetting.probe_rows` for every setting, and `train.forgetting` for every block, of a configuration."""
    names: set[str] = set()
    for name, field in kind.model_fields.items():
        names.add(before + name)
        for block in _blocks(field.annotation):
            names |= setting_names(block, f"{before}{name}.")
    return names


def _blocks(annotation: Any) -> list[type[BaseModel]]:
    """The blocks of settings within a type: `Block`, `Block | None`, `list[Block]`, whatever is wrapped around them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [block for inner in get_args(annotation) for block in _blocks(inner)]


def in_blocks(text: str, blocks: Mapping[str, str], known: set[str]) -> str:
    """A message with the settings of a stage under the names that they have in this flow.

    A stage names a setting as a fine-tune does (`train.learning_rate`). `blocks`: its block -> that of the flow
    (`student.direct`); `known`: the names that the flow has, so that `train.jsonl` stays a file.
    """

    def renamed(match: re.Match) -> str:
        name = f"{blocks.get(match[1], match[1])}{match[2]}"
        return name if name in known else match[0]

    return _DOTTED.sub(renamed, text)
