"""The answers that a panel judges: read from evaluations, put side by side by prompt, cut to what judges never see twice.

Reads answers.jsonl ({"row", "answers": {model: text}}) and scores.json of an evaluation, or comparison.json of a comparison.
With several of them a model is called <input>/<model>; one file that answered alike in all stands there once, under its bare
name.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_contracts.prompting import markers
from data_contracts.prompting.prompt import PromptContract
from data_contracts.prompting.rubric import Rubric
from tasks.core.artifact import content_digest
from tasks.core.errors import ArtifactError, ConfigError
from tasks.formats.jsonl import read_lines
from tasks.judging.injection import addresses_judge
from tasks.judging.judge import Identity, Item, JudgeSettings, normal_url
from tasks.judging.panel import COMPETITOR, FLOOR, YARDSTICK
from tasks.recipes.interface import Recipe

GATE_PASS = "gate_pass_fraction"
"""The metric of a recipe's `score` that makes the gates' half of the final score."""


SCORES, COMPARISON = "scores.json", "comparison.json"
"""What an evaluation and a comparison list their models in."""


@dataclass
class Model:
    """One model under test, as its evaluation lists it."""

    name: str
    role: str = COMPETITOR
    family: str | None = None
    file_digest: str | None = None
    size_bytes: int | None = None
    identity: Identity | None = None
    """Where it answers, for a model behind an endpoint."""


@dataclass
class AnswerTable:
    """Every model's answer to every prompt that is judged."""

    rows: list[dict]
    tasks: list[str]
    """What each prompt asks, as the judge reads it."""
    models: list[Model]
    texts: list[list[str]]
    """(models, prompts)"""
    items: list[Item] = field(default_factory=list)
    """Different answers to a prompt, each once."""
    places: list[list[int]] = field(default_factory=list)
    """(models, prompts): number of the item."""
    evaluated: list[Model] = field(default_factory=list)
    """All models of the evaluations, those that are not judged too: none of them may be a judge."""

    def __post_init__(self) -> None:
        known: dict[tuple[int, str], int] = {}
        for texts in self.texts:
            self.places.append([known.setdefault((p, text), len(known)) for p, text in enumerate(texts)])
        self.items = [Item(p, self.tasks[p], text) for p, text in known]

    def owners(self, item: int) -> list[int]:
        """The models that gave an answer, by number."""
        prompt = self.items[item].prompt
        return [m for m in range(len(self.models)) if self.places[m][prompt] == item]

    @property
    def digest(self) -> str:
        """sha256 over the prompts: boards over other prompts are not compared."""
        return hashlib.sha256(json.dumps(sorted(self.tasks)).encode()).hexdigest()


def read_answers(
    inputs: Mapping[str, Path],
    manifests: Mapping[str, Mapping],
    contract: PromptContract,
    *,
    prompts: int,
    seed: int,
    only: Sequence[str] = (),
    roles: Mapping[str, Sequence[str]],
    families: Mapping[str, str],
) -> AnswerTable:
    """The table over prompts that all evaluations asked; `prompts` of them, drawn by seed.

    `only` names the models that are judged, all when empty; `roles` maps yardstick and floor to names.

    Raises:
        ConfigError: the evaluations were asked different prompts, or a name in `only`, `roles` or `families` fits no model.
        ArtifactError: an evaluation holds no answers, or not every model's.
    """
    found = {name: _read(name, folder, manifests.get(name, {}), contract) for name, folder in inputs.items()}
    _refuse_other_prompts({name: set(one.lines) for name, one in found.items()})
    tasks = list(next(iter(found.values())).lines)
    chosen = sorted(random.Random(seed).sample(range(len(tasks)), min(prompts, len(tasks))))
    tasks = [tasks[i] for i in chosen]
    models, texts = _merged(found, tasks)
    _give_roles(models, roles, families)
    _refuse_unknown(models, {"models": only, **roles, "families": list(families)})
    kept = [m for m, one in enumerate(models) if not only or _named(one.name, only)]
    rows = [next(iter(found.values())).lines[task]["row"] for task in tasks]
    return AnswerTable(rows, tasks, [models[m] for m in kept], [texts[m] for m in kept], evaluated=models)


@dataclass
class _Evaluation:
    lines: dict[str, dict]
    """Task -> line of answers.jsonl."""
    board: list[dict]
    endpoints: dict[str, Identity]
    """Model -> where it answers, for those behind an endpoint."""


def _read(name: str, folder: Path, manifest: Mapping, contract: PromptContract) -> _Evaluation:
    listed = next((path for path in map(folder.joinpath, (SCORES, COMPARISON)) if path.is_file()), None)
    if listed is None or not (folder / "answers.jsonl").is_file():
        lacks = "answers.jsonl" if listed else f"{SCORES} and no {COMPARISON}"
        raise ArtifactError(f"judge_answers: {name} holds no {lacks}. Give an evaluation as the input {name}.")
    board = json.loads(listed.read_text("utf-8"))
    board = board["models"] if listed.name == COMPARISON else board  # a comparison holds more than its models
    models = {row["model"] for row in board}
    lines: dict[str, dict] = {}
    short = 0
    for line in read_lines(folder / "answers.jsonl"):
        short += set(line["answers"]) != models
        lines.setdefault(task_of(contract, line["row"]), line)
    if not lines or short:
        raise ArtifactError(
            f"judge_answers: {short if lines else 'all'} of {len(lines)} prompts of {name} lack a model's answer. "
            f"Expected one of each of {len(models)} models. Evaluate again."
        )
    return _Evaluation(lines, board, _endpoints(manifest))


def _endpoints(manifest: Mapping) -> dict[str, Identity]:
    """What the settings of a comparison say about models behind endpoints."""
    entries = manifest.get("config", {}).get("models", [])
    given = {one["name"]: one["endpoint"] for one in entries if isinstance(one, dict) and one.get("endpoint")}
    return {name: Identity(normal_url(one["base_url"]), one["model"]) for name, one in given.items()}


def task_of(contract: PromptContract, row: dict) -> str:
    """What a row asks, as one text: the words that every model was given."""
    return "\n\n".join(one["content"] for one in contract.messages(row))


def _refuse_other_prompts(asked: dict[str, set[str]]) -> None:
    (first, prompts), *others = asked.items()
    if wrong := [
        f"{first} and {name} have {len(prompts & other)} of {max(len(prompts), len(other))} prompts in common"
        for name, other in others
        if other != prompts
    ]:
        raise ConfigError(
            f"judge_answers: {'; '.join(wrong)}. A panel compares answers to the same prompts: evaluate all on the same "
            "held-out rows."
        )


def _merged(found: dict[str, _Evaluation], tasks: list[str]) -> tuple[list[Model], list[list[str]]]:
    """The models of all evaluations. The same file, or endpoint, with the same answers in each of them is one model."""
    models, texts = [], []
    for name in dict.fromkeys(row["model"] for one in found.values() for row in one.board):
        given = [(label, row) for label, one in found.items() for row in one.board if row["model"] == name]
        answers = [[found[label].lines[task]["answers"][name] for task in tasks] for label, _ in given]
        same = {
            (row.get("file_digest"), found[label].endpoints.get(name), tuple(one))
            for one, (label, row) in zip(answers, given, strict=True)
        }
        alike = len(given) == len(found) and len(same) == 1
        for (label, row), one in list(zip(given, answers, strict=True))[: 1 if alike else None]:
            models.append(_model(name if alike else f"{label}/{name}", row, found[label].endpoints.get(name)))
            texts.append(one)
    return models, texts


def _model(name: str, row: dict, identity: Identity | None) -> Model:
    return Model(
        name,
        role={"ceiling": YARDSTICK, "base": FLOOR}.get(row.get("role") or "", COMPETITOR),
        file_digest=row.get("file_digest"),
        size_bytes=row.get("size_bytes"),
        identity=identity,
    )


def _named(name: str, wanted: Sequence[str]) -> bool:
    """A model is meant by its whole name, or by the part after the input's."""
    return name in wanted or name.rpartition("/")[2] in wanted


def _give_roles(models: list[Model], roles: Mapping[str, Sequence[str]], families: Mapping[str, str]) -> None:
    for one in models:
        for role, names in roles.items():
            if _named(one.name, names):
                one.role = role
        one.family = families.get(one.name) or families.get(one.name.rpartition("/")[2]) or one.family


def _refuse_unknown(models: list[Model], named: Mapping[str, Sequence[str]]) -> None:
    known = {part for one in models for part in (one.name, one.name.rpartition("/")[2])}
    optional = {"ceiling", "teacher", "base"}  # the defaults of their settings: an evaluation without one has none
    if wrong := [
        f"{setting}: {name}"
        for setting, names in named.items()
        for name in names
        if name not in (known if setting == "models" else known | optional)
    ]:
        raise ConfigError(
            f"judge_answers: {len(wrong)} names fit no model that was evaluated: {', '.join(wrong)}. "
            f"Evaluated: {', '.join(one.name for one in models)}."
        )


def gate_results(recipe: Recipe, row: dict, text: str) -> dict[str, bool | None]:
    """Gate -> passed, failed, or None where it says nothing about this row; empty for a recipe without gates on answers.

    A recipe has them when its `score` gives `gate_pass_fraction`; each gate is then a metric of 0, 1 or None.
    """
    numbers = recipe.score(row, recipe.parse_output(text, row))
    if GATE_PASS not in numbers:
        return {}
    found = {name: value for name, value in numbers.items() if name != GATE_PASS and value in (None, 0.0, 1.0)}
    return {name.removesuffix("_fraction"): None if value is None else bool(value) for name, value in found.items()}


def gate_share(recipe: Recipe, row: dict, text: str) -> float | None:
    """Share of the gates that say something which an answer passes; None when none does."""
    return recipe.score(row, recipe.parse_output(text, row)).get(GATE_PASS)


def warnings_of(text: str, rubric: Rubric) -> list[str]:
    """What a reader of the scores should know about an answer: it is empty, leaks a channel, or speaks to its judge."""
    found = [] if text.strip() else ["empty: there is no answer"]
    if leak := re.search(markers.STRIPPED_MARKERS, text):
        found.append(f"leaked channel: {' '.join(leak[0].split())!r}")
    return found + addresses_judge(text, rubric)


def self_judging(
    judges: Sequence[JudgeSettings], identities: Sequence[Identity], models: Sequence[Model], kinds: Sequence[str]
) -> list[str]:
    """Judges that are a model of the run: by content for files, by address and name behind an endpoint.

    `kinds` are the kinds of artifacts among the models: a folder's digest in the store depends on its kind.
    """
    found = []
    for judge, identity in zip(judges, identities, strict=True):
        digests = {identity.where} | {content_digest(kind, identity.files) for kind in kinds if identity.files}
        same = [
            one.name
            for one in models
            if one.identity == identity or (one.file_digest is not None and one.file_digest in digests)
        ]
        if same:
            found.append(f"judge {judge.name} is {' and '.join(same)}, a model under test")
    return found
