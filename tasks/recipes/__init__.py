"""Recipes: what is particular to one kind of model, behind functions that every stage calls by the same name."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

from data_contracts.errors import ConfigError

RECIPES = ("signals", "proofkit")
"""The recipes that exist. Each is a folder here and one of the same name in data_contracts/.

A recipe module offers:
    METRICS = (metric, ...)                                                   the names that `score` gives
    SOURCES = (source, ...)                                                   what dataset.source may name, beside "file"
    ENDLESS_SOURCES = (source, ...)                                           those of any number of rows, of which a smaller set
                                                                              is the beginning of a larger one; may be left out
    build_rows(source, train_rows, heldout_rows, seed) -> (train, heldout)   rows as flat dicts
    reference_rows() -> rows of the fixed benchmark, at least one
    completion(row) -> str                                                    what the model learns to answer
    parse_output(text, row) -> Parsed                                         an answer to a row read back, or why it cannot be
    with_thoughts(text, thoughts) -> str                                      an answer given without its trace, made readable;
                                                                              only where answers hold one
    reads_back(row) -> bool                                                   the row's own answer survives being read
    score(row, parsed) -> {metric: number | None}                             None: this row says nothing about it
    all_right(row, parsed) -> bool                                            for the side-by-side page
    probe() -> module with                                                    what is asked beyond being right:
        variants(row) -> {kind: changed row}, holds(kind, before, after)      how answers must follow a changed input
        paired_measures(rows, parsed) -> {name: (statistic, pairs)}           numbers that are no share of rows
        traces(answers, rows) -> [Trace]                                      the reasoning shown; only where KEEPS_TRACE
    teacher_seeds() -> path, teacher_messages(seed) -> messages,              where a teacher can write its traces
        teacher_row(seed, text, model) -> row
    with_answer(row, text) -> row                                             the row with a teacher's answer in place of its own;
                                                                              ContractError `kind: detail` when it cannot be
    KEEPS_TRACE = True                                                        where the answer begins with a thinking trace that
                                                                              belongs to the row; elsewhere thoughts are cut off
    wording(row) -> str | None                                                the template a synthetic row is made of
    pretraining_rows(n_rows, seed) -> (messages, answer) pairs                what its nano base is made of
"""


@dataclass(frozen=True)
class Trace:
    """The reasoning that an answer shows before it answers."""

    text: str
    """What stands where the reasoning should, without its tags, as far as it went; empty when the answer comes at once."""
    begun: bool
    """A tag opens or closes it."""
    well_formed: bool
    """The answer holds exactly one trace, closed and not empty."""
    agrees: bool | None
    """The answer says what the words of the trace conclude; None when they conclude nothing, or nothing can be read."""


def load_recipe(name: str) -> ModuleType:
    """The recipe's module.

    Raises:
        ConfigError: there is no such recipe.
    """
    if name not in RECIPES:
        raise ConfigError(f"recipe: there is no recipe {name!r}. Known: {', '.join(RECIPES)}.")
    return import_module(f"tasks.recipes.{name}.recipe")


def keeps_trace(name: str) -> bool:
    """Whether a model's thinking trace is part of the recipe's answers."""
    return getattr(load_recipe(name), "KEEPS_TRACE", False)
