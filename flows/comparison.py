"""The configuration of a comparison: a list of models in YAML, or what the last run of a finetune profile left in its store."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from data_contracts.errors import ConfigError
from flows.config import FinetuneConfig, RunConfig, flow_of, load_config, profile_path
from tasks import build_dataset, export_gguf, merge_adapter, merge_into_nf4, prepare_base, train_lora, validate_dataset
from tasks.compare_models import CompareConfig, heldout_rows, refuse_unaskable
from tasks.comparison import preflight as askable
from tasks.comparison.model_entry import ADAPTER, BASE, MERGED, NF4, ModelEntry, run_input
from tasks.core import keys
from tasks.core.artifact import Artifact, Store
from tasks.core.settings import split_settings
from tasks.core.stage import Run, Stage, recall
from tasks.merge_into_nf4 import MergeIntoNf4Config
from tasks.prepare_base import BaseConfig

if TYPE_CHECKING:
    from flows.pipeline import Pipeline

_MAKERS: dict[str, tuple[Stage, str]] = {
    "base": (prepare_base.STAGE, "base"),
    "dataset": (build_dataset.STAGE, "dataset"),
    "rows": (validate_dataset.STAGE, "validate_rows"),
    "adapter": (train_lora.STAGE, "train"),
    "merged": (merge_adapter.STAGE, "merge"),
    "gguf": (export_gguf.STAGE, "export"),
}
"""Role of an artifact in a finetune run -> the stage that made it, and its block of the profile."""


class ComparisonConfig(RunConfig):
    """Everything about one comparison."""

    flow: Literal["compare"] = "compare"
    """Which flow the file is for."""
    folder: str = "comparison"
    """Folder in which the leaderboard is placed, under the comparison's name."""
    compare: CompareConfig


def load_comparison(profile: str, changes: dict[str, Any] | None = None) -> ComparisonConfig:
    """A list of models, by name (signals/compare-thinking) or path; for a finetune profile, what its last run made: base,
    adapter, merge, every quantisation, and a control. `changes` are dotted names and new values of whichever file it is.

    Raises:
        ConfigError: all unknown keys, wrong types and impossible values at once; a run that was made with other settings.
    """
    path = profile_path(profile, "compare", "finetune")
    if flow_of(path) == "compare":
        return load_config(path, changes, ComparisonConfig)
    finetune = load_config(path, changes, FinetuneConfig)
    other = _other_settings(finetune, last_run(finetune.run()))
    if other:
        head = f"compare: the last run of {finetune.name} was made with other settings than {path.name}. Nothing was asked."
        raise ConfigError([head, *other, "  Give --set as that run did, or run finetune again with these settings."])
    return comparison_of(finetune)


def comparison_of(finetune: FinetuneConfig) -> ComparisonConfig:
    """The comparison of one run with itself: how far each step on the way is from the adapter as it was trained.

    Its leaderboard is placed beside the folder of the releases.
    """
    parts = (BASE, ADAPTER, MERGED, NF4, *finetune.export.names)
    roles: dict[str, Literal["base", "control"]] = {BASE: "base", NF4: "control"}
    models = [ModelEntry(name=part, run=finetune.name, part=part, role=roles.get(part)) for part in parts]
    shared = {name: getattr(finetune, name) for name in RunConfig.model_fields}
    folder = Path(finetune.publish.folder).parent / "comparison"
    asking = finetune.evaluate.model_dump(include=set(CompareConfig.model_fields))
    compare = CompareConfig(models=models, rows_run=finetune.name, distance_to=ADAPTER, **asking)
    return ComparisonConfig(**shared, folder=str(folder), compare=compare)


Last = dict[str, tuple[dict, Artifact]]
"""Role of an artifact -> (parts of its key, the artifact)."""


def last_run(run: Run) -> Last:
    """What a finetune run made last, each from the other.

    Raises:
        ConfigError: it was never run, or its last run stopped half-way: an artifact was made from another than the last.
    """
    store = Store(run.store)
    recalled = {role: recall(stage, run, store) for role, (stage, _) in _MAKERS.items()}
    found = {role: last for role, last in recalled.items() if last is not None}
    if missing := [role for role in recalled if role not in found]:
        what = "nothing" if not found else f"no {', '.join(missing)}"
        raise ConfigError(
            f"compare: {run.store} holds {what} of a run {run.name}. Make it first: python -m flows finetune, with the profile "
            "of that name."
        )
    strange = [
        f"{role} was made from another {given}"
        for role, (parts, _) in found.items()
        for given, named in {**parts["work"]["inputs"], **parts["checks"]["inputs"]}.items()
        if given in found and named != f"{found[given][1].kind}:{found[given][1].digest}"
    ]
    if strange:
        raise ConfigError(
            f"compare: the last run of {run.name} stopped half-way: {'; '.join(strange)}. Run it again; what it has is reused."
        )
    return found


def _other_settings(finetune: FinetuneConfig, last: Last) -> list[str]:
    """Settings that shape what the last run made, and that the profile does not have; what only measures is no difference."""
    found = []
    for role, (stage, block) in _MAKERS.items():
        fields = type(now := getattr(finetune, block)).model_fields
        then = {name: value for name, value in last[role][0]["work"]["config"].items() if name in fields}
        work = split_settings(now)[0]
        # A setting that came after the run, and is not touched, is no difference.
        new = {
            name
            for name in work.keys() - then.keys()
            if getattr(now, name) == fields[name].get_default(call_default_factory=True)
        }
        changed = keys.differences(then, {name: value for name, value in work.items() if name not in new})
        found += [f"  {block}.{one} since {stage.name} of the last run" for one in changed]
    return found


def from_last_runs(config: ComparisonConfig) -> dict[str, Artifact]:
    """Stage's input -> artifact, for every run that the comparison names; each hashed again.

    Raises:
        ConfigError: a run is not whole. ArtifactError: a file changed since it was made.
    """
    compare, store = config.compare, Store(config.store)
    runs = sorted({one.run for one in compare.models if one.run} | ({compare.rows_run} if compare.rows_run else set()))
    wanted = {name for one in compare.models for name in one.inputs.values()} | {run_input(run, "rows") for run in runs}
    found: dict[str, Artifact] = {}
    for run in runs:
        for role, (_, artifact) in last_run(config.run().model_copy(update={"name": run})).items():
            if run_input(run, role) in wanted:
                found[run_input(run, role)] = store.verify(artifact)
    return found


def check_askable(config: ComparisonConfig, inputs: dict[str, Artifact]) -> dict[str, str]:
    """Endpoint's name -> sha256 of its answer to the first row, once every model can be asked as far as can be known.

    Raises:
        ConfigError: every problem at once, before anything is downloaded or asked. ContractError: a row breaks its contract.
    """
    compare, store = config.compare, Store(config.store)
    folders = {name: store.folder(one) for name, one in inputs.items()}
    problems = [f"  {name} is not installed. Run: python deployments/setup.py" for name in _lacking(compare)]
    rows = heldout_rows(compare, config.recipe, folders)
    problems += askable.disk_problems(compare.models, folders, config.recipe, rows)
    found, known_by = askable.network_problems(compare.models, config.recipe, rows[0], compare.max_new_tokens)
    refuse_unaskable(compare, problems + found)
    return known_by


def _lacking(compare: CompareConfig) -> list[str]:
    needed = {"matplotlib": True, "bitsandbytes": any(one.part == NF4 for one in compare.models)}
    return [name for name, wanted in needed.items() if wanted and find_spec(name) is None]


def make_missing(config: ComparisonConfig, pipeline: Pipeline, inputs: dict[str, Artifact]) -> dict[str, Artifact]:
    """Stage's input -> artifact for what the store lacks yet: models of the Hub, controls. Each is verified as it is made."""
    made: dict[str, Artifact] = {}
    for entry in config.compare.models:
        if entry.hub and (name := entry.inputs["model"]) not in made:
            base = BaseConfig(source="hub", model_id=entry.hub, revision=entry.revision)
            made[name] = pipeline.part(entry.name)(prepare_base.STAGE, base)
        if entry.part == NF4 and (name := run_input(str(entry.run), "nf4")) not in made:
            given = {role: inputs[run_input(str(entry.run), role)] for role in ("base", "adapter")}
            made[name] = pipeline(merge_into_nf4.STAGE, MergeIntoNf4Config(), **given)
    return made
