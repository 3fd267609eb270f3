"""One model of a comparison as a config names it, from whichever of five places, and where its files then lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from data_contracts.prompting.prompt import PromptSet
from tasks.clients.endpoint_settings import EndpointSettings
from tasks.core.settings import Settings

CEILING = "ceiling"
"""Name of the row that the labels themselves make."""
MERGED, ADAPTER, BASE, NF4 = "merged", "adapter", "base", "merged-nf4"
_SOURCES = ("hub", "folder", "gguf", "run", "endpoint")
_NEEDS = {"revision": "hub", "adapter": "folder", "tokenizer": "gguf", "part": "run"}
"""Setting -> the source that it belongs to."""


class ModelEntry(Settings):
    """One model, and how it is asked. Exactly one of hub, folder, gguf, run and endpoint says where it is."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,60}$")
    """What the board calls it."""
    role: Literal["base", "ceiling", "control"] | None = None
    """base: what tuning started from, the floor line. ceiling: a yardstick that gets no rank. control: broken on purpose."""
    hub: str | None = Field(default=None, pattern=r"^[\w.-]+/[\w.-]+$")
    """Repository of the Hub with 16- or 32-bit safetensors, e.g. Qwen/Qwen3-0.6B."""
    revision: str = "main"
    """hub: commit, tag or branch; resolved to a commit, which the board shows."""
    folder: str | None = None
    """Folder of a model that transformers loads."""
    adapter: str | None = None
    """folder: a LoRA adapter on top of it."""
    gguf: str | None = None
    """A .gguf file."""
    tokenizer: str | None = None
    """gguf: folder of the model that a file of ours was exported from, whose tokenizer is part of the prompt contract that the
    file carries. Found by itself in a release folder; not needed for a file of others, which carries none."""
    run: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9.-]{0,60}$")
    """Name of a finetune run in this comparison's store (signals-nano): what it made last."""
    part: str | None = None
    """run: base, adapter, merged, merged-nf4 (a control that is made for the comparison), or a quantisation such as q8_0."""
    endpoint: EndpointSettings | None = Field(default=None, title="Endpoint")
    """An OpenAI-compatible API."""
    thinking: bool | None = None
    """Turn thinking on or off, by the chat template's own switch (enable_thinking); left to the template when left out. A
    template that has no such switch is refused: the model would be asked just as without this setting."""
    without_trace: bool = False
    """Answers come without a thinking trace and are read as if theirs were empty: for models that do not think. Follows from
    thinking: false."""
    prompt_set: PromptSet = "trained"
    """Words of the prompt: trained, as fine-tunes know them, or rich, where a recipe has another set for large models."""
    max_new_tokens: int | None = Field(default=None, ge=8)
    """Longest answer in tokens, in place of the comparison's own: a thinking model may need more."""

    @model_validator(mode="after")
    def _one_source(self) -> ModelEntry:
        wrong = []
        given = [name for name in _SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            wrong.append(f"give exactly one of {', '.join(_SOURCES)}; found {', '.join(given) or 'none'}")
        for name, source in _NEEDS.items():
            if getattr(self, name) != type(self).model_fields[name].default and getattr(self, source) is None:
                wrong.append(f"{name} belongs to {source}, which is not given")
        if self.run is not None and self.part is None:
            wrong.append("run needs part: base, adapter, merged, merged-nf4 or a quantisation such as q8_0")
        if self.name == CEILING:
            wrong.append(f"{CEILING} is the row of the labels; choose another name")
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    @property
    def trace_is_optional(self) -> bool:
        return self.without_trace or self.thinking is False

    @property
    def inputs(self) -> dict[str, str]:
        """What it takes from the store: role of the artifact -> name of the stage's input."""
        if self.hub is not None:
            return {"model": f"hub {self.hub} at {self.revision}"}
        if self.run is None:
            return {}
        roles = {BASE: ("base",), ADAPTER: ("base", "adapter"), MERGED: ("base", "adapter", "merged")}
        roles[NF4] = ("base", "adapter", "nf4")
        return {role: run_input(self.run, role) for role in roles.get(str(self.part), ("base", "gguf"))}

    @property
    def files(self) -> list[str]:
        """The user's own files: their content counts, not their path."""
        folders = [Path(one) for one in (self.folder, self.adapter, self.tokenizer) if one]
        inside = [str(path) for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
        return [*inside, *([self.gguf] if self.gguf else [])]

    @property
    def told(self) -> str:
        """Where it is, in words for a board."""
        if self.endpoint:
            return f"{self.endpoint.model} at {self.endpoint.base_url}"
        if self.run:
            return f"{self.part} of {self.run}"
        return self.hub or self.gguf or f"{self.folder}{f' with {self.adapter}' if self.adapter else ''}"


def run_input(run: str, role: str) -> str:
    """Name under which a stage is given an artifact of a run."""
    return f"{role} of {run}"


@dataclass(frozen=True)
class Place:
    """Where a model's files lie."""

    path: Path
    """Model folder or .gguf file."""
    adapter: Path | None = None
    tokenizer: Path | None = None
    """Of a GGUF: the model folder whose prompt contract its header must carry; None where none is known."""

    @property
    def scored(self) -> list[Path]:
        """The files that make the model what it is: an adapter's own, not those of its base."""
        if self.path.suffix == ".gguf":
            return [self.path]
        return sorted((self.adapter or self.path).glob("*.safetensors"))


def files_of(entry: ModelEntry, folders: Mapping[str, Path]) -> Place:
    """The same for an entry that is no endpoint."""
    place = place_of(entry, folders)
    assert place is not None, f"{entry.name} is an endpoint"
    return place


def place_of(entry: ModelEntry, folders: Mapping[str, Path]) -> Place | None:
    """Where the files are, given the folders of the stage's inputs by name; None for an endpoint."""
    if entry.endpoint:
        return None
    given = {role: folders[name] for role, name in entry.inputs.items()}
    if entry.hub:
        return Place(given["model"])
    if entry.folder:
        return Place(Path(entry.folder), Path(entry.adapter) if entry.adapter else None)
    if entry.gguf:
        path = Path(entry.gguf)
        beside = path.parent.parent / "model"
        own = Path(entry.tokenizer) if entry.tokenizer else beside if beside.is_dir() else None
        return Place(path, tokenizer=own)
    if "gguf" in given:
        return Place(given["gguf"] / f"model-{entry.part}.gguf", tokenizer=given["base"])
    folder = {BASE: "base", ADAPTER: "base", MERGED: "merged", NF4: "nf4"}[str(entry.part)]
    return Place(given[folder], given["adapter"] if entry.part == ADAPTER else None)
