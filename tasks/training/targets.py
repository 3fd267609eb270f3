"""Which layers and parameters of a base an adapter is asked for, by the ends of their names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tasks.core.errors import ConfigError
from tasks.runtimes import hf_model


def refuse_unmatched_targets(
    base_folder: Path, target_modules: list[str] | str, target_parameters: Sequence[str]
) -> None:
    """A name that matches nothing is left out by PEFT, with a warning at most, and would be found out after training.

    Raises:
        ConfigError: naming each, and what there is.
    """
    linear, parameters = hf_model.layer_shapes(base_folder)
    asked = [("target_modules", end, linear) for end in target_modules if target_modules != "all-linear"]
    asked += [("target_parameters", end, parameters) for end in target_parameters]
    lost = [(field, end, there) for field, end, there in asked if not any(matches(name, [end]) for name in there)]
    if lost:
        sentences = [
            f"  train.{field}: {end!r} matches nothing. The base has {', '.join(sorted({n.rpartition('.')[2] for n in there}))}."
            for field, end, there in lost
        ]
        raise ConfigError([f"train_lora: {len(lost)} target(s) are not in the base. Nothing was trained.", *sentences])


def matches(name: str, ends: Sequence[str]) -> bool:
    """PEFT's rule: the whole name, or its last parts."""
    return any(f".{name}".endswith(f".{end}") for end in ends)
