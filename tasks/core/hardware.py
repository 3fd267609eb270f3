"""Machines and their prices (configs/hardware.yaml), and how long one was used: what a run cost."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from data_contracts.yaml_model import parse_yaml
from tasks.core.errors import ConfigError
from tasks.core.keys import PROJECT_ROOT

HARDWARE_FILE = PROJECT_ROOT / "configs" / "hardware.yaml"
_WRITE_EVERY_S = 1.0


class Hardware(BaseModel):
    """One kind of machine."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str
    memory_gib: float
    """Memory of one card, in GiB."""
    price_usd_per_hour: float | None
    """US dollars for one hour; None: not priced."""

    def cost_usd(self, seconds: float) -> float | None:
        """seconds x price, in US dollars; None where there is no price."""
        return None if self.price_usd_per_hour is None else round(seconds / 3600 * self.price_usd_per_hour, 4)


def load_hardware(name: str) -> Hardware:
    """One entry of configs/hardware.yaml.

    Raises:
        ConfigError: there is no such entry, or it is not well-formed.
    """
    entries = parse_yaml(HARDWARE_FILE.read_bytes(), "hardware: configs/hardware.yaml")
    if name not in entries:
        raise ConfigError(
            f"hardware: configs/hardware.yaml has no {name!r}. Known: {', '.join(entries)}. Add it, with its price, or null."
        )
    try:
        return Hardware(name=name, **entries[name])
    except (ValidationError, TypeError) as error:
        raise ConfigError(
            f"hardware: the entry {name!r} of configs/hardware.yaml is not well-formed: {error}"
        ) from None


class UsedSeconds:
    """How long work took over all its starts: a crash loses a second of the count at most."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def counting(self) -> Iterator[_Stretch]:
        """Count while the block runs; call `tick` now and then."""
        stretch = _Stretch(self.path)
        try:
            yield stretch
        finally:
            stretch.tick(now=True)

    def total(self) -> float:
        """Seconds of all stretches so far."""
        longest: dict[str, float] = {}
        with suppress(OSError):
            for line in self.path.read_text("utf-8").split("\n"):
                with suppress(ValueError, KeyError):
                    value = json.loads(line)
                    longest[value["stretch"]] = value["seconds"]
        return round(sum(longest.values()), 3)


class _Stretch:
    def __init__(self, path: Path) -> None:
        self._path, self._started, self._written = path, time.monotonic(), 0.0
        self._name = f"{os.getpid()}-{time.time_ns()}"

    def tick(self, *, now: bool = False) -> None:
        """Write the seconds so far down, at most once a second unless `now`."""
        seconds = time.monotonic() - self._started
        if now or seconds - self._written > _WRITE_EVERY_S:
            self._written = seconds
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"stretch": self._name, "seconds": round(seconds, 3)}) + "\n")
