"""The prompt contract: one file of words per recipe renders every training row, evaluation prompt and served request.

A small fine-tune learns prompt shapes, not instructions: rewording a prompt is a breaking change (seed story "proofkit").
So the words live in `data_contracts/<recipe>/prompt.md`, and their digest travels in every artifact.
"""

from __future__ import annotations

import hashlib
import json
import string
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from data_contracts.errors import ConfigError, ContractError

CONTRACTS_FOLDER = Path(__file__).resolve().parent


class PromptContract(BaseModel):
    """The words around a row. `digest` changes when any byte of them, or of the output schema, does."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str
    system: str
    user: str
    output_schema: str
    """JSON schema of the answer, and of the answer to a malformed input where the recipe has one; canonical."""

    @property
    def fields(self) -> list[str]:
        """The row's columns that the user message shows."""
        return [name for _, name, _, _ in string.Formatter().parse(self.user) if name]

    @property
    def digest(self) -> str:
        """sha256 over system text, user text and output schema."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def messages(self, row: Mapping[str, object]) -> list[dict[str, str]]:
        """The chat before the answer: a system and a user message.

        Raises:
            ContractError: a column that the prompt shows is missing, or is not text.
        """
        wrong = [name for name in self.fields if not isinstance(row.get(name), str)]
        if wrong:
            raise ContractError(
                f"prompt: {len(wrong)} of {len(self.fields)} fields of {self.recipe}/prompt.md are not text in the row: "
                f"{', '.join(wrong)}. Add them to the row or take them out of the prompt."
            )
        # str.format is not used: a brace in a headline, or an attribute lookup in a template, must stay plain text.
        user = "".join(
            literal + (str(row[name]) if name else "") for literal, name, _, _ in string.Formatter().parse(self.user)
        )
        return [{"role": "system", "content": self.system}, {"role": "user", "content": user}]


@lru_cache
def load_prompt(recipe: str) -> PromptContract:
    """Read `data_contracts/<recipe>/prompt.md` and the schema of its `output.py`.

    Raises:
        ConfigError: the file, or one of its two sections, is missing.
    """
    path = CONTRACTS_FOLDER / recipe / "prompt.md"
    if not path.is_file():
        raise ConfigError(
            f"prompt: data_contracts/{recipe}/prompt.md is missing. Every recipe needs one; copy another recipe's."
        )
    sections = _sections(path.read_text("utf-8"))
    missing = [name for name in ("system", "user") if not sections.get(name)]
    if missing:
        raise ConfigError(
            f"prompt: {path.name} of {recipe} lacks the section(s) {', '.join(missing)}. Found {sorted(sections)}. "
            "Start each with a line '# system' or '# user'."
        )
    return PromptContract(
        recipe=recipe, output_schema=_output_schema(recipe), **{k: sections[k] for k in ("system", "user")}
    )


def output_model(recipe: str) -> type[BaseModel]:
    """The pydantic model that an answer of this recipe must fit."""
    from importlib import import_module

    return import_module(f"data_contracts.{recipe}.output").OUTPUT


def error_model(recipe: str) -> type[BaseModel] | None:
    """The pydantic model of the answer to a malformed input; None for a recipe that accepts no such rows."""
    from importlib import import_module

    return getattr(import_module(f"data_contracts.{recipe}.output"), "ERROR_OUTPUT", None)


def _output_schema(recipe: str) -> str:
    models = (output_model(recipe), error_model(recipe))
    return json.dumps([one.model_json_schema() for one in models if one], sort_keys=True)


def _sections(text: str) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in text.splitlines():
        if line.startswith("# "):
            current = found.setdefault(line[2:].strip(), [])
        else:
            current.append(line)
    return {name: "\n".join(lines).strip() for name, lines in found.items()}
