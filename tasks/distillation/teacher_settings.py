"""Who may write answers for training rows: a model behind an endpoint, or one on this disk; and where its key stands."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from tasks.clients.engine_choice import API_KEY
from tasks.clients.local_model import LocalChat
from tasks.clients.openai_endpoint import ChatEndpoint, url_problem
from tasks.core.errors import ConfigError
from tasks.core.settings import Settings


class TeacherSettings(Settings):
    """Who writes further training rows, from which seeds, and how patiently it is asked."""

    base_url: str | None = None
    """An OpenAI-compatible endpoint, e.g. http://127.0.0.1:8000/v1. Its key, if any, stands in the environment as
    PLUMBLINE_TEACHER_API_KEY."""
    local_model: str | None = None
    """In place of base_url: a .gguf file, or a folder that transformers loads. It answers greedily."""
    model: str | None = None
    """The model's name at the endpoint; it also names the rows' batch. With local_model: the file's name when left out."""
    seeds_file: str | None = None
    """A .jsonl of rows without trace and source_batch; the recipe's own examples/teacher_seeds.jsonl when left out."""
    max_tokens: int = Field(default=2048, ge=16)
    """Room for one answer, a reasoning model's thoughts included; doubled for an answer that was cut off."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    """Sampling temperature; left to the endpoint when left out."""
    token_limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the endpoint calls the room for an answer; some hosted models know the second name only."""
    concurrency: int = Field(default=8, ge=1, le=1024)
    """Requests in flight at once; for local_model, rows in a batch."""
    retries: int = Field(default=5, ge=0, le=20)
    """Further tries of a request after 429, a server's error, a lost connection or a timeout."""
    timeout_s: float = Field(default=120, gt=0, le=600)
    """Longest wait for one whole answer, in seconds."""
    attempts: int = Field(default=2, ge=1, le=5)
    """How often a seed is asked in all; each time after the first with the reasons of the refusals before."""
    limits: str = "default"
    """Profile of data_contracts/<recipe>/limits.yaml, whose trace length a row must keep."""
    min_accepted_fraction: float = Field(default=0.8, ge=0, le=1)
    """Fewer accepted rows than this share of the seeds, and the build fails: prompt, model and contract do not fit."""

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, value: str | None) -> str | None:
        if value is not None and (problem := url_problem(value)):
            # not a ValueError: its message would show the value, and with it a password
            raise ConfigError(f"config: dataset.teacher.base_url {problem}.")
        return value

    @model_validator(mode="after")
    def _one_teacher(self) -> TeacherSettings:
        if (self.base_url is None) == (self.local_model is None):
            raise ValueError("give base_url or local_model, and not both")
        if self.base_url is not None and not self.model:
            raise ValueError("base_url needs model, the model's name at the endpoint")
        if self.local_model is not None and self.temperature is not None:
            raise ValueError("local_model answers greedily: leave temperature out")
        for name in ("local_model", "seeds_file"):
            path = getattr(self, name)
            if path is not None and not (Path(path).is_file() or (name == "local_model" and Path(path).is_dir())):
                raise ValueError(f"{name} {path!r} is not there")
        return self

    @property
    def name(self) -> str:
        """The model's name, as rows and log carry it."""
        return self.model or Path(self.local_model or "").stem

    @property
    def files(self) -> list[str]:
        """The user's files that shape the rows."""
        local = Path(self.local_model) if self.local_model else None
        models = sorted(path for path in local.rglob("*") if path.is_file()) if local and local.is_dir() else [local]
        return [str(path) for path in (self.seeds_file, *models) if path]


def source_of(teacher: TeacherSettings) -> ChatEndpoint | LocalChat:
    """The teacher, ready to be asked in a `with` block."""
    if teacher.local_model:
        return LocalChat(Path(teacher.local_model), teacher.concurrency)
    assert teacher.base_url is not None, "the settings give one of the two"
    return ChatEndpoint(
        teacher.base_url,
        os.environ.get(API_KEY),
        concurrency=teacher.concurrency,
        retries=teacher.retries,
        timeout_s=teacher.timeout_s,
        token_limit=teacher.token_limit,
    )
