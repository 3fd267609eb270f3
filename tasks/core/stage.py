"""Stages: one shape for every box of the pipeline: key, work in a child process, verify what was loaded, publish."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock
from pydantic import BaseModel, ConfigDict

from data_contracts.paths import CONTRACTS_FOLDER
from data_contracts.prompting.prompt import load_prompt
from data_contracts.verdict import Check
from tasks.core import child, errors, finished, keys
from tasks.core.artifact import Artifact, Store, hash_folder, sha256_file, write_whole
from tasks.core.code import Symbol, code_digests
from tasks.core.settings import split_settings

_ROOM_TO_REPORT_BYTES = 16 << 10
"""With less on the disk a child cannot even say that it is full."""


class Run(BaseModel):
    """What all stages of one run share. Nothing here shapes an artifact but `recipe`, which is in every key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """Name of the pipeline, and of its release folder."""
    part: str = ""
    """Which of several models of one run a stage is called for (teacher, student, ...); empty where there is one."""
    recipe: str
    store: str
    """Folder of the artifact store."""
    no_progress_s: float = 900.0
    """Kill a stage that has shown no progress for so long."""
    wall_clock_s: float = 24 * 3600.0
    """Kill a stage that has run for so long, whatever it shows."""


@dataclass
class Job:
    """What the work and the verification of a stage are given: paths in, paths out."""

    recipe: str
    out: Path
    """Empty folder for what the stage makes."""
    inputs: dict[str, Path] = field(default_factory=dict)
    """Input name -> folder of its verified artifact."""
    digests: dict[str, str] = field(default_factory=dict)
    """Input name -> artifact digest."""
    manifests: dict[str, Path] = field(default_factory=dict)
    """Input name -> manifest file."""
    work: Path = Path()
    """Folder of this stage and key that outlives a crash: checkpoints."""
    key: str = ""
    """The work key: fingerprint of inputs, code, and the settings that shape the files."""
    beat: child.Beat = child.silent


@dataclass(frozen=True)
class Stage:
    """One box of the pipeline. `work` makes files in `job.out`; `verify` loads them from disk and measures them."""

    name: str
    kind: str
    version: int
    work: Callable[..., dict | None]
    verify: Callable[..., list[Check]]
    other_kind: Callable[[Any], str | None] | None = None
    """What it makes for some configs, where that is another thing than `kind`."""
    work_for: Callable[[Any], Callable] | None = None
    """Which function does the work of a config, where `work` only chooses one: the code of the others is not in its key."""
    checks_inputs: tuple[str, ...] = ()
    """Inputs that only verification reads; the work is not given them."""
    stack: tuple[str, ...] = ()
    """Distributions whose version shapes the result."""
    checks_stack: tuple[str, ...] = ()
    """Further distributions that only measure it."""
    optional_stack: Callable[[Any], tuple[str, ...]] | None = None
    """Further distributions, which only some configs use: installing one must not rebuild what never saw it."""
    contract: tuple[str, ...] = ()
    """Files of the recipe's contract folder that the result depends on; .py counts by its meaning."""
    contract_for: Callable[[Any], tuple[str, ...]] | None = None
    """The same where a config decides."""
    recipe_files: Callable[[str], tuple[str, ...]] | None = None
    """Further ones that a recipe declares, by its name."""
    checks_contract: tuple[str, ...] = ()
    """Further ones that only verification reads."""
    texts: tuple[str, ...] = ()
    """Other files of the project that shape the result, relative to the root."""
    checks_texts: tuple[str, ...] = ()
    """Further ones that only verification reads."""
    outside: Callable[[Any], list[str]] | None = None
    """Files of the user's that the config names: their content counts, not their path."""
    checks_outside: Callable[[Any], list[str]] | None = None
    """Further ones that only verification reads."""
    secrets: tuple[str, ...] = ()
    """Environment variables that its child process may see although they are secrets; it sees no other."""
    named_secrets: Callable[[Any], list[str]] | None = None
    """The same where a config names them."""
    redo_failed: Callable[[Any], bool] = lambda _: False
    """It asks servers and logs every answer: after a failed check the work runs again, asking only what is missing. Elsewhere
    work that failed a check is kept as it is, and only verified again."""
    tells_lineage: bool = False
    """What it makes quotes the manifests of its inputs, so that the keys of the inputs count, not only their content."""

    @property
    def module(self) -> str:
        return f"tasks.{self.name}"

    def kind_for(self, config: BaseModel) -> str:
        """The kind of artifact that it makes for a config."""
        return (self.other_kind(config) if self.other_kind else None) or self.kind

    def reads(self, config: BaseModel, recipe: str) -> dict[str, tuple[Callable, tuple[str, ...], tuple[str, ...]]]:
        """ "work" and "checks" -> (function that runs, files of the contract folder, other files of the project)."""
        contract = self.contract_for(config) if self.contract_for else self.contract
        contract += self.recipe_files(recipe) if self.recipe_files else ()
        return {
            "work": (self.work_for(config) if self.work_for else self.work, contract, self.texts),
            "checks": (self.verify, (*contract, *self.checks_contract), self.checks_texts),
        }

    def key_parts(self, run: Run, config: BaseModel, inputs: Mapping[str, Artifact]) -> keys.KeyParts:
        """Everything the result depends on, by name: what shapes the files, and what measures them."""
        work_settings, checks_settings = split_settings(config)
        named = {name: f"{artifact.kind}:{artifact.digest}" for name, artifact in inputs.items()}
        code = {phase: _files_and_code(run.recipe, *read) for phase, read in self.reads(config, run.recipe).items()}
        work = {
            "stage": self.name,
            "version": self.version,
            "config": work_settings,
            "inputs": {name: digest for name, digest in named.items() if name not in self.checks_inputs},
            "lineage": {name: artifact.key for name, artifact in inputs.items()} if self.tells_lineage else {},
            "outside": [sha256_file(Path(path)) for path in self.outside(config)] if self.outside else [],
            "stack": keys.versions(self.stack + (self.optional_stack(config) if self.optional_stack else ())),
            **code["work"],
        }
        checks = {
            "config": checks_settings,
            "inputs": {name: digest for name, digest in named.items() if name in self.checks_inputs},
            "outside": [sha256_file(Path(path)) for path in self.checks_outside(config)] if self.checks_outside else [],
            "stack": keys.versions(self.checks_stack),
            **code["checks"],
        }
        return keys.KeyParts(work, checks)


def _files_and_code(recipe: str, function: Callable, contract: tuple[str, ...], texts: tuple[str, ...]) -> dict:
    """Digests of the code that a function reaches, and of the files that stand beside it."""
    modules = tuple(f"data_contracts.{recipe}.{name[:-3]}" for name in contract if name.endswith(".py"))
    roots = [Symbol(function.__module__, function.__name__), *map(Symbol, modules)]
    data = tuple(name for name in contract if not name.endswith(".py"))
    code = code_digests(roots, recipe, documented=modules)
    of_recipe = contract or any(
        name.startswith((f"tasks.recipes.{recipe}", f"data_contracts.{recipe}")) for name in code
    )
    return {
        "recipe": recipe if of_recipe else "any",
        "code": code,
        "contract": keys.data_digests(CONTRACTS_FOLDER / recipe, data),
        "texts": keys.text_digests(texts),
    }


@dataclass
class Outcome:
    """How one stage of a run went, for the table at its end."""

    stage: str
    artifact: Artifact
    how: Literal["reused", "verified", "built"]
    """reused: nothing ran. verified: the work was done before, only the checks ran. built: work and checks ran."""
    seconds: float
    because: list[str]
    part: str = ""
    """As `Run.part`."""

    @property
    def reused(self) -> bool:
        """Nothing was made and nothing measured, but for the digests."""
        return self.how == "reused"


def build(
    stage: Stage, run: Run, config: BaseModel, inputs: Mapping[str, Artifact], on_beat: child.Beat = child.silent
) -> Artifact:
    """Make, verify and publish one stage's artifact, whatever is cached; work that was finished before is only verified.

    Raises:
        ArtifactError, ContractError, GateError: the work or a check failed.
        ChildError: the child process died or hung.
    """
    store = Store(run.store)
    parts = stage.key_parts(run, config, inputs)
    try:
        work = store.work(stage.name, parts.work_key)
        with FileLock(work.with_suffix(".lock")):  # the same work under two sets of checks is done once
            artifact = _build(stage, run, config, inputs, on_beat, store, parts, work)
    except OSError as error:
        if explained := errors.explain_os_error(stage.name, error):
            raise explained from error
        raise
    remember(stage, run, store, parts, artifact)
    return artifact


def _build(stage, run, config, inputs, on_beat, store: Store, parts: keys.KeyParts, work: Path) -> Artifact:
    kind, because, started = stage.kind_for(config), why(stage, run, store, parts), time.monotonic()
    before = finished.find(store, work)
    with store.building(kind) as folder:
        job = {
            "recipe": run.recipe,
            "out": str(folder),
            "inputs": {name: str(store.folder(artifact)) for name, artifact in inputs.items()},
            "digests": {name: artifact.digest for name, artifact in inputs.items()},
            "manifests": {name: str(store.manifest_path(artifact)) for name, artifact in inputs.items()},
            "work": str(work),
            "key": parts.work_key,
        }
        spec = {"config": config.model_dump(mode="json"), "job": job, "kind": kind, "is_made": before is not None}
        outcome = run_in_child(stage, spec, work, run, on_beat, secrets_of(stage, config))
        manifest = {
            "stage": stage.name,
            "run": run.name,
            "part": run.part,
            "key": parts.key,
            "work_key": parts.work_key,
            "checks_digest": parts.checks_digest,
            "key_parts": asdict(parts),
            "config": spec["config"],
            "work_reused": before is not None,
            "rebuilt_because": because,
            "inputs": {name: artifact.model_dump(exclude={"files"}) for name, artifact in inputs.items()},
            "prompt_words": load_prompt(run.recipe).words_digest,
            "verified": outcome["checks"],
            "facts": outcome["facts"],
            "cost": {**outcome["cost"], "seconds": round(time.monotonic() - started, 3)},
        }
        _refuse_changed(stage, work)
        artifact = store.publish(kind, parts.key, work / finished.FOLDER, manifest)
        shutil.rmtree(work / finished.FOLDER, ignore_errors=True)
    return artifact


def _refuse_changed(stage: Stage, work: Path) -> None:
    """Raises ArtifactError when the files are not what the work recorded: something wrote into them while they were verified."""
    record, files = finished.read(work), hash_folder(work / finished.FOLDER)
    if record is None or record.files != files:
        raise errors.ArtifactError(
            f"{stage.name}: the files changed while they were verified: {len(files)} files, expected those of the finished "
            f"work {record and record.digest[:12]}. Run again; if it repeats, report a defect: a check writes where it reads."
        )


def secrets_of(stage: Stage, config: BaseModel) -> list[str]:
    """Names of the secrets that the stage's child may see under this config."""
    return [*stage.secrets, *(stage.named_secrets(config) if stage.named_secrets else [])]


def run_in_child(
    stage: Stage, spec: dict, work: Path, run: Run, on_beat: child.Beat, secrets: Collection[str] = ()
) -> dict:
    """Run `python -m tasks.<stage> spec.json` and return what it reports; its own errors are raised here again."""
    result = work / "result.json"
    result.unlink(missing_ok=True)
    (work / "spec.json").write_text(json.dumps(spec), "utf-8")
    watch = child.Watch(run.wall_clock_s, run.no_progress_s)
    argv = [sys.executable, "-m", stage.module, str(work / "spec.json")]
    try:
        child.run_child(argv, work, watch, on_beat, secrets=secrets)
    except errors.ChildError:
        outcome = json.loads(result.read_text("utf-8")) if result.is_file() else {}
        if "error" in outcome:
            raise getattr(errors, outcome["error"]["type"])(outcome["error"]["message"]) from None
        if shutil.disk_usage(work).free < _ROOM_TO_REPORT_BYTES:
            raise errors.full_disk(stage.name, work) from None
        raise
    return json.loads(result.read_text("utf-8"))


def why(stage: Stage, run: Run, store: Store, parts: keys.KeyParts) -> list[str]:
    """Why this stage is built: which part of its key changed since this run's name last had it, or what is broken."""
    last = recall(stage, run, store)
    if last is None:
        return ["first build"]
    before, artifact = last
    return parts.changes_since(before) or store.problems(artifact) or ["no cache record for this key"]


def recall(stage: Stage, run: Run, store: Store) -> tuple[dict, Artifact] | None:
    """(parts of the key, artifact) that this run's name used last; None before its first run. Nothing is hashed here."""
    path = _memory(stage, run, store)
    if not path.is_file():
        return None
    last = json.loads(path.read_text("utf-8"))
    if "work" not in last["key_parts"]:  # written before keys told work from checks
        return None
    return last["key_parts"], Artifact(**last["artifact"])


def remember(stage: Stage, run: Run, store: Store, parts: keys.KeyParts, artifact: Artifact) -> None:
    """Note the parts of the key that this run's name used last, for `why`."""
    write_whole(_memory(stage, run, store), json.dumps({"key_parts": asdict(parts), "artifact": artifact.model_dump()}))


def _memory(stage: Stage, run: Run, store: Store) -> Path:
    return store.root / "last" / run.name / run.part / f"{stage.name}.json"
