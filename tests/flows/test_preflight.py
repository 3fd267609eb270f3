"""Before a cent is spent: what failed late once is refused when the configuration is read, everything at once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
import yaml

from data_contracts.paths import CONTRACTS_FOLDER
from data_contracts.prompting.prompt import load_prompt
from flows import preflight
from flows.config import load_config, profile_path, profiles, refuse_problems
from flows.distill_config import DistillConfig
from tasks.core.artifact import Artifact, Store
from tasks.core.errors import ConfigError, ContractError
from tasks.core.stage import Run, remember
from tasks.recipes import RECIPES, load_recipe
from tasks.validate_dataset import STAGE as VALIDATE
from tasks.validate_dataset import ValidateConfig

NANO = profile_path("signals/nano")
FOLDERS = (
    "data_contracts.gates",
    "data_contracts.limits",
    "data_contracts.prompting.prompt",
    "tasks.recipes.signals.recipe",
)


@pytest.fixture
def contract(tmp_path, monkeypatch) -> Path:
    """A copy of the signals contract that a test may spoil."""
    for module in FOLDERS:
        monkeypatch.setattr(f"{module}.CONTRACTS_FOLDER", tmp_path / "contracts")
    load_prompt.cache_clear()  # a process reads the words once
    yield shutil.copytree(CONTRACTS_FOLDER / "signals", tmp_path / "contracts" / "signals")
    load_prompt.cache_clear()


def refused(changes: dict | None = None, path: Path = NANO, kind=None) -> str:
    with pytest.raises(ConfigError, match="Nothing was run") as error:
        load_config(path, {"min_free_gib": 0, **(changes or {})}, *([kind] if kind else []))
    return str(error.value)


def change_gates(contract: Path, change) -> None:
    path = contract / "gates.yaml"
    gates = yaml.safe_load(path.read_text("utf-8"))
    change(gates)
    path.write_text(yaml.safe_dump(gates, sort_keys=False), "utf-8")


def rename(gates: dict, old: str, new: str) -> None:
    gates["metrics"] = {new if name == old else name: gate for name, gate in gates["metrics"].items()}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            lambda gates: rename(gates, "valid_json_fraction", "valid_jsn_fraction"),
            "metrics: nothing measures valid_jsn_fraction. Did you mean valid_json_fraction?",
        ),
        (
            lambda gates: rename(
                gates, "tuned_over_base_sign_accuracy_lower_bound", "tuned_over_base_sign_acuracy_lower_bound"
            ),
            "Did you mean tuned_over_base_sign_accuracy_lower_bound?",
        ),
        (lambda gates: gates.update(ceiling_metric="zzz"), "ceiling_metric: nothing measures zzz. Known: valid_json"),
        (lambda gates: gates.update(shown=["sign_accuracy"]), "shown: nothing measures sign_accuracy."),
        (lambda gates: gates["ranking"][0].update(metric="sign"), "ranking: nothing measures sign."),
    ],
)
def test_a_metric_that_nothing_measures_is_refused_with_its_place(contract, change, line):
    change_gates(contract, change)
    said = refused()
    assert "recipe (gates): " in said and line in said


def test_the_validation_counts_no_misspelt_gate_among_those_that_rows_can_tell(contract):
    from data_contracts.gates import load_gates
    from tasks.evaluation.gating import gates_that_can_tell

    rows = load_recipe("signals").build_rows("nano", 30, 210, 42)[1]
    assert gates_that_can_tell(load_gates("signals"), load_recipe("signals"), rows).detail == ""
    change_gates(contract, lambda gates: rename(gates, "valid_json_fraction", "valid_jsn_fraction"))
    checked = gates_that_can_tell(load_gates("signals"), load_recipe("signals"), rows)
    assert "nothing measures valid_jsn_fraction" in checked.detail


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"dataset.source": "gld"}, "dataset.source: found 'gld'. Allowed for signals: file, nano, gold."),
        (
            {"dataset.source": "gold", "dataset.train_rows": 100_000},
            "gold.jsonl asked for, it holds 99; 210 rows of heldout.jsonl asked for, it holds 51. Lower dataset.train_rows",
        ),
        (
            {"dataset.source": "gold", "dataset.heldout_rows": 4_000},
            "4000 rows of heldout.jsonl asked for, it holds 51",
        ),
        ({"dataset.train_rows": 100_000}, "ran out of new inputs at"),
        (
            {"dataset.train_rows": 99},
            "dataset.train_rows: found 99, and validate_rows.limits 'nano' allows no fewer than 100 rows of a split "
            "(min_rows of data_contracts/signals/limits.yaml). Raise dataset.train_rows",
        ),
        (
            {"dataset.heldout_rows": 20},
            "dataset.heldout_rows: found 20, and validate_rows.limits 'nano' allows no fewer",
        ),
    ],
)
def test_rows_that_there_are_not_or_that_are_too_few_are_refused(changes, line):
    assert line in refused(changes)


def rows_file(folder: Path, n_rows: int, kind: str = "jsonl") -> Path:
    rows = load_recipe("signals").build_rows("nano", n_rows, 1, 42)[0]
    path = folder / f"rows.{kind}"
    frame = pl.DataFrame(rows, infer_schema_length=None)
    frame.write_ndjson(path) if kind == "jsonl" else frame.write_parquet(path)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_file_of_rows_is_counted(tmp_path, kind):
    changes = {"dataset.source": "file", "dataset.rows_file": str(rows_file(tmp_path, 220, kind))}
    changes |= {"dataset.train_rows": 110, "dataset.heldout_rows": 110}
    assert load_config(NANO, changes).dataset.train_rows == 110
    assert "110 + 111 rows asked for, rows." in refused({**changes, "dataset.heldout_rows": 111})


def test_a_file_that_cannot_be_read_is_refused_with_its_line(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"headline": "a"}\nnot json\n')
    changes = {"dataset.source": "file", "dataset.rows_file": str(tmp_path / "rows.jsonl")}
    assert "rows.jsonl:2: Expecting value" in refused(changes)


def test_a_prompt_that_names_a_field_that_no_row_has_is_refused(contract):
    path = contract / "prompt.md"
    path.write_text(path.read_text("utf-8").replace("{headline}", "{headlin}"), "utf-8")
    said = refused()
    assert "names the field {headlin} in section '# user', which none of 402 rows holds as text. Found headline" in said


def test_a_task_without_words_and_a_field_of_one_task_are_refused():
    rows = [{"task": "draft", "answers": "a", "section": None}, {"task": "post", "answers": "b", "section": "c"}]
    prompt = load_prompt("proofkit").model_copy(update={"users": {"draft": "{answers} {section}"}})
    field, task = preflight.prompt_problems(prompt, rows)
    assert "names the field {section} in section '# user: draft', which none of 1 rows holds" in field
    assert "has no words for the task(s) post" in task


@pytest.mark.parametrize("spoil", ["none", "no file", "no function"])
def test_a_recipe_without_reference_rows_is_refused(contract, monkeypatch, spoil):
    if spoil == "none":
        monkeypatch.setattr("tasks.recipes.signals.recipe.reference_rows", list)
    elif spoil == "no file":
        (contract / "examples" / "reference.jsonl").unlink()
    else:
        monkeypatch.delattr("tasks.recipes.signals.recipe.reference_rows")
    assert "recipe (reference rows): signals has none, expected 1 or more" in refused()


def test_everything_that_is_wrong_is_reported_at_once(contract):
    change_gates(contract, lambda gates: rename(gates, "valid_json_fraction", "valid_jsn_fraction"))
    path = contract / "prompt.md"
    path.write_text(path.read_text("utf-8").replace("{headline}", "{headlin}"), "utf-8")
    (contract / "examples" / "reference.jsonl").unlink()
    said = refused({"dataset.heldout_rows": 20, "train.packing_tokens": 64})
    for part in ("5 problem(s)", "valid_jsn", "{headlin}", "reference rows", "heldout_rows", "packing_tokens"):
        assert part in said, part


def test_a_distillation_names_its_own_blocks():
    path = profile_path("proofkit/nano", "distill")
    said = refused({"dataset.train_rows": 60}, path, DistillConfig)
    for setting in ("teacher.validate_rows.limits", "student.validate_rows.limits", "distill.limits"):
        assert f"dataset.train_rows: found 60, and {setting} 'nano' allows no fewer than 100" in said
    assert "dataset.source: found 'x'. Allowed for proofkit: file, built, nano, gold." in refused(
        {"dataset.source": "x"}, path, DistillConfig
    )


def test_rows_of_a_teacher_count_towards_the_fewest():
    teacher = {"model": "m", "base_url": "https://h.test/v1"}
    changes = {"dataset.source": "gold", "dataset.train_rows": 10, "dataset.heldout_rows": 51}
    changes["validate_rows.limits"] = "default"
    assert "dataset.train_rows: found 10" in refused(changes)
    assert load_config(NANO, {**changes, "dataset.teacher": teacher}).dataset.train_rows == 10


def test_a_config_that_no_file_was_read_for_is_checked_by_the_flow_too():
    config = load_config(NANO)
    few = config.model_copy(update={"dataset": config.dataset.model_copy(update={"heldout_rows": 20})})
    with pytest.raises(ConfigError, match="heldout_rows: found 20"):
        refuse_problems(few)
    assert refuse_problems(config) is config


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_names_its_sources_and_an_endless_one_begins_alike(name):
    recipe = load_recipe(name)
    for source in recipe.SOURCES:
        few, more = (recipe.build_rows(source, n, n, 42) for n in (3, 6))
        assert [len(rows) for rows in few] == [3, 3]
        if source in getattr(recipe, "ENDLESS_SOURCES", ()):
            assert [rows[:3] for rows in more] == list(few)
    with pytest.raises(ConfigError, match="is not a source"):
        recipe.build_rows("no such source", 3, 3, 42)
    assert recipe.reference_rows() and not preflight.recipe_problems(name)
    assert profiles()


# --- the row contract, before a base is fetched


def artifact_of(folder: Path, train: list[dict], heldout: list[dict]) -> Artifact:
    store = Store(str(folder))
    with store.building("dataset") as out:
        for name, rows in (("train", train), ("heldout", heldout)):
            (out / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        return store.publish("dataset", "k" * 64, out, {"stage": "build_dataset"})


@pytest.fixture
def nano_rows() -> tuple[list[dict], list[dict]]:
    return load_recipe("signals").build_rows("nano", 192, 210, 42)


def test_built_rows_that_break_the_contract_are_refused_without_a_base(tmp_path, nano_rows):
    train, heldout = nano_rows
    run, blocks = Run(name="t", recipe="signals", store=str(tmp_path)), {"": ValidateConfig(limits="nano")}
    broken = artifact_of(tmp_path, [{**train[0], "relevance": 7.0}, *train[1:]], heldout)
    with pytest.raises(ContractError, match="rows break their contract"):
        preflight.contract_lines(run, broken, blocks)
    shared = artifact_of(tmp_path, train, [train[0], *heldout[1:]])
    with pytest.raises(ContractError, match="checks on the set did not pass"):
        preflight.contract_lines(run, shared, blocks)


def test_sound_rows_are_held_to_each_profile_once_and_not_again_after_they_passed(tmp_path, nano_rows):
    run, config = Run(name="t", recipe="signals", store=str(tmp_path)), ValidateConfig(limits="nano")
    dataset = artifact_of(tmp_path, *nano_rows)
    (line,) = preflight.contract_lines(run, dataset, {"teacher": config, "direct": config})
    assert "192 + 210 rows, limits nano" in line
    base = dataset.model_copy(update={"kind": "base-model"})
    parts = VALIDATE.key_parts(run, config, {"dataset": dataset, "base": base})
    remember(VALIDATE, run, Store(run.store), parts, dataset)
    assert preflight.contract_lines(run, dataset, {"": config}) == []
    other = dataset.model_copy(update={"digest": "0" * 64})
    assert not preflight._passed_before(run, config, other, Store(run.store))
    assert not preflight._passed_before(run, ValidateConfig(limits="default"), dataset, Store(run.store))


@pytest.mark.parametrize("flow", ["finetune", "distill"])
def test_a_flow_builds_its_rows_and_holds_them_to_the_contract_before_it_fetches_a_base(flow):
    text = (Path(preflight.__file__).parent / f"{flow}.py").read_text("utf-8")
    body = text[text.index("check_access(config)") :]
    places = [body.index(part) for part in ("build_dataset.STAGE", "contract_lines(", "prepare_base.STAGE")]
    assert places == sorted(places)
