"""The digest of the prompt contract: of everything that turns a row into token ids: words, answer schema, tokenizer, template.

Two digests, two names. *Prompt words* (`PromptContract.words_digest`) is that of prompt.md and answer schema alone: known before
there is a model, and in the manifest of every stage. *Prompt contract* (`contract_digest`) adds tokenizer files and template.

It travels in token rows, adapter, merged model, GGUF header and Modelfile. A model asked through any other contract answers
badly without an error (seed story "proofkit"), so whoever asks compares it first.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from data_contracts.errors import ArtifactError
from data_contracts.prompting.prompt import PromptContract

PROMPT_CONTRACT_KEY = "plumbline.prompt_contract"


_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json", "chat_template.jinja")
_SPECIAL = ("bos_token", "eos_token", "add_bos_token", "add_eos_token")
"""What of tokenizer_config.json turns a row into ids; the rest of it says how a library stores the tokenizer."""

CARRIED = "prompt_contract.json"
"""In the folder of a model that was made here: the contract it was trained for."""


def contract_digest(contract: PromptContract, model_folder: Path) -> str:
    """sha256 over the prompt contract and the tokenizer files of a model folder.

    Raises:
        ArtifactError: the folder holds no tokenizer.
    """
    return contract_parts(contract, model_folder)["digest"]


def contract_parts(contract: PromptContract, model_folder: Path) -> dict[str, str]:
    """The digest under "digest", and those of its parts: "prompt", the special tokens, and one for each tokenizer file."""
    found = {name: model_folder / name for name in _FILES if (model_folder / name).is_file()}
    if not found.keys() - {"chat_template.jinja"}:
        raise ArtifactError(f"prompt: {model_folder.name} holds no tokenizer. Expected one of {', '.join(_FILES[:3])}.")
    parts = {"prompt": contract.words_digest}
    parts |= {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in found.items()}
    path = model_folder / "tokenizer_config.json"
    config = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    parts["special_tokens"] = _digest({name: _text(config.get(name)) for name in _SPECIAL})
    if "chat_template.jinja" not in found:
        parts["chat_template"] = _digest(config.get("chat_template"))
    return {**parts, "digest": _digest(parts)}


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _text(token: dict | str | bool | None) -> str | bool | None:
    """One spelling for a token that is stored as text or as an object around its text."""
    return token.get("content") if isinstance(token, dict) else token


def write_carried(model_folder: Path, digest: str) -> None:
    """Let a model's folder say which contract it was trained for."""
    (model_folder / CARRIED).write_text(json.dumps({"digest": digest}) + "\n", "utf-8")


def read_carried(model_folder: Path) -> str | None:
    """What a model's folder says; None for a folder of others, which carries nothing."""
    path = model_folder / CARRIED
    return json.loads(path.read_text("utf-8"))["digest"] if path.is_file() else None


def refuse_another_contract(who: str, carried: str | None, expected: str) -> None:
    """Raises ArtifactError unless the file carries this very contract. `who` names the file."""
    if carried != expected:
        raise ArtifactError(
            f"{who} was made for another prompt contract: it carries {str(carried)[:12]}, this one is {expected[:12]}. "
            "Words, answer schema, tokenizer or chat template differ, so its answers would mean nothing. "
            "Run the flow again: it makes the rows anew and trains on them; or restore the contract it was made for."
        )
