"""Stages: one shape for every box of the pipeline: key, build in a child process, verify what was loaded, publish."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from data_contracts.prompt import CONTRACTS_FOLDER, load_prompt
from data_contracts.verdict import Check, failures
from tasks.core import child, errors, keys
from tasks.core.artifact import Artifact, Store, canonical_json, sha256_file, write_whole
from tasks.core.math_kernels import settle_math_kernels

_ROOM_TO_REPORT_BYTES = 16 << 10
"""With less on the disk a child cannot even say that it is full."""


class Settings(BaseModel):
    """Base of every stage's config: frozen, no unknown keys, field docstrings become help texts."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


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
    """Fingerprint of data, config, base and code."""
    beat: child.Beat = child.silent

    @property
    def prompt(self):
        """The recipe's prompt contract."""
        return load_prompt(self.recipe)


@dataclass(frozen=True)
class Stage:
    """One box of the pipeline. `work` makes files in `job.out`; `verify` loads them from disk and measures them."""

    name: str
    kind: str
    version: int
    work: Callable[..., dict | None]
    verify: Callable[..., list[Check]]
    other_kind: Callable[[BaseModel], str | None] | None = None
    """What it makes for some configs, where that is another thing than `kind`."""
    stack: tuple[str, ...] = ()
    """Distributions whose version shapes the result."""
    optional_stack: Callable[[BaseModel], tuple[str, ...]] | None = None
    """Further distributions, which only some configs use: installing one must not rebuild what never saw it."""
    contract: tuple[str, ...] = ()
    """Files of the recipe's contract folder that the result depends on; .py counts by its meaning."""
    texts: tuple[str, ...] = ()
    """Other files of the project that its checks read, relative to the root."""
    outside: Callable[[BaseModel], list[str]] | None = None
    """Files of the user's that the config names: their content counts, not their path."""
    uses_recipe: bool = False
    """The recipe's code shapes the result."""
    secrets: tuple[str, ...] = ()
    """Environment variables that its child process may see although they are secrets; it sees no other."""
    named_secrets: Callable[[BaseModel], list[str]] | None = None
    """The same where a config names them."""
    tells_lineage: bool = False
    """What it makes quotes the manifests of its inputs, so that the keys of the inputs count, not only their content."""

    @property
    def module(self) -> str:
        return f"tasks.{self.name}"

    def kind_for(self, config: BaseModel) -> str:
        """The kind of artifact that it makes for a config."""
        return (self.other_kind(config) if self.other_kind else None) or self.kind

    def key_parts(self, run: Run, config: BaseModel, inputs: Mapping[str, Artifact]) -> dict:
        """Everything the result depends on, by name."""
        modules = [self.module, *([f"tasks.recipes.{run.recipe}"] if self.uses_recipe else [])]
        modules += [f"data_contracts.{run.recipe}.{name[:-3]}" for name in self.contract if name.endswith(".py")]
        data = tuple(name for name in self.contract if not name.endswith(".py"))
        return {
            "stage": self.name,
            "version": self.version,
            "recipe": run.recipe,
            "config": config.model_dump(mode="json"),
            "inputs": {name: f"{one.kind}:{one.digest}" for name, one in inputs.items()},
            "lineage": {name: one.key for name, one in inputs.items()} if self.tells_lineage else {},
            "code": keys.code_digests(*modules),
            "contract": keys.data_digests(CONTRACTS_FOLDER / run.recipe, data),
            "texts": keys.data_digests(keys.PROJECT_ROOT, self.texts),
            "outside": [sha256_file(Path(path)) for path in self.outside(config)] if self.outside else [],
            "stack": keys.versions(self.stack + (self.optional_stack(config) if self.optional_stack else ())),
        }


@dataclass
class Outcome:
    """How one stage of a run went, for the table at its end."""

    stage: str
    artifact: Artifact
    reused: bool
    seconds: float
    because: list[str]
    part: str = ""
    """As `Run.part`."""


def build(
    stage: Stage, run: Run, config: BaseModel, inputs: Mapping[str, Artifact], on_beat: child.Beat = child.silent
):
    """Build, verify and publish one stage's artifact, whatever is cached.

    Raises:
        ArtifactError, ContractError, GateError: the work or a check failed.
        ChildError: the child process died or hung.
    """
    store = Store(run.store)
    try:
        return _build(stage, run, config, inputs, on_beat, store)
    except OSError as error:
        if explained := errors.explain_os_error(stage.name, error):
            raise explained from error
        raise


def _build(stage, run, config, inputs, on_beat, store: Store) -> Artifact:
    parts = stage.key_parts(run, config, inputs)
    key, kind = keys.digest_of(parts), stage.kind_for(config)
    because = why(stage, run, store, parts)
    started = time.monotonic()
    work = store.work(stage.name, key)
    with store.building(kind) as folder:
        spec = {
            "config": config.model_dump(mode="json"),
            "job": {
                "recipe": run.recipe,
                "out": str(folder),
                "inputs": {name: str(store.folder(one)) for name, one in inputs.items()},
                "digests": {name: one.digest for name, one in inputs.items()},
                "manifests": {name: str(store.manifest_path(one)) for name, one in inputs.items()},
                "work": str(work),
                "key": key,
            },
        }
        outcome = run_in_child(stage, spec, work, run, on_beat, secrets_of(stage, config))
        manifest = {
            "stage": stage.name,
            "run": run.name,
            "part": run.part,
            "key": key,
            "key_parts": parts,
            "rebuilt_because": because,
            "inputs": {name: one.model_dump(exclude={"files"}) for name, one in inputs.items()},
            "prompt_contract": load_prompt(run.recipe).digest,
            "verified": outcome["checks"],
            "facts": outcome["facts"],
            "cost": {**outcome["cost"], "seconds": round(time.monotonic() - started, 3)},
        }
        artifact = store.publish(kind, key, folder, manifest)
    remember(stage, run, store, parts, artifact)
    return artifact


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


def why(stage: Stage, run: Run, store: Store, parts: dict) -> list[str]:
    """Why this stage is built: which part of its key changed since this run's name last had it, or what is broken."""
    last = recall(stage, run, store)
    if last is None:
        return ["first build"]
    key_parts, artifact = last
    return keys.differences(key_parts, parts) or store.problems(artifact) or ["no cache record for this key"]


def recall(stage: Stage, run: Run, store: Store) -> tuple[dict, Artifact] | None:
    """(parts of the key, artifact) that this run's name used last; None before its first run. Nothing is hashed here."""
    path = _memory(stage, run, store)
    if not path.is_file():
        return None
    last = json.loads(path.read_text("utf-8"))
    return last["key_parts"], Artifact(**last["artifact"])


def remember(stage: Stage, run: Run, store: Store, parts: dict, artifact: Artifact) -> None:
    """Note the parts of the key that this run's name used last, for `why`."""
    write_whole(_memory(stage, run, store), json.dumps({"key_parts": parts, "artifact": artifact.model_dump()}))


def _memory(stage: Stage, run: Run, store: Store) -> Path:
    return store.root / "last" / run.name / run.part / f"{stage.name}.json"


def execute(stage: Stage, config: BaseModel, job: Job) -> dict:
    """Do the work, then verify it from disk; the plain form of a stage, without store, cache or Prefect.

    Raises:
        ArtifactError: naming every check that failed or could not tell.
    """
    started = time.monotonic()
    if "torch" in stage.stack:
        settle_math_kernels()
    facts = stage.work(config, job) or {}
    worked = time.monotonic()
    checks = stage.verify(config, job)
    if bad := failures(checks):
        sentences = "\n".join(f"  - {one.sentence()}" for one in bad)
        raise errors.ArtifactError(f"{stage.name}: {len(bad)} of {len(checks)} checks did not pass.\n{sentences}")
    if not checks:
        raise errors.ArtifactError(f"{stage.name}: nothing was verified. A stage without a check proves nothing.")
    cost = {
        "work_seconds": round(worked - started, 3),
        "verify_seconds": round(time.monotonic() - worked, 3),
        "peak_memory_bytes": child.peak_memory_bytes(),
    }
    canonical_json(facts)  # a number that JSON cannot hold is a bug here, not in the reader of the manifest
    return {"checks": [one.model_dump(mode="json") for one in checks], "facts": facts, "cost": cost}


def child_main(stage: Stage, config_type: type[BaseModel]) -> int:
    """Entry of `python -m tasks.<stage> spec.json`: exit code 0 and result.json, or 1 and the error in result.json."""
    spec_path = Path(sys.argv[1])
    spec = json.loads(spec_path.read_text("utf-8"))
    child.die_with_parent()
    raw = spec["job"]
    paths = {name: {k: Path(v) for k, v in raw[name].items()} for name in ("inputs", "manifests")}
    job = Job(
        recipe=raw["recipe"],
        out=Path(raw["out"]),
        work=Path(raw["work"]),
        key=raw["key"],
        digests=raw["digests"],
        beat=child.beat_file(spec_path.with_name("beats.jsonl")),
        **paths,
    )
    result = spec_path.with_name("result.json")
    try:
        outcome = execute(stage, config_type.model_validate(spec["config"]), job)
    except errors.PlumblineError as error:
        write_whole(result, json.dumps({"error": {"type": type(error).__name__, "message": errors.redact(str(error))}}))
        return 1
    except Exception as error:
        explained = errors.explain_os_error(stage.name, error)
        if explained:
            shutil.rmtree(job.out, ignore_errors=True)  # makes room for the sentence that says the disk is full
            text = json.dumps({"error": {"type": type(explained).__name__, "message": errors.redact(str(explained))}})
            with contextlib.suppress(OSError):
                write_whole(result, text)
        with contextlib.suppress(OSError):
            print(errors.redact(traceback.format_exc()), flush=True)
        return 1
    write_whole(result, json.dumps(outcome))
    return 0
