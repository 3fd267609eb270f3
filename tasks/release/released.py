"""A GGUF in a release folder, opened only when its bytes are those that were evaluated."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from data_contracts.prompting.prompt import PromptContract, load_prompt
from tasks.core.artifact import sha256_file
from tasks.core.errors import ArtifactError, ConfigError
from tasks.formats.gguf_file import read_header
from tasks.prompts.prompt_digest import PROMPT_CONTRACT_KEY, contract_digest, refuse_another_contract


@dataclass(frozen=True)
class Released:
    """One file of a release."""

    name: str
    """Release and quantisation, such as signals-nano-q8_0."""
    path: Path
    digest: str
    prompt: PromptContract
    """The words that it was trained on."""
    row: dict[str, object]
    """What the prompt shows of the first held-out row: an example of what the model was trained for."""


def open_release(folder: Path, quantization: str) -> Released:
    """The file of a quantisation, its sha256 compared with both records of the release.

    Raises:
        ConfigError: the folder is no release, or holds no such quantisation.
        ArtifactError: the file is not the one that was evaluated, or was made for another prompt contract.
    """
    try:
        board, lineage = (
            json.loads((folder / f"{name}.json").read_text("utf-8")) for name in ("leaderboard", "manifest")
        )
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"release: {folder} is not a whole release ({error}). Make it: python -m flows finetune"
        ) from None
    files = {row["model"]: row for row in board["rows"] if str(row["path"]).endswith(".gguf")}
    if quantization not in files or not (path := folder / files[quantization]["path"]).is_file():
        raise ConfigError(
            f"release: {folder} holds no {quantization}. It was made with {', '.join(files) or 'no GGUF'}."
        )
    recorded = {
        "leaderboard.json": files[quantization]["file_digest"],
        "manifest.json": lineage["gguf"]["files"].get(f"model-{quantization}.gguf"),
    }
    digest = sha256_file(path)
    if wrong := [f"{name} says {str(known)[:12]}" for name, known in recorded.items() if known != digest]:
        raise ArtifactError(
            f"release: {path.name} is not what was evaluated: its sha256 is {digest[:12]}, {', '.join(wrong)}. "
            "Nothing is known about how it answers. Run the flow again: it restores the release."
        )
    prompt = load_prompt(board["recipe"])
    carried = read_header(path, PROMPT_CONTRACT_KEY)
    refuse_another_contract(f"release: {path.name}", carried, contract_digest(prompt, folder / "model"))
    with (folder / "heldout.jsonl").open(encoding="utf-8") as lines:
        row = prompt.shown(json.loads(next(lines)))
    return Released(f"{board['name']}-{quantization}", path, digest, prompt, row)
