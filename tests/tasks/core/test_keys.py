"""Cache keys: they see meaning and content, and say which part changed."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import BaseModel

from data_contracts.paths import CONTRACTS_FOLDER
from data_contracts.prompting.prompt import load_prompt
from tasks.core import code, keys
from tasks.core.artifact import Artifact, content_digest, hash_folder
from tasks.core.settings import _is_checks_only, for_work, split_settings
from tasks.core.stage import Job, Run

STAGES = {
    "prepare_base": set(),
    "build_dataset": set(),
    "validate_dataset": {"dataset", "base"},
    "generate_teacher": {"dataset", "teacher"},
    "distill_rows": {"dataset", "answers_000"},
    "train_lora": {"base", "rows"},
    "merge_adapter": {"base", "adapter", "rows"},
    "merge_into_nf4": {"base", "adapter"},
    "export_gguf": {"merged", "rows"},
    "evaluate_model": {"base", "adapter", "merged", "gguf", "rows"},
    "compare_models": {"base"},
    "judge_answers": {"evaluation"},
    "publish_model": {"base", "dataset", "rows", "adapter", "merged", "gguf", "evaluation"},
}
"""Every stage, and inputs that it takes."""
RUN = Run(name="t", recipe="signals", store="unused")
ARTIFACT = Artifact(kind="k", digest="d", key="y", files={}, manifest_sha256="m")


def test_the_list_of_stages_is_that_of_the_stages_that_exist():
    files = [path.stem for path in (keys.PROJECT_ROOT / "tasks").glob("*.py") if "STAGE = " in path.read_text("utf-8")]
    assert len(files) == len(STAGES) and set(files) == set(STAGES)


def stage_of(name: str):
    return importlib.import_module(f"tasks.{name}").STAGE


def config_of(name: str) -> BaseModel:
    """The stage's config with its defaults, and what has none."""
    needed = {
        "prepare_base": {"source": "nano"},
        "generate_teacher": {"engine": "transformers"},
        "compare_models": {"models": [{"name": "m", "hub": "owner/name"}], "rows_file": "rows.jsonl"},
    }
    source = inspect.getsource(importlib.import_module(f"tasks.{name}"))
    (config_name,) = re.findall(r"child_main\(STAGE, (\w+)\)", source)
    return getattr(importlib.import_module(f"tasks.{name}"), config_name)(**needed.get(name, {}))


def parts_of(name: str, config: BaseModel | None = None, **digests: str) -> keys.KeyParts:
    stage = stage_of(name)
    inputs = {one: ARTIFACT.model_copy(update={"digest": digests.get(one, "d")}) for one in STAGES[name]}
    stage = replace(stage, outside=None)  # the files of a config that is only made up are not there
    return stage.key_parts(RUN, config or config_of(name), inputs)


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_has_a_key_that_knows_config_inputs_and_code(name):
    stage, parts = replace(stage_of(name), outside=None), parts_of(name)
    assert f"tasks.{name}" in parts.work["code"] and f"tasks.{name}" in parts.checks["code"]
    assert not any(module.startswith("tasks.core") for module in [*parts.work["code"], *parts.checks["code"]])
    for one in STAGES[name]:
        other = parts_of(name, **{one: "e"})
        measured_only = one in stage.checks_inputs
        assert (other.work_key == parts.work_key) is measured_only
        assert (other.checks_digest != parts.checks_digest) is measured_only
    renamed = stage.key_parts(RUN.model_copy(update={"name": "u"}), config_of(name), {})
    assert renamed == stage.key_parts(RUN, config_of(name), {})


def settings_of(config: BaseModel) -> list[tuple[str, bool]]:
    """(name, measures only) of every setting of a stage."""
    return [(name, _is_checks_only(config, name)) for name in type(config).model_fields]


@pytest.mark.parametrize("name", STAGES)
def test_a_setting_that_only_measures_is_in_the_checks_and_every_other_in_the_work(name):
    config, parts = config_of(name), parts_of(name)
    work, checks = split_settings(config)
    assert (parts.work["config"], parts.checks["config"]) == (work, checks)
    assert settings_of(config), "a stage without a setting would make this test empty"
    for setting, measures in settings_of(config):
        changed = split_settings(config.model_copy(update={setting: "another value"}))
        assert (changed[0] == work) is measures, setting
        assert (changed[1] != checks) is measures, setting


def test_the_settings_that_only_measure_are_these():
    """A stage that marks none may have none; one that has limits in its verify_* must not mark them as work."""
    found = {name: {s for s, measures in settings_of(config_of(name)) if measures} for name in STAGES}
    assert {name for name, settings in found.items() if settings} == {
        "validate_dataset", "generate_teacher", "train_lora", "merge_adapter", "export_gguf", "publish_model",
    }  # fmt: skip
    assert "forgetting" in found["train_lora"] and "max_logit_diff" in found["merge_adapter"]


@pytest.mark.parametrize("name", STAGES)
def test_the_work_cannot_read_a_setting_that_only_measures(name):
    config = config_of(name)
    seen = for_work(config)
    for setting, measures in settings_of(config):
        if measures:
            with pytest.raises(AttributeError, match=setting):
                getattr(seen, setting)
        else:
            assert getattr(seen, setting) == getattr(config, setting)


@pytest.mark.parametrize("name", STAGES)
def test_a_changed_line_of_the_verification_changes_the_checks_alone(name, tmp_path, monkeypatch):
    """In a copy of the project: a sentence in verify_*, then a line in the work."""
    before = parts_of(name)
    for package in ("tasks", "data_contracts"):
        shutil.copytree(code.PROJECT_ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "PROJECT_ROOT", tmp_path)
    assert parts_of(name) == before
    stage, path = stage_of(name), tmp_path / "tasks" / f"{name}.py"
    whole = path.read_text("utf-8")
    insert_line(path, stage.verify.__name__, 'print("another sentence")')
    assert parts_of(name).work_key == before.work_key and parts_of(name).checks_digest != before.checks_digest
    path.write_text(whole, "utf-8")
    worker = stage.work_for(config_of(name)) if stage.work_for else stage.work
    insert_line(path, worker.__name__, 'print("another line")')
    assert parts_of(name).work_key != before.work_key


def insert_line(path: Path, function: str, line: str) -> None:
    """Put a line at the end of a function's signature and docstring."""
    text = path.read_text("utf-8")
    (node,) = [one for one in ast.parse(text).body if getattr(one, "name", "") == function]
    lines = text.splitlines()
    first = node.body[1 if ast.get_docstring(node) else 0]
    lines.insert(first.lineno - 1, " " * first.col_offset + line)
    path.write_text("\n".join(lines) + "\n", "utf-8")


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("train_lora", "tasks/training/adapter_checks.py"),
        ("train_lora", "tasks/runtimes/llama_decode.py"),
        ("merge_adapter", "tasks/merging/checks.py"),
        ("merge_adapter", "tasks/runtimes/llama_decode.py"),
        ("export_gguf", "tasks/gguf_export/checks.py"),
        ("prepare_base", "tasks/runtimes/llama_decode.py"),
        ("build_dataset", "tasks/training/trainer.py"),
    ],
)
def test_a_file_that_the_work_does_not_use_is_not_in_its_work_key(name, module, tmp_path, monkeypatch):
    """Every function and constant of it is changed; the work key stays."""
    before = parts_of(name)
    for package in ("tasks", "data_contracts"):
        shutil.copytree(code.PROJECT_ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    path = tmp_path / module
    changed, n_changed = re.subn(r"\b(\d+)\b", lambda m: str(int(m[1]) + 1), path.read_text("utf-8"))
    assert n_changed > 3
    path.write_text(changed, "utf-8")
    monkeypatch.setattr(code, "PROJECT_ROOT", tmp_path)
    assert parts_of(name).work_key == before.work_key


def test_differences_name_the_setting():
    old = {"config": {"rank": 8, "alpha": 16}, "inputs": {"base": "a"}}
    new = {"config": {"rank": 16, "alpha": 16}, "inputs": {"base": "a"}}
    assert keys.differences(old, new) == ["config.rank: 8 -> 16"]
    assert keys.differences(old, old) == []
    before = {"work": old, "checks": {"config": {"limit": 1}}}
    assert keys.KeyParts(old, {"config": {"limit": 2}}).changes_since(before) == ["checks.config.limit: 1 -> 2"]


def test_a_value_that_json_cannot_hold_is_an_error_not_a_silent_miss():
    with pytest.raises(TypeError):
        keys.digest_of({"model": object()})


def test_a_text_that_was_renamed_is_an_error_not_absent():
    with pytest.raises(FileNotFoundError, match="gone.txt"):
        keys.text_digests(("tasks/gone.txt",))


def test_prompt_words_and_limits_are_in_the_keys_of_the_stages_that_read_them():
    wanted = {"prompt.md": {"prepare_base", "build_dataset", "validate_dataset", "evaluate_model", "publish_model"}}
    wanted["prompt.md"] |= {"generate_teacher", "distill_rows"}
    wanted |= {"limits.yaml": {"validate_dataset", "distill_rows"}, "gates.yaml": {"evaluate_model", "compare_models"}}
    wanted["gates.yaml"] |= {"publish_model"}
    wanted |= {"examples/reference.jsonl": {"evaluate_model", "compare_models"}}
    wanted |= {"examples/metamorphic.jsonl": {"evaluate_model", "compare_models"}}
    wanted |= {"examples/heldout.jsonl": {"build_dataset", "evaluate_model", "compare_models"}}
    for file, readers in wanted.items():
        assert readers <= {name for name in STAGES if file in parts_of(name).work["contract"]}, file
    measured = parts_of("validate_dataset")
    for file in ("gates.yaml", "examples/heldout.jsonl", "examples/reference.jsonl"):
        assert file in measured.checks["contract"] and file not in measured.work["contract"]
    assert "prompt.md" in parts_of("train_lora").checks["contract"] and not parts_of("train_lora").work["contract"]


def test_a_base_of_the_hub_does_not_depend_on_the_words_of_a_prompt():
    from tasks.prepare_base import STAGE, BaseConfig

    parts = STAGE.key_parts(RUN, BaseConfig(model_id="owner/name"), {})
    assert parts.work["contract"] == {} and parts.work["recipe"] == "any"
    other = RUN.model_copy(update={"recipe": "proofkit"})
    assert STAGE.key_parts(other, BaseConfig(model_id="owner/name"), {}).work_key == parts.work_key


def test_a_metric_renamed_in_score_makes_no_base_dataset_training_or_export_again(tmp_path, monkeypatch):
    """In a copy of the project. What scores answers is made again; the rows' gates are only counted again."""
    before = {name: parts_of(name) for name in STAGES}
    for package in ("tasks", "data_contracts"):
        shutil.copytree(code.PROJECT_ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "PROJECT_ROOT", tmp_path)
    path = tmp_path / "tasks" / "recipes" / "signals" / "recipe.py"
    text = path.read_text("utf-8")
    assert text.count('"magnitude_error"') == 2, "in METRICS and in score()"
    path.write_text(text.replace('"magnitude_error"', '"size_error"'), "utf-8")
    after = {name: parts_of(name) for name in STAGES}
    made_again = {name for name in STAGES if after[name].work_key != before[name].work_key}
    assert made_again == {"evaluate_model", "compare_models", "judge_answers"}
    measured_again = {name for name in STAGES if after[name].checks_digest != before[name].checks_digest}
    assert measured_again - made_again == {"validate_dataset"}


def test_an_engine_that_a_config_does_not_use_is_not_in_its_key():
    from tasks.train_lora import STAGE
    from tasks.training.config import TrainConfig

    used = {engine: STAGE.key_parts(RUN, TrainConfig(engine=engine), {}).work["stack"] for engine in ("trl", "unsloth")}
    assert "unsloth" not in used["trl"]
    assert "unsloth" in used["unsloth"]
    assert "bitsandbytes" in STAGE.key_parts(RUN, TrainConfig(base_precision="nf4"), {}).work["stack"]


def test_a_starred_name_sees_each_file_changed_added_or_removed(tmp_path):
    (tmp_path / "world" / "shared").mkdir(parents=True)
    (tmp_path / "world" / "nurse.yaml").write_text("a: 1")
    seen = [keys.data_digests(tmp_path, ("world/**/*.yaml", "prompt.md"))]
    assert set(seen[0]) == {"world/nurse.yaml", "prompt.md"} and seen[0]["prompt.md"] == "absent"
    for path, text in (("world/nurse.yaml", "a: 2"), ("world/shared/moves.yaml", "b: 1")):
        (tmp_path / path).write_text(text)
        seen.append(keys.data_digests(tmp_path, ("world/**/*.yaml", "prompt.md")))
    (tmp_path / "world" / "nurse.yaml").unlink()
    seen.append(keys.data_digests(tmp_path, ("world/**/*.yaml", "prompt.md")))
    assert len({str(one) for one in seen}) == 4


def test_the_content_of_a_recipe_is_in_the_key_of_its_dataset():
    from tasks.build_dataset import STAGE, DatasetConfig

    run = RUN.model_copy(update={"recipe": "proofkit"})
    found = STAGE.key_parts(run, DatasetConfig(source="built"), {}).work["contract"]
    assert len([name for name in found if name.startswith("world/")]) > 14


@pytest.fixture
def contract(tmp_path, monkeypatch):
    """A copy of the signals contract whose words may be changed."""
    for module in ("data_contracts.prompting.prompt", "tasks.core.stage"):
        monkeypatch.setattr(f"{module}.CONTRACTS_FOLDER", tmp_path / "contracts")
    load_prompt.cache_clear()  # a process reads the words once
    yield shutil.copytree(CONTRACTS_FOLDER / "signals", tmp_path / "contracts" / "signals")
    load_prompt.cache_clear()


def digest_of_rows(folder, base) -> str:
    """Of the token rows that validate_dataset makes of a few rows, as the store names them."""
    from tasks.recipes.signals.nano_rows import nano_rows
    from tasks.validate_dataset import ValidateConfig, validate_dataset

    for name in ("dataset", "out"):
        (folder / name).mkdir(parents=True)
    for split, rows in zip(("train", "heldout"), nano_rows(100, 100, 42), strict=True):
        (folder / "dataset" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    inputs = {"dataset": folder / "dataset", "base": base}
    validate_dataset(ValidateConfig(limits="nano"), Job("signals", folder / "out", inputs=inputs, work=folder))
    return content_digest("token-rows", hash_folder(folder / "out"))


def test_one_word_of_the_prompt_changes_the_dataset_s_key_and_by_its_rows_the_training_s(contract, tiny_base, tmp_path):
    from tasks.build_dataset import STAGE as BUILD
    from tasks.build_dataset import DatasetConfig
    from tasks.train_lora import STAGE as TRAIN
    from tasks.training.config import TrainConfig

    run = Run(name="t", recipe="signals", store="unused")

    def found(folder) -> tuple[dict, dict]:
        """Key parts of the dataset, and of a training on the rows that these words make."""
        base = Artifact(kind="base", digest="b", key="k", files={}, manifest_sha256="m")
        rows = base.model_copy(update={"kind": "token-rows", "digest": digest_of_rows(folder, tiny_base)})
        trained = TRAIN.key_parts(run, TrainConfig(), {"base": base, "rows": rows})
        return BUILD.key_parts(run, DatasetConfig(), {}).work, trained.work

    before, same = found(tmp_path / "1"), found(tmp_path / "2")
    assert before == same, "the same words give the same keys"
    words = (contract / "prompt.md").read_text("utf-8")
    assert " YES " in words
    (contract / "prompt.md").write_text(words.replace(" YES ", " yes ", 1), "utf-8")
    load_prompt.cache_clear()
    built, trained = found(tmp_path / "3")
    (line,) = keys.differences(before[0], built)
    assert line.startswith("contract.prompt.md: ")
    (line,) = keys.differences(before[1], trained)
    assert line.startswith("inputs.rows: ")


def test_asking_judges_again_is_another_key():
    """No code reads judge.ask_again: without its place in the key, a judgement with a dead judge would be reused for ever."""
    first = parts_of("judge_answers")
    again = parts_of("judge_answers", config_of("judge_answers").model_copy(update={"ask_again": 1}))
    assert again.work_key != first.work_key


def test_what_only_the_checks_read_outside_is_in_their_digest_alone(tmp_path):
    """The versions in vLLM's interpreter: another vLLM loads the merge again, and merges nothing again."""
    metadata = tmp_path / "lib" / "python3.11" / "site-packages" / "vllm-0.1.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    config = config_of("merge_adapter").model_copy(update={"vllm_python": str(tmp_path / "bin" / "python")})
    found = []
    for text in ("Version: 0.1", "Version: 0.2"):
        metadata.write_text(text)
        found.append(parts_of("merge_adapter", config))
    before, after = found
    assert before.work_key == after.work_key and before.checks["outside"] != after.checks["outside"]
    assert before.checks_digest != after.checks_digest
