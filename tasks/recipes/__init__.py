"""Recipes: what is particular to one kind of model, behind functions that every stage calls by the same name."""

from __future__ import annotations

from collections.abc import Callable

from data_contracts.errors import ConfigError
from tasks.recipes.interface import Recipe


def _signals() -> Recipe:
    from tasks.recipes.signals import recipe

    return recipe


def _proofkit() -> Recipe:
    from tasks.recipes.proofkit import recipe

    return recipe


RECIPES: dict[str, Callable[[], Recipe]] = {"signals": _signals, "proofkit": _proofkit}
"""The recipes that exist. Each is a folder here and one of the same name in data_contracts/, its module imported when it is
loaded; the type checker holds the module to `Recipe`."""


def load_recipe(name: str) -> Recipe:
    """The recipe's module.

    Raises:
        ConfigError: there is no such recipe.
    """
    if name not in RECIPES:
        raise ConfigError(f"recipe: there is no recipe {name!r}. Known: {', '.join(RECIPES)}.")
    return RECIPES[name]()


def keeps_trace(name: str) -> bool:
    """Whether a model's thinking trace is part of the recipe's answers."""
    return load_recipe(name).KEEPS_TRACE
