"""Who may write answers for training rows: a model behind an endpoint, or one on this disk."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field, model_validator

from tasks.clients.endpoint_settings import TEACHER_API_KEY, ChatModelSettings


class TeacherSettings(ChatModelSettings):
    """Who writes further training rows, from which seeds, and how patiently requests are sent. Its name names the rows' batch."""

    place: ClassVar[str] = "dataset.teacher"

    api_key_env: str = Field(default=TEACHER_API_KEY, pattern=r"^[A-Z][A-Z0-9_]{0,63}$")
    """Name of the environment variable that holds the key; never the key itself. Unset where no key is needed."""
    seeds_file: str | None = None
    """A .jsonl of rows without trace and source_batch; the recipe's own examples/teacher_seeds.jsonl when left out."""
    max_tokens: int = Field(default=2048, ge=16)
    """Token budget of an answer, a reasoning model's thoughts included; doubled for an answer that was cut off."""
    attempts: int = Field(default=2, ge=1, le=5)
    """How often a seed is sent in all; each time after the first with the reasons of the refusals before."""
    limits: str = "default"
    """Profile of data_contracts/<recipe>/limits.yaml, whose trace length a row must keep."""
    min_accepted_fraction: float = Field(default=0.8, ge=0, le=1)
    """Fewer accepted rows than this share of the seeds, and the build fails: prompt, model and contract do not fit."""

    @model_validator(mode="after")
    def _seeds_are_there(self) -> TeacherSettings:
        if self.seeds_file is not None and not Path(self.seeds_file).is_file():
            raise ValueError(f"seeds_file {self.seeds_file!r} is not there")
        return self

    @property
    def files(self) -> list[str]:
        """The user's files that shape the rows."""
        return [*([self.seeds_file] if self.seeds_file else []), *self.model_files]
