"""The special tokens of a saved model, read as plain JSON from its folder: no tokenizer is loaded.

Reads: tokenizer_config.json, tokenizer.json, generation_config.json, chat_template.jinja.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from data_contracts.errors import ArtifactError


class SpecialTokens(BaseModel):
    """Texts of the tokens that have a meaning of their own."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    eos: str = Field(min_length=1)
    """The token that ends an answer."""
    bos: str | None = None
    pad: str | None = None
    adds_bos: bool = False
    """True when the runtime puts `bos` before every text by itself, as the tokenizer does."""
    stops: list[str] = Field(default_factory=list)
    """Every text at which generation_config.json ends an answer."""
    special: list[str] = Field(default_factory=list)
    """All tokens that the tokenizer marks as special."""


def read_special_tokens(model_folder: Path) -> SpecialTokens:
    """What `model_folder` says about its special tokens.

    Raises:
        ArtifactError: a file is missing or unreadable, no EOS is named, or an id has no token.
    """
    config = _read(model_folder / "tokenizer_config.json")
    tokenizer = _read(model_folder / "tokenizer.json")
    generation_path = model_folder / "generation_config.json"
    generation = _read(generation_path) if generation_path.is_file() else {}
    texts = {one["id"]: one["content"] for one in tokenizer.get("added_tokens", [])}
    ids = generation.get("eos_token_id")
    ids = [] if ids is None else ids if isinstance(ids, list) else [ids]
    unknown = [one for one in ids if one not in texts]
    eos, bos = _text(config.get("eos_token")), _text(config.get("bos_token"))
    if not eos or unknown:
        raise ArtifactError(
            f"modelfile: the model does not say where an answer ends. Found eos_token {eos!r} and "
            f"{len(unknown)} of {len(ids)} eos_token_id without a special token ({unknown[:5]}). "
            "Save the tokenizer and generation_config.json again."
        )
    return SpecialTokens(
        eos=eos,
        bos=bos,
        pad=_text(config.get("pad_token")),
        adds_bos=_adds_bos(config, tokenizer, bos),
        stops=[texts[one] for one in ids],
        special=[one["content"] for one in tokenizer.get("added_tokens", []) if one.get("special")],
    )


def read_chat_template(model_folder: Path) -> str:
    """The model's jinja chat template.

    Raises:
        ArtifactError: there is none, or there are several.
    """
    path = model_folder / "chat_template.jinja"
    found = (
        path.read_text("utf-8")
        if path.is_file()
        else _read(model_folder / "tokenizer_config.json").get("chat_template")
    )
    if not isinstance(found, str) or not found:
        raise ArtifactError(
            f"modelfile: {model_folder.name} has no single chat template. Expected chat_template.jinja, or one text "
            f"under chat_template in tokenizer_config.json; found {type(found).__name__}. "
            "Save the tokenizer with its template."
        )
    return found


def _adds_bos(config: dict[str, Any], tokenizer: dict[str, Any], bos: str | None) -> bool:
    """What the GGUF converter concludes too: the config's word, else whether the post-processor begins with BOS."""
    said = config.get("add_bos_token")
    if isinstance(said, bool):
        return said
    processors = tokenizer.get("post_processor") or {}
    steps = processors.get("processors", [processors])
    firsts = [one["single"][0] for one in steps if one.get("type") == "TemplateProcessing" and one.get("single")]
    return any(one.get("SpecialToken", {}).get("id") == bos for one in firsts if bos)


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as problem:
        raise ArtifactError(
            f"modelfile: {path.name} cannot be read. {type(problem).__name__}: {problem}. Save the tokenizer again."
        ) from problem


def _text(token: str | dict[str, Any] | None) -> str | None:
    return token["content"] if isinstance(token, dict) else token
