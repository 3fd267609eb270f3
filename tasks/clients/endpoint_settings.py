"""Settings of a model behind an OpenAI-compatible address, or on this disk in its place; and the client made from them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from tasks.clients.local_model import LocalChat
from tasks.clients.openai_endpoint import ChatEndpoint, url_problem
from tasks.core.errors import ConfigError
from tasks.core.settings import Settings

API_KEY = "PLUMBLINE_ENDPOINT_API_KEY"
"""The environment variable with an endpoint's key, unless its settings name another."""
TEACHER_API_KEY = "PLUMBLINE_TEACHER_API_KEY"
"""The same for a teacher."""


def plain_address(value: str | None, place: str) -> str | None:
    """The address itself. `place`: the block of the config that holds it.

    Raises:
        ConfigError: it is no plain address. Not a ValueError: its message would show the value, and with it a password.
    """
    if value is not None and (problem := url_problem(value)):
        raise ConfigError(f"config: {place}.base_url {problem}.")
    return value and value.rstrip("/")


class RequestSettings(Settings):
    """How requests are sent to an OpenAI-compatible endpoint."""

    place: ClassVar[str] = "endpoint"

    api_key_env: str = Field(default=API_KEY, pattern=r"^[A-Z][A-Z0-9_]{0,63}$")
    """Name of the environment variable that holds the key; never the key itself. Unset where no key is needed."""
    token_limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the endpoint calls the token budget of an answer; some hosted models know the second name only."""
    concurrency: int = Field(default=8, ge=1, le=1024)
    """Requests in flight at once; for a local model, prompts in a batch."""
    retries: int = Field(default=5, ge=0, le=20)
    """Further tries of a request after 429, a server's error, a lost connection or a timeout."""
    timeout_s: float = Field(default=120, gt=0, le=600)
    """Longest wait for one whole answer, in seconds."""

    @field_validator("base_url", check_fields=False)
    @classmethod
    def _plain_address(cls, value: str | None) -> str | None:
        return plain_address(value, cls.place)

    @field_validator("api_key_env")
    @classmethod
    def _known_as_a_secret(cls, value: str) -> str:
        if "API_KEY" not in value and "TOKEN" not in value:
            raise ValueError("the name must hold API_KEY or TOKEN: that is how logs know what to hide")
        return value

    def client(self, base_url: str, *, retries: int | None = None) -> ChatEndpoint:
        """A client of that address, with the key from the environment; `retries` in place of the setting."""
        return ChatEndpoint(
            base_url,
            os.environ.get(self.api_key_env),
            concurrency=self.concurrency,
            retries=self.retries if retries is None else retries,
            timeout_s=self.timeout_s,
            token_limit=self.token_limit,
        )


class EndpointSettings(RequestSettings):
    """A model behind an OpenAI-compatible API: vLLM, llama.cpp, Ollama, hosted."""

    base_url: str
    """Address without a key in it, such as http://127.0.0.1:8000/v1."""
    model: str = Field(min_length=1)
    """The model's name there."""
    temperature: float | None = Field(default=0.0, ge=0, le=2)
    """0 is greedy; null leaves it to an endpoint that takes no other value than its own."""


class ChatModelSettings(RequestSettings):
    """A model that answers chats: behind an OpenAI-compatible API, or on this disk."""

    base_url: str | None = None
    """An OpenAI-compatible endpoint, e.g. http://127.0.0.1:8000/v1."""
    local_model: str | None = None
    """In place of base_url: a .gguf file, or a folder that transformers loads. It answers greedily."""
    model: str | None = None
    """The model's name at the endpoint. With local_model: the file's name when left out."""
    temperature: float | None = Field(default=0.0, ge=0, le=2)
    """0 is greedy; null leaves it to an endpoint that takes no other value than its own."""

    @model_validator(mode="after")
    def _one_source(self) -> ChatModelSettings:
        if (self.base_url is None) == (self.local_model is None):
            raise ValueError("give base_url or local_model, and not both")
        if self.base_url is not None and not self.model:
            raise ValueError("base_url needs model, the model's name at the endpoint")
        if self.local_model is not None:
            if self.temperature:
                raise ValueError("local_model answers greedily: leave temperature out")
            path = Path(self.local_model)
            if not (path.is_dir() or (path.is_file() and path.suffix == ".gguf")):
                raise ValueError(
                    f"local_model {self.local_model!r} is not there, or is neither a .gguf file nor a folder"
                )
        return self

    @property
    def served_as(self) -> str:
        """The model's name where it answers."""
        return self.model or Path(self.local_model or "").stem

    @property
    def sent_temperature(self) -> float | None:
        """What a request carries; None for a local model, which is always greedy."""
        return None if self.local_model else self.temperature

    @property
    def model_files(self) -> list[str]:
        """The user's files that shape the answers."""
        if self.local_model is None:
            return []
        path = Path(self.local_model)
        return [str(file) for file in sorted(path.rglob("*")) if file.is_file()] if path.is_dir() else [str(path)]

    def open_source(self) -> ChatEndpoint | LocalChat:
        """The model, ready for requests in a `with` block."""
        if self.base_url is None:
            return LocalChat(Path(self.local_model or ""), self.concurrency)
        return self.client(self.base_url)
