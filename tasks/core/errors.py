"""Errors that only the machinery raises, and the filter that keeps secrets out of every message."""

from __future__ import annotations

import errno
import os
import re

from data_contracts.errors import ArtifactError, ConfigError, ContractError, GateError, PlumblineError

__all__ = [
    "ArtifactError",
    "ChildError",
    "ConfigError",
    "ContractError",
    "GateError",
    "PlumblineError",
    "TransientError",
    "explain_os_error",
    "full_disk",
    "redact",
]


class ChildError(PlumblineError):
    """A child process died, hung or was killed; says what was last seen of it."""


class TransientError(PlumblineError):
    """The network or a far server failed in a way that may pass: the only error that is retried."""


_SECRET_NAMES = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY|AUTH_STRING|CREDENTIAL", re.IGNORECASE)
_SECRET_SHAPES = re.compile(r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|AKIA[A-Z0-9]{16})\b")


def secret_names() -> list[str]:
    """Names of the environment variables whose values are secrets by their name."""
    return [name for name, value in os.environ.items() if _SECRET_NAMES.search(name) and len(value) >= 8]


def redact(text: str) -> str:
    """Replace the value of every secret in the environment, and anything shaped like a token, by its name."""
    for name in secret_names():
        text = text.replace(os.environ[name], f"<{name}>")
    return _SECRET_SHAPES.sub("<redacted>", text)


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_ROOM_WORDS = re.compile(
    "|".join(map(os.strerror, _NO_ROOM))
    + r"|os error (?:28|122|27)\b|PytorchStreamWriter failed writing|unexpected pos \d+ vs \d+"
)


def explain_os_error(stage: str, error: BaseException) -> PlumblineError | None:
    """A full or unwritable disk in one sentence; None for anything else.

    safetensors, torch and polars raise errors of their own when a write fails: those are known by their words.
    """
    number = error.errno if isinstance(error, OSError) else None
    where = getattr(error, "filename", None) or "the store"
    if number in _NO_ROOM or (number is None and _NO_ROOM_WORDS.search(str(error))):
        return full_disk(stage, where)
    if number in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR):
        return ArtifactError(
            f"{stage}: cannot write {where} ({os.strerror(number)}). "
            "Make the folder writable, or set `store` in the config to one that is, then run again."
        )
    return None


def full_disk(stage: str, where: object) -> ArtifactError:
    """The error of a write that found no room, be it the disk's, a quota's or a file size limit's."""
    return ArtifactError(
        f"{stage}: the disk is full while writing {where}. Nothing half-written was kept. "
        "Free some space, or set `store` in the config to a larger disk, then run again: finished stages are reused."
    )
