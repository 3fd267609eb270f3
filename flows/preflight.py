"""What a run would fail on late, refused before anything is built: gates, reference rows, the rows it wants, its prompt."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

from data_contracts.errors import ConfigError, ContractError
from data_contracts.gates import load_gates
from data_contracts.limits import load_limits
from data_contracts.prompting.prompt import PromptSet, load_prompt, prompt_problems
from tasks.build_dataset import DatasetConfig
from tasks.core.artifact import Artifact, Store
from tasks.core.stage import Run, recall
from tasks.evaluation.gating import unknown_metrics
from tasks.recipes import RECIPES, load_recipe
from tasks.recipes.interface import Recipe
from tasks.validate_dataset import STAGE as VALIDATE
from tasks.validate_dataset import ValidateConfig, check_contract

ROWS_READ = 200
"""Rows of a split that are drawn from an endless source, or read from a file of the user's, to see what rows hold."""


def recipe_problems(name: str) -> list[str]:
    """Metrics of gates.yaml that no evaluation measures; a recipe without reference rows."""
    if name not in RECIPES:
        return []
    recipe, problems = load_recipe(name), []
    with suppress(ConfigError):  # the config reports a gates.yaml that cannot be read
        problems += [f"  recipe (gates): {line}" for line in unknown_metrics(load_gates(name), recipe)]
    if not _reference_rows(recipe):
        problems.append(
            f"  recipe (reference rows): {name} has none, expected 1 or more: every evaluation sends them to each model. Add "
            f"rows to data_contracts/{name}/examples/reference.jsonl, and return them from reference_rows() of the recipe."
        )
    return problems


def _reference_rows(recipe: Recipe) -> list[dict]:
    try:
        return recipe.reference_rows()
    except (AttributeError, ContractError):
        return []


def dataset_problems(
    name: str, dataset: DatasetConfig, limits: Mapping[str, str], prompt_sets: Sequence[PromptSet] = ("trained",)
) -> list[str]:
    """An unknown source; more rows than there are; fewer than a profile of limits allows; a prompt that no row fills.

    `limits`: setting -> the profile that it names.
    """
    if name not in RECIPES:
        return []
    recipe = load_recipe(name)
    sources = ("file", *recipe.SOURCES)
    if dataset.source not in sources:
        wrong_source = f"  dataset.source: found {dataset.source!r}. Allowed for {name}: {', '.join(sources)}."
        return [wrong_source, *_too_few_rows(name, dataset, limits)]
    try:
        rows = _first_rows(recipe, dataset)
    except ConfigError as error:
        return [*(f"  {line}" for line in error.problems), *_too_few_rows(name, dataset, limits)]
    except ContractError as error:
        return [f"  dataset: {error}", *_too_few_rows(name, dataset, limits)]
    return [*_too_few_rows(name, dataset, limits), *_unfilled_prompts(name, recipe, rows, prompt_sets)]


def _first_rows(recipe: Recipe, dataset: DatasetConfig) -> list[dict]:
    """All rows of the dataset; of an endless source and of a file the first, and the file's rows are counted.

    Raises:
        ConfigError: there are fewer rows than the dataset is to have. ContractError: a file of rows cannot be read.
    """
    if dataset.source == "file":
        return _first_of_file(Path(str(dataset.rows_file)), dataset)
    train_rows, heldout_rows = dataset.train_rows, dataset.heldout_rows
    if dataset.source in recipe.ENDLESS_SOURCES:
        train_rows, heldout_rows = min(train_rows, ROWS_READ), min(heldout_rows, ROWS_READ)
    return list(chain(*recipe.build_rows(dataset.source, train_rows, heldout_rows, dataset.seed)))


def _first_of_file(path: Path, dataset: DatasetConfig) -> list[dict]:
    from data_contracts.rows.rows_file import row_batches
    from tasks.build_dataset import refuse_too_few_rows

    first: list[dict] = []
    n_rows = 0
    for batch in row_batches(path):
        first += [] if first else batch.frame.head(ROWS_READ).to_dicts()
        n_rows += batch.frame.height
    refuse_too_few_rows(dataset, n_rows)
    return first


def _too_few_rows(name: str, dataset: DatasetConfig, limits: Mapping[str, str]) -> list[str]:
    """A teacher's rows are added to the training rows, so with one the number of those is not known yet."""
    splits = {"heldout_rows": dataset.heldout_rows} | ({} if dataset.teacher else {"train_rows": dataset.train_rows})
    problems = []
    for setting, profile in limits.items():
        try:
            fewest = load_limits(name, profile).min_rows
        except ConfigError:
            continue  # the config reports limits that cannot be read
        problems += [
            f"  dataset.{split}: found {count:,}, and {setting} {profile!r} allows no fewer than {fewest:,} rows of a split "
            f"(min_rows of data_contracts/{name}/limits.yaml). Raise dataset.{split}, or set {setting} to another profile."
            for split, count in splits.items()
            if count < fewest
        ]
    return problems


def _unfilled_prompts(name: str, recipe: Recipe, rows: Sequence[dict], prompt_sets: Sequence[PromptSet]) -> list[str]:
    problems = []
    for prompt_set in dict.fromkeys(prompt_sets):
        try:
            prompt = load_prompt(name, prompt_set)
        except ConfigError:
            continue  # the config, or the stage that sends this prompt, reports a prompt that cannot be read
        problems += [f"  recipe (prompt): {line}" for line in prompt_problems(prompt, rows)]
        if not problems:
            problems += [
                f"  recipe (prompt): {line} (reference rows)"
                for line in prompt_problems(prompt, _reference_rows(recipe))
            ]
    return problems


def contract_lines(run: Run, dataset: Artifact, blocks: Mapping[str, ValidateConfig]) -> list[str]:
    """Hold the built rows to the row rules and the audit before a base model is fetched; one line for each profile of limits.

    `validate_dataset` does the same once there is a tokenizer, and more; where it has passed these rows before, nothing runs
    here. `blocks`: part of the run -> the settings of its validation.

    Raises:
        ContractError: rows or the set break the contract.
    """
    store, lines, held = Store(run.store), [], set()
    for part, config in blocks.items():
        if config.limits in held or _passed_before(run.model_copy(update={"part": part}), config, dataset, store):
            continue
        held.add(config.limits)
        started = time.monotonic()
        counts = check_contract(
            run.recipe, config.limits, store.folder(dataset), store.work("contract", dataset.digest)
        )
        lines.append(
            f"{'row contract':<17} passed   {time.monotonic() - started:6.1f} s  "
            f"{counts['train']:,} + {counts['heldout']:,} rows, limits {config.limits}"
        )
    return lines


def _passed_before(run: Run, config: ValidateConfig, dataset: Artifact, store: Store) -> bool:
    """The last validation of this run's name was of these rows, by the same code, contract and settings."""
    last = recall(VALIDATE, run, store)
    if last is None:
        return False
    before, now = last[0], VALIDATE.key_parts(run, config, {"dataset": dataset})
    inputs = {name: digest for name, digest in before["work"]["inputs"].items() if name != "base"}
    return {**before["work"], "inputs": inputs} == now.work and before["checks"] == now.checks
