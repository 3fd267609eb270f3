"""Manifests as a release may show them: what they tell of this machine and its network is replaced, all else is kept."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tasks.core.artifact import sha256_file
from tasks.judging.judge import Identity, normal_url

_ADDRESS = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s\"'<>]+", re.IGNORECASE)
_PATH = re.compile(r"(?<![\w./~<])~?(?:/[^\s/\"'<>,;:()]+)+/([^\s/\"'<>,;:()]+)/?")
"""An absolute path of two parts or more, inside a sentence."""


def read_manifest(path: Path) -> dict:
    """A manifest of the store; `manifest_sha256` says which one, byte for byte.

    An endpoint's address becomes the digest that a board knows its model by, any other address `<address>`; of a path on this
    machine its last part is left.
    """
    manifest = json.loads(path.read_text("utf-8"))
    return {**_shareable(manifest), "manifest_sha256": sha256_file(path)}


def _shareable(value: Any) -> Any:
    if isinstance(value, dict):
        shown = {name: _shareable(one) for name, one in value.items()}
        if isinstance(url := value.get("base_url"), str):
            shown["base_url"] = Identity(normal_url(url), str(value.get("model") or "unnamed")).digest
        return shown
    if isinstance(value, list):
        return [_shareable(one) for one in value]
    return _shareable_text(value) if isinstance(value, str) else value


def _shareable_text(text: str) -> str:
    if text.startswith(("/", "~/")) and "\n" not in text:  # a path as a whole: it may hold spaces
        return text.rstrip("/").rpartition("/")[2]
    return _PATH.sub(r"\1", _ADDRESS.sub("<address>", text))
