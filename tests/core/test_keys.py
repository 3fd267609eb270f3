"""Cache keys: they see meaning and content, and say which part changed."""

from __future__ import annotations

import importlib
import json
import shutil

import pytest

from data_contracts.prompt import CONTRACTS_FOLDER, load_prompt
from tasks.core import keys
from tasks.core.artifact import Artifact, content_digest, hash_folder
from tasks.core.stage import Job, Run

STAGES = {
    "prepare_base": set(),
    "build_dataset": set(),
    "validate_dataset": {"dataset", "base"},
    "generate_teacher": {"dataset", "teacher"},
    "distill_rows": {"dataset", "answers_000"},
    "train_lora": {"base", "rows"},
    "merge_adapter": {"base", "adapter", "rows"},
    "export_gguf": {"merged", "rows"},
    "evaluate_model": {"base", "adapter", "merged", "gguf", "rows"},
    "publish_model": {"base", "dataset", "rows", "adapter", "merged", "gguf", "evaluation"},
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A tiny project of two modules, the second a helper of the first."""
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "stage.py").write_text("from tasks.helper import one\n\ndef work():\n    return one() + 1\n")
    (tmp_path / "tasks" / "helper.py").write_text("def one():\n    return 1\n")
    monkeypatch.setattr(keys, "PROJECT_ROOT", tmp_path)
    return tmp_path / "tasks"


def test_comments_layout_and_docstrings_do_not_count_and_meaning_does(project):
    before = keys.code_digests("tasks.stage")
    (project / "stage.py").write_text(
        '"""Now told."""\nfrom tasks.helper import one\n\n\n# why\ndef work():\n    """Doc."""\n    return one() + 1\n'
    )
    assert keys.code_digests("tasks.stage") == before
    (project / "stage.py").write_text("from tasks.helper import one\n\ndef work():\n    return one() + 2\n")
    assert keys.differences(before, keys.code_digests("tasks.stage"))[0].startswith("tasks.stage: ")


def test_a_changed_helper_changes_the_key_of_whoever_imports_it(project):
    before = keys.code_digests("tasks.stage")
    assert set(before) == {"tasks.stage", "tasks.helper"}
    (project / "helper.py").write_text("def one():\n    return 11\n")
    (line,) = keys.differences(before, keys.code_digests("tasks.stage"), "code")
    assert line.startswith("code.tasks.helper: ")


def test_differences_name_the_setting():
    old = {"config": {"rank": 8, "alpha": 16}, "inputs": {"base": "a"}}
    new = {"config": {"rank": 16, "alpha": 16}, "inputs": {"base": "a"}}
    assert keys.differences(old, new) == ["config.rank: 8 -> 16"]
    assert keys.differences(old, old) == []


def test_a_value_that_json_cannot_hold_is_an_error_not_a_silent_miss():
    with pytest.raises(TypeError):
        keys.digest_of({"model": object()})


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_has_a_key_that_knows_config_inputs_and_code(name):
    stage = importlib.import_module(f"tasks.{name}").STAGE
    run = Run(name="t", recipe="signals", store="unused")
    inputs = {one: Artifact(kind="k", digest="d", key="y", files={}, manifest_sha256="m") for one in STAGES[name]}
    parts = stage.key_parts(run, _config(name), inputs)
    other = {**inputs, **({one: inputs[one].model_copy(update={"digest": "e"}) for one in list(inputs)[:1]})}
    assert f"tasks.{name}" in parts["code"]
    assert not any(module.startswith("tasks.core") for module in parts["code"])
    if inputs:
        assert keys.digest_of(parts) != keys.digest_of(stage.key_parts(run, _config(name), other))
    renamed = stage.key_parts(run.model_copy(update={"name": "u"}), _config(name), inputs)
    assert renamed == parts


def test_prompt_words_and_limits_are_in_the_keys_of_the_stages_that_read_them():
    wanted = {"prompt.md": {"prepare_base", "build_dataset", "validate_dataset", "evaluate_model", "publish_model"}}
    wanted["prompt.md"] |= {"generate_teacher", "distill_rows"}
    wanted |= {"limits.yaml": {"validate_dataset", "distill_rows"}, "gates.yaml": {"evaluate_model", "compare_models"}}
    wanted |= {"examples/reference.jsonl": {"evaluate_model", "compare_models"}}
    wanted |= {"examples/metamorphic.jsonl": {"evaluate_model", "compare_models"}}
    wanted |= {"examples/heldout.jsonl": {"build_dataset", "evaluate_model", "compare_models"}}
    for file, readers in wanted.items():
        found = {
            name
            for name in (*STAGES, "compare_models")
            if file in importlib.import_module(f"tasks.{name}").STAGE.contract
        }
        assert readers <= found, file


def _config(name: str):
    module = importlib.import_module(f"tasks.{name}")
    own = [v for v in vars(module).values() if getattr(v, "__module__", "") == module.__name__]
    (config_type,) = [v for v in own if getattr(v, "__name__", "").endswith("Config")]
    return config_type(**({"source": "nano"} if name == "prepare_base" else {}))


def test_an_engine_that_a_config_does_not_use_is_not_in_its_key():
    from tasks.train_lora import STAGE, TrainConfig

    run = Run(name="t", recipe="signals", store="unused")
    used = {engine: STAGE.key_parts(run, TrainConfig(engine=engine), {})["stack"] for engine in ("trl", "unsloth")}
    assert "unsloth" not in used["trl"]
    assert "unsloth" in used["unsloth"]
    assert "bitsandbytes" in STAGE.key_parts(run, TrainConfig(base_precision="nf4"), {})["stack"]


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


def test_the_world_of_a_recipe_is_in_the_key_of_its_dataset():
    from tasks.build_dataset import STAGE, DatasetConfig

    found = STAGE.key_parts(Run(name="n", recipe="proofkit", store="s"), DatasetConfig(source="built"), {})["contract"]
    assert len([name for name in found if name.startswith("world/")]) > 14


@pytest.fixture
def contract(tmp_path, monkeypatch):
    """A copy of the signals contract whose words may be changed."""
    for module in ("data_contracts.prompt", "tasks.core.stage"):
        monkeypatch.setattr(f"{module}.CONTRACTS_FOLDER", tmp_path / "contracts")
    load_prompt.cache_clear()  # a process reads the words once
    yield shutil.copytree(CONTRACTS_FOLDER / "signals", tmp_path / "contracts" / "signals")
    load_prompt.cache_clear()


def digest_of_rows(folder, base) -> str:
    """Of the token rows that validate_dataset makes of a few rows, as the store names them."""
    from tasks.recipes.signals_world import nano_rows
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
    from tasks.train_lora import TrainConfig

    run = Run(name="t", recipe="signals", store="unused")

    def found(folder) -> tuple[dict, dict]:
        """Key parts of the dataset, and of a training on the rows that these words make."""
        base = Artifact(kind="base", digest="b", key="k", files={}, manifest_sha256="m")
        rows = base.model_copy(update={"kind": "token-rows", "digest": digest_of_rows(folder, tiny_base)})
        trained = TRAIN.key_parts(run, TrainConfig(), {"base": base, "rows": rows})
        return BUILD.key_parts(run, DatasetConfig(), {}), trained

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
