"""A model that answers many prompts: which engine runs it, how long an answer may be, and what is asked again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from tasks.clients.endpoint_settings import TEACHER_API_KEY, RequestSettings, plain_address
from tasks.clients.harmony import ChannelReader
from tasks.clients.local_model import LocalChat, local_identity
from tasks.clients.requests import Source
from tasks.clients.vllm_client import VllmSource
from tasks.clients.vllm_settings import DEFAULT_PYTHON, VllmSettings, interpreter_problem
from tasks.core.artifact import canonical_json
from tasks.core.errors import ConfigError
from tasks.core.settings import Settings

Engine = Literal["vllm", "endpoint", "transformers", "llama_cpp"]


class TeacherRequestSettings(RequestSettings):
    """How requests are sent to a teacher's endpoint."""

    api_key_env: str = Field(default=TEACHER_API_KEY, pattern=r"^[A-Z][A-Z0-9_]{0,63}$")
    """Name of the environment variable that holds the key; never the key itself. Unset where no key is needed."""


class AnsweringConfig(Settings):
    """Which model answers, in which engine, and how."""

    engine: Engine = "vllm"
    """vllm: offline, in an interpreter of its own. endpoint: any OpenAI-compatible server (vllm serve, llama.cpp, Ollama, a
    hosted one). transformers: for checking. llama_cpp: a .gguf file."""
    model: str | None = None
    """A folder of safetensors (vllm, transformers) or a .gguf file (llama_cpp) on this disk; left out where the flow hands over
    a model that it made. endpoint: the model's name there."""
    base_url: str | None = None
    """endpoint: its address, e.g. http://127.0.0.1:8000/v1. Its key, if any, stands in the environment under the name that
    generate.endpoint.api_key_env gives."""
    vllm_python: str = DEFAULT_PYTHON
    """vllm: the interpreter that holds it; `python deployments/setup.py --with vllm` makes the default one."""
    max_new_tokens: int = Field(default=1024, ge=8)
    """Room for one answer, a reasoning model's thoughts included, in tokens."""
    attempts: int = Field(default=2, ge=1, le=5)
    """How often a prompt is asked in all: an answer that was cut off, or that was spent on thoughts, is asked again with twice
    the room."""
    temperature: float | None = Field(default=0.0, ge=0, le=2)
    """0 is greedy. Left empty (null) the endpoint chooses; some hosted models allow nothing else."""
    seed: int = Field(default=42, ge=0)
    """What answers are drawn with where temperature is above 0: the same seed, the same answers, as far as the engine allows."""
    thinking: bool | None = None
    """Turn a model's thinking on or off by the switch of its chat template (enable_thinking); left to the template when left
    out. Thoughts cost tokens and never become a row, but for a recipe whose answers hold a trace."""
    batch_rows: int = Field(default=32, ge=1)
    """transformers, llama_cpp: prompts in a batch."""
    vllm: VllmSettings = Field(default=VllmSettings(), title="vLLM")
    endpoint: TeacherRequestSettings = TeacherRequestSettings()

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, value: str | None) -> str | None:
        return plain_address(value, "generate")

    @model_validator(mode="after")
    def _settings_fit_the_engine(self) -> AnsweringConfig:
        if (self.engine == "endpoint") != (self.base_url is not None):
            raise ValueError("engine endpoint and base_url belong together: give both or neither")
        if self.engine == "endpoint" and not self.model:
            raise ValueError("engine endpoint needs model, the model's name there")
        if self.engine in ("transformers", "llama_cpp") and self.temperature != 0:
            raise ValueError(f"engine {self.engine} answers greedily: leave temperature out, or take vllm")
        if self.engine == "vllm" and self.temperature is None:
            raise ValueError("engine vllm needs a temperature; 0 is greedy")
        if self.engine != "endpoint" and self.model is not None:
            wanted = Path.is_file if self.engine == "llama_cpp" else Path.is_dir
            if not wanted(Path(self.model)):
                raise ValueError(f"model {self.model!r} is not there")
        return self

    def problems(self, handed_over: bool) -> list[str]:
        """What stands in the way of asking, told before anything runs. `handed_over`: the flow gives the model."""
        found = []
        if self.engine == "vllm" and (problem := interpreter_problem(self.vllm_python)):
            found.append(problem)
        if self.engine != "endpoint" and not (self.model or handed_over):
            found.append(
                "model is missing: give a folder or a .gguf file, or let the flow hand over a model that it made"
            )
        if handed_over and (self.model is not None or self.engine in ("endpoint", "llama_cpp")):
            found.append(
                f"the flow hands over a model, so engine {self.engine} with model {self.model!r} would not be asked it"
            )
        return found

    def model_files(self) -> list[str]:
        """The user's files that shape the answers."""
        if self.engine == "endpoint" or self.model is None:
            return []
        path = Path(self.model)
        return [str(path)] if path.is_file() else sorted(str(one) for one in path.rglob("*") if one.is_file())

    def sampling_seed(self, prompt_digest: str) -> int | None:
        """What one prompt's answer is drawn with: another number for each prompt, the same in every shard and start."""
        if not self.temperature:
            return None
        return int(hashlib.sha256(f"{self.seed} {prompt_digest}".encode()).hexdigest()[:8], 16) & 0x7FFFFFFF


@dataclass
class Answerer:
    """A model that is ready to be asked."""

    source: Source
    where: str
    """What tells it from every other: address, or engine and digest of the model's files."""
    name: str
    reader: ChannelReader | None
    """Reads answers in channels; None for a model that has none, and for an endpoint, which gives text only."""
    room_tokens: Callable[[Sequence[dict[str, str]]], int] | None = None
    """Longest answer that the settings' own context leaves to a chat; None where no setting but max_new_tokens bounds it."""


@contextmanager
def open_answerer(config: AnsweringConfig, folder: Path | None, digest: str | None, work: Path) -> Iterator[Answerer]:
    """The configured model. `folder` and `digest`: the artifact that the flow handed over; `work`: where workers log.

    Raises:
        ConfigError: no model was given, or vLLM's interpreter is not there.
    """
    if problems := config.problems(folder is not None):
        raise ConfigError(["generate_teacher: the teacher cannot be asked.", *(f"  {one}." for one in problems)])
    if config.engine == "endpoint":
        assert config.base_url is not None and config.model is not None, "config.problems names what an endpoint lacks"
        with config.endpoint.client(config.base_url) as endpoint:
            yield Answerer(endpoint, config.base_url.rstrip("/"), config.model, None)
        return
    path = folder or Path(str(config.model))
    parts = {"engine": config.engine, "model": digest or local_identity(path)}
    if config.engine == "vllm":
        # dtype changes answers; the context bounds their room, which is part of each question; the others move work around
        where = canonical_json({**parts, "dtype": config.vllm.dtype})
        vllm = VllmSource(path, config.vllm, config.vllm_python, work)
        source: VllmSource | LocalChat = vllm
        room_tokens = partial(vllm.room_tokens, thinking=config.thinking)
    else:
        where = canonical_json(parts)
        source, room_tokens = LocalChat(path, config.batch_rows), None  # its context is in the digest of its files
    with source:
        name = digest[:12] if digest else path.stem if path.is_file() else path.name
        yield Answerer(source, where, name, ChannelReader.of(path, work), room_tokens)
