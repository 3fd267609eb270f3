"""The configuration of a run: YAML is data for these models, and every problem in it is told at once, before anything runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, overload

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from data_contracts.gates import load_gates
from data_contracts.limits import load_limits
from data_contracts.prompting.prompt import load_prompt
from data_contracts.yaml_model import parse_yaml
from flows.preflight import dataset_problems, recipe_problems
from tasks.build_dataset import DatasetConfig
from tasks.core.errors import ConfigError
from tasks.core.hardware import load_hardware
from tasks.core.settings import Settings
from tasks.core.stage import Run
from tasks.evaluate_model import EvaluateConfig
from tasks.export_gguf import ExportConfig
from tasks.formats.gguf_file import llama_cpp_folder
from tasks.merge_adapter import MergeConfig
from tasks.prepare_base import BaseConfig
from tasks.publish_model import PublishConfig
from tasks.recipes import RECIPES
from tasks.training.config import TrainConfig
from tasks.training.moe_stack import stack_problems
from tasks.validate_dataset import ValidateConfig

CONFIGS_FOLDER = Path(__file__).resolve().parents[1] / "configs"


class RunConfig(Settings):
    """What every flow's configuration begins with."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,60}$")
    """Name of the run and of its release folder, in lower case, digits, dots and dashes."""
    recipe: str
    """What kind of model this is: a folder of data_contracts/ and a module of tasks/recipes/."""
    store: str = "store"
    """Folder of the artifact store."""
    min_free_gib: float = Field(default=1.0, ge=0)
    """Refuse to start with less free disk than this, in GiB."""
    no_progress_s: float = Field(default=900, gt=0)
    """A stage that shows no progress for so long is killed and fails, in seconds."""
    wall_clock_s: float = Field(default=86_400, gt=0)
    """A stage that runs longer than this is killed and fails, in seconds."""

    @field_validator("recipe")
    @classmethod
    def _known_recipe(cls, value: str) -> str:
        if value not in RECIPES:
            raise ValueError(f"allowed: {', '.join(RECIPES)}")
        return value

    def run(self) -> Run:
        """What all stages of this run share."""
        names = ("name", "recipe", "store", "no_progress_s", "wall_clock_s")
        return Run(**{name: getattr(self, name) for name in names})

    def problems(self) -> list[str]:
        """What a type cannot know: contract files, llama.cpp, room on the disk. Each flow adds its own."""
        loaders = {
            "recipe (gates)": lambda: load_gates(self.recipe),
            "recipe (prompt)": lambda: load_prompt(self.recipe),
            "export": llama_cpp_folder,
        }
        problems = [*_loading(loaders), *recipe_problems(self.recipe)]
        if (free_gib := _free_gib(Path(self.store))) < self.min_free_gib:
            problems.append(
                f"  store: {free_gib:.1f} GiB free where {self.store!r} lies, min_free_gib is {self.min_free_gib:g}. "
                "Free some space or set store to a larger disk."
            )
        return problems


class ReleasingConfig(RunConfig):
    """What a flow's configuration begins with when it ends in a release."""

    publish: PublishConfig = PublishConfig()

    @model_validator(mode="before")
    @classmethod
    def _release_is_named_like_the_run(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(publish := values.get("publish", {}), dict):
            return {**values, "publish": {"name": values.get("name", ""), **publish}}
        return values


class FinetuneConfig(ReleasingConfig):
    """Everything about one fine-tune: one block a stage."""

    flow: Literal["finetune"] = "finetune"
    """Which flow the file is for."""
    hardware: str | None = None
    """Card that training is meant for, an entry of configs/hardware.yaml: refused before anything runs when it is too small."""
    base: BaseConfig
    dataset: DatasetConfig = DatasetConfig()
    validate_rows: ValidateConfig = ValidateConfig()
    train: TrainConfig = TrainConfig()
    merge: MergeConfig = MergeConfig()
    export: ExportConfig = ExportConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    def problems(self) -> list[str]:
        """All that is wrong before anything runs, each with its field."""
        return [
            *super().problems(),
            *limits_problems(self.recipe, "validate_rows.limits", self.validate_rows.limits),
            *dataset_problems(self.recipe, self.dataset, {"validate_rows.limits": self.validate_rows.limits}),
            *training_problems("train", self.train, self.validate_rows),
            *hardware_problems("hardware", self.hardware),
            *experts_problems("train", self.base, self.train),
            *(f"  merge: {problem}." for problem in self.merge.problems()),
            *release_problems(self.publish, self.export),
        ]


ConfigT = TypeVar("ConfigT", bound=RunConfig)


def profiles(flow: str = "finetune") -> list[str]:
    """Every configuration of a flow that ships, as recipe/profile."""
    found = [path for path in CONFIGS_FOLDER.glob("*/*.yaml") if flow_of(path) == flow]
    return sorted(path.relative_to(CONFIGS_FOLDER).with_suffix("").as_posix() for path in found)


def profile_path(profile: str, *flows: str) -> Path:
    """The YAML file of a profile name ("signals/nano") or of a path to one; `flows` names those whose profiles may be meant.

    Raises:
        ConfigError: there is none.
    """
    for path in (Path(profile), CONFIGS_FOLDER / f"{profile}.yaml"):
        if path.is_file():
            return path
    known = [name for flow in flows or ("finetune",) for name in profiles(flow)]
    raise ConfigError(f"config: there is no file {profile!r}. Give a path, or one of: {', '.join(known)}.")


def flow_of(path: Path) -> str:
    """Which flow a YAML file says that it is for; whatever else is wrong with it, `load_config` tells."""
    try:
        values = parse_yaml(path.read_bytes(), path.name)
    except ConfigError:
        return "finetune"
    return str(values.get("flow", "finetune")) if isinstance(values, dict) else "finetune"


@overload
def load_config(path: Path, changes: dict[str, Any] | None = None) -> FinetuneConfig: ...
@overload
def load_config(path: Path, changes: dict[str, Any] | None = None, *, kind: type[ConfigT]) -> ConfigT: ...
@overload
def load_config(path: Path, changes: dict[str, Any] | None, kind: type[ConfigT]) -> ConfigT: ...
def load_config(path: Path, changes: dict[str, Any] | None = None, kind: type[Any] = FinetuneConfig) -> Any:
    """Read and check the configuration of one kind of flow; `changes` are dotted names and new values, as given on the
    command line.

    Raises:
        ConfigError: all unknown keys, wrong types, impossible values and missing files at once; a file for another flow.
    """
    flow = str(kind.model_fields["flow"].default)
    values = parse_yaml(path.read_bytes(), f"config: {path.name}")
    if not isinstance(values, dict):
        raise ConfigError(f"config: {path.name} holds no settings. Start from one of: {', '.join(profiles(flow))}.")
    if (meant := values.get("flow", "finetune")) != flow:
        raise ConfigError(
            f"config: {path.name} is for the flow {meant}, not {flow}. Run: python -m flows {meant} {path}"
        )
    for name, value in (changes or {}).items():
        _set(values, name.split("."), value)
    problems: list[str] = []
    try:
        config = kind.model_validate(values)
    except ValidationError as error:
        problems = [_sentence(one, kind) for one in error.errors()]
        raise ConfigError(
            [f"config: {path.name} has {len(problems)} problem(s). Nothing was run.", *problems]
        ) from None
    return refuse_problems(config, path.name)


def refuse_problems(config: ConfigT, where: str = "the run") -> ConfigT:
    """The configuration, in which nothing is wrong that can be known before anything runs.

    Raises:
        ConfigError: all that is wrong at once.
    """
    if problems := config.problems():
        raise ConfigError([f"config: {where} has {len(problems)} problem(s). Nothing was run.", *problems])
    return config


def limits_problems(recipe: str, field: str, limits: str) -> list[str]:
    """What is wrong with a profile of limits, with `field` in front."""
    return _loading({field: lambda: load_limits(recipe, limits)})


def training_problems(field: str, train: TrainConfig, rows: ValidateConfig | None = None) -> list[str]:
    """Packages that a block of training settings needs and this machine lacks; packs that would cut the longest rows."""
    problems = []
    if rows and train.packing_tokens is not None and train.packing_tokens < rows.max_length_tokens:
        problems.append(
            f"  {field}.packing_tokens: found {train.packing_tokens}, and rows may have {rows.max_length_tokens} tokens "
            "(max_length_tokens): the longest would be cut. Raise the one or lower the other."
        )
    needed = {"unsloth": train.engine == "unsloth", "bitsandbytes": train.base_precision == "nf4"}
    problems += [
        f"  {field}: {package} is not installed. Run: python deployments/setup.py --with dev --with unsloth"
        for package, wanted in needed.items()
        if wanted and find_spec(package) is None
    ]
    return problems


def experts_problems(field: str, base: BaseConfig, train: TrainConfig) -> list[str]:
    """Another set of versions than the one on which experts were trained."""
    if not (train.target_parameters or base.dequantise):
        return []
    return [f"  {field}: {one}." for one in stack_problems()]


def hardware_problems(field: str, name: str | None) -> list[str]:
    """A card that nobody knows."""
    return _loading({field: lambda: load_hardware(name)}) if name else []


def release_problems(publish: PublishConfig, export: ExportConfig) -> list[str]:
    """A quantisation to serve that nobody makes."""
    if publish.serve_quantization in export.names:
        return []
    return [
        f"  publish.serve_quantization: found {publish.serve_quantization!r}. Allowed: what export.quantizations "
        f"makes, {', '.join(export.names)}."
    ]


def _loading(loaders: dict[str, Callable[[], object]]) -> list[str]:
    problems = []
    for field, load in loaders.items():
        try:
            load()
        except ConfigError as error:
            problems += [f"  {field}: {one}" for one in error.problems]
    return problems


def _free_gib(path: Path) -> float:
    path = path.resolve()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free / 2**30


def _set(values: dict, names: list[str], value: Any) -> None:
    for name in names[:-1]:
        values = values.setdefault(name, {})
        if not isinstance(values, dict):
            raise ConfigError(f"config: {'.'.join(names)} cannot be set: {name} is not a block of settings.")
    values[names[-1]] = value


def _sentence(error: Mapping[str, Any], kind: type[BaseModel]) -> str:
    """`  field: found value. What is allowed.`"""
    field = ".".join(str(part) for part in error["loc"]) or "config"
    if error["type"] == "extra_forbidden":
        return f"  {field}: unknown setting. Allowed here: {', '.join(_siblings(error['loc'], kind)) or 'none'}."
    if error["type"] == "missing":
        return f"  {field}: missing. Add it."
    shown = _shown(field, error.get("input"))
    return f"  {field}: found {shown}. {error['msg'].removeprefix('Value error, ')}."


def _shown(field: str, value: Any) -> str:
    secret = any(word in field.lower() for word in ("token", "secret", "password", "api_key")) and isinstance(
        value, str
    )
    return "<hidden>" if secret or (isinstance(value, str) and len(value) > 60) else repr(value)


def _siblings(location: tuple, kind: type[BaseModel]) -> list[str]:
    """The settings that may stand at a place; numbers in `location` are places in a list."""
    model: type[BaseModel] | None = kind
    for part in location[:-1]:
        if not isinstance(part, int):
            model = _block(model.model_fields[part].annotation) if model and part in model.model_fields else None
    return sorted(model.model_fields) if model else []


def _block(annotation: Any) -> type[BaseModel] | None:
    """The block of settings behind a type, `Block | None` and `list[Block]` included."""
    kinds = (annotation, *get_args(annotation))
    return next((one for one in kinds if isinstance(one, type) and issubclass(one, BaseModel)), None)
