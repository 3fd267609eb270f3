"""The proofkit recipe: answers read back, gates as numbers, teachers' answers taken or refused, and inputs that are changed."""

from __future__ import annotations

import json
import sys
from types import ModuleType

import pytest

from data_contracts.gates import load_gates
from data_contracts.paths import CONTRACTS_FOLDER
from data_contracts.prompting.prompt import load_prompt
from data_contracts.proofkit import house_rules
from data_contracts.proofkit.house_rules import anchors_of
from data_contracts.proofkit.rows import ROWS
from data_contracts.rows.contract import check_batch
from tasks.core.errors import ConfigError, ContractError
from tasks.recipes import RECIPES, load_recipe
from tasks.recipes.proofkit import nano_rows as proofkit_nano
from tasks.recipes.proofkit import probes as proofkit_probe
from tasks.recipes.proofkit import recipe as proofkit
from tasks.recipes.proofkit.gates import PASS_METRIC, gate_scores, problems

EXAMPLES = CONTRACTS_FOLDER / "proofkit" / "examples"
OFFERED = (
    "build_rows", "reference_rows", "completion", "parse_output", "reads_back", "score", "all_right", "probe", "wording",
    "pretraining_rows",
)  # fmt: skip


def read(name: str) -> list[dict]:
    return [json.loads(line) for line in (EXAMPLES / f"{name}.jsonl").read_text("utf-8").splitlines()]


GOLD = read("gold")
BY_TASK = {row["task"]: row for row in GOLD}


def answered(row: dict, text: str) -> dict:
    return proofkit.score(row, proofkit.parse_output(text, row))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_offers_what_the_stages_call(name):
    recipe = load_recipe(name)
    assert not [one for one in OFFERED if not callable(getattr(recipe, one, None))]
    assert not [
        one for one in ("variants", "holds", "paired_measures") if not callable(getattr(recipe.probe(), one, None))
    ]


@pytest.mark.parametrize("name", RECIPES)
def test_every_gate_speaks_of_a_metric_that_the_recipe_measures(name):
    gates, measured = load_gates(name), set(load_recipe(name).METRICS)
    stems = {one.removesuffix("_fraction") for one in measured}
    derived = {f"tuned_over_base_{stem}_lower_bound" for stem in stems} | {
        f"quantised_{stem}_drop_fraction" for stem in stems
    }
    assert set(gates.metrics) <= measured | derived
    assert {gates.ceiling_metric, *gates.shown} <= measured
    assert any(one.startswith("tuned_over_base_") for one in gates.metrics)


def test_every_house_rule_has_a_gate_on_the_model():
    assert {f"{gate}_fraction" for gate in house_rules.GATES} <= set(load_gates("proofkit").metrics)


@pytest.mark.parametrize(
    "row", [*GOLD, *read("heldout"), *read("reference")], ids=lambda row: f"{row['task']} {row['role']}"
)
def test_a_hand_written_row_reads_back_and_scores_one(row):
    parsed = proofkit.parse_output(proofkit.completion(row), row)
    assert proofkit.reads_back(row) and proofkit.all_right(row, parsed)
    numbers = proofkit.score(row, parsed)
    assert tuple(numbers) == proofkit.METRICS
    assert {value for value in numbers.values() if value is not None} == {1.0}
    assert numbers["valid_json_fraction"] == (1.0 if row["task"] in ("review", "talking_points") else None)
    assert load_prompt("proofkit").messages(row)[1]["content"].startswith(f"Task: {row['task']}")


def test_a_row_that_is_not_written_as_the_contract_writes_it_does_not_read_back():
    row = BY_TASK["review"]
    assert not proofkit.reads_back({**row, "target": json.dumps(json.loads(row["target"]), indent=1)})
    assert not proofkit.reads_back({**row, "target": row["target"][:-9]})
    assert not proofkit.reads_back({**BY_TASK["post"], "target": ""})


def test_an_unreadable_answer_fails_its_gates_and_is_not_unscored():
    numbers = answered(BY_TASK["review"], "The draft is nearly ready.")
    assert numbers[PASS_METRIC] == 0.0
    assert numbers["anchors_fraction"] == numbers["valid_json_fraction"] == 0.0
    assert numbers["heading_fraction"] is None and numbers["disclosure_fraction"] is None


def test_the_share_of_gates_is_over_those_of_the_task():
    row = BY_TASK["draft"]
    without = row["target"].replace("## ", "", 1)
    assert answered(row, without)["heading_fraction"] == 0.0
    assert answered(row, without)[PASS_METRIC] == pytest.approx(7 / 8)
    assert set(problems(row, without)) == {"heading"}
    assert gate_scores(row, "")[PASS_METRIC] == pytest.approx(1 / 8)  # an empty text claims nothing false
    assert not proofkit.all_right(row, proofkit.parse_output(without, row))
    assert proofkit.parse_output("  \n", row).problem == "the answer is empty"


@pytest.mark.parametrize("row", GOLD, ids=lambda row: f"{row['task']} {row['role']}")
def test_changed_inputs_ask_for_a_changed_answer(row):
    before = proofkit.parse_output(row["target"], row)
    variants = proofkit_probe.variants(row)
    assert set(variants) == {"swapped_anchors", "swapped_company"}
    for kind, changed in variants.items():
        after = proofkit.parse_output(proofkit.completion(changed), changed)
        assert not problems(changed, after.text), (kind, problems(changed, after.text))
        assert proofkit_probe.holds(kind, before, after), kind
        stubborn = proofkit.parse_output(row["target"], changed)
        assert not proofkit_probe.holds(kind, before, stubborn), f"{kind}: the old answer follows nothing"
        both = proofkit.parse_output(f"{changed['target']}\n{row['target']}", changed)
        assert not proofkit_probe.holds(kind, before, both), f"{kind}: what went still stands there"
        assert changed != row and changed["source_batch"] == row["source_batch"]
    new = anchors_of(variants["swapped_anchors"])
    assert len(new) == len(anchors_of(row)) and not set(new) & set(anchors_of(row))
    shown = "\n".join(str(variants["swapped_anchors"][name]) for name in ("answers", "draft"))
    assert all(one in shown for one in new)
    assert variants["swapped_company"]["company"] != row["company"]


def test_other_anchors_are_of_the_same_kind():
    row = {
        **BY_TASK["draft"],
        "answers": "Sister Okonjo counted 31 vials by the tin roof.",
        "anchors": "Sister Okonjo | 31 | tin roof",
    }
    name, number, thing = anchors_of(proofkit_probe.variants(row)["swapped_anchors"])
    assert name in proofkit_probe.OTHER_NAMES and thing in proofkit_probe.OTHER_NOUNS
    assert number.isdigit() and number != "31"


def test_verdicts_and_scores_of_reviews_are_compared_in_pairs():
    reviews = [row for row in GOLD if row["task"] == "review"]
    rows = [*reviews, BY_TASK["post"]]
    parsed = [proofkit.parse_output(row["target"], row) for row in rows]
    measures = proofkit_probe.paired_measures(rows, parsed)
    assert set(measures) == {"review_readiness_rank_correlation", "review_score_rank_correlation"}
    for statistic, pairs in measures.values():
        assert statistic == "rank_correlation" and len(pairs) == len(reviews) == 4
        assert all(one == other for one, other in pairs) and len(set(pairs)) > 1
    said = {
        json.loads(row["target"])["readiness"]: one
        for row, (one, _) in zip(reviews, measures["review_readiness_rank_correlation"][1], strict=True)
    }
    assert said["not ready"] < said["almost ready"] < said["ready"]


@pytest.mark.parametrize(
    ("task", "change", "reason"),
    [
        ("post", lambda text: " \n", "empty answer:"),
        ("post", lambda text: text + "<|im_end|>", "leaked marker: the answer holds '<|'"),
        ("review", lambda text: "final" + text, "leaked marker: the answer holds 'final{'"),
        ("post", lambda text: "<think>Hm.</think>" + text, "leaked marker: the answer holds '<think>'"),
        ("review", lambda text: text[:-12], "invalid JSON: "),
        ("review", lambda text: "Here it is: " + text, "invalid JSON: "),
        ("draft", lambda text: text.replace("## ", "", 1), "house rules: heading: "),
        ("draft", lambda text: text.replace("Ward 6", "the ward"), "house rules: anchors: lacks the anchor 'Ward 6'"),
    ],
)
def test_a_teacher_s_answer_is_refused_with_its_kind(task, change, reason):
    row = next(one for one in GOLD if one["task"] == task)
    with pytest.raises(ContractError) as error:
        proofkit.with_answer(row, change(row["target"]))
    assert str(error.value).startswith(reason)


def test_all_broken_house_rules_of_a_teacher_s_answer_are_told():
    with pytest.raises(ContractError) as error:
        proofkit.with_answer(BY_TASK["draft"], "A short text about communication.")
    assert all(
        f"{gate}: " in str(error.value) for gate in ("heading", "fictional_context", "assumptions", "length", "anchors")
    )


def test_a_teacher_s_answer_becomes_the_target_as_the_contract_writes_it():
    row = BY_TASK["review"]
    taken = proofkit.with_answer({**row, "target": ""}, f"\n{json.dumps(json.loads(row['target']), indent=2)}\n")
    assert taken == row
    import polars as pl

    frame = pl.DataFrame([taken], schema=dict.fromkeys(ROWS.to_schema().columns, pl.String))
    assert check_batch("proofkit", frame).passed


def test_rows_by_hand_are_shuffled_by_the_seed_and_never_more_than_there_are():
    train, heldout = proofkit.build_rows("gold", 10, 5, 1)
    assert (train, heldout) == proofkit.build_rows("gold", 10, 5, 1) != proofkit.build_rows("gold", 10, 5, 2)
    assert len(train) == 10 and len(heldout) == 5 and all(proofkit.wording(row) is None for row in train)
    with pytest.raises(ConfigError, match=r"400 rows of gold\.jsonl asked for, it holds 29; 99 rows of heldout\.jsonl"):
        proofkit.build_rows("gold", 400, 99, 1)
    with pytest.raises(ConfigError, match="Known: built, nano, gold"):
        proofkit.build_rows("silver", 1, 1, 1)


def test_built_rows_come_from_the_world(monkeypatch):
    world = ModuleType("tasks.recipes.proofkit.rows")
    world.built_rows = lambda *asked: ([{"asked": asked}], [])
    world.combination_of = lambda row: f"{row['role']}|x"
    monkeypatch.setitem(sys.modules, "tasks.recipes.proofkit.rows", world)
    monkeypatch.setattr("tasks.recipes.proofkit.rows", world, raising=False)
    assert proofkit.build_rows("built", 3, 2, 7) == ([{"asked": (3, 2, 7)}], [])
    assert proofkit.wording({"source_batch": "built-nurse", "role": "nurse"}) == "nurse|x"


def test_nano_rows_fit_the_columns_of_their_task():
    train, heldout = proofkit.build_rows("nano", 70, 21, 42)
    assert len(train) == 70 and len(heldout) == 21
    for row in train + heldout:
        filled = {name for name in house_rules.PROMPT_COLUMNS if row[name] is not None}
        assert filled == house_rules.COLUMNS[row["task"]]
        assert len(anchors_of(row)) == 2 and proofkit.reads_back(row)
    assert not {proofkit.wording(row) for row in train} & {proofkit.wording(row) for row in heldout}


def test_the_nano_base_is_made_of_prompts_of_this_contract():
    chats = list(proofkit.pretraining_rows(12, 42))
    assert len(chats) == 12 and all(chat[0]["role"] == "system" and answer for chat, answer in chats)


def test_no_text_of_the_nano_base_holds_a_held_out_pair(monkeypatch):
    """Else its students would be asked what their base has seen."""

    def held_out_pairs() -> int:
        texts = [f"{chat[-1]['content']} {answer}" for chat, answer in proofkit.pretraining_rows(700, 42)]
        return sum(
            proofkit_nano.is_held_out(f"{name}|{thing}")
            for text in texts
            for name in proofkit_nano.NAMES
            for thing in proofkit_nano.THINGS
            if f" {name} " in f"{text} " and thing in text
        )

    assert held_out_pairs() == 0
    row = proofkit_nano._row
    monkeypatch.setattr(proofkit_nano, "_row", lambda task, rng, held_out: row(task, rng, True))
    assert held_out_pairs() > 100, "the search above sees nothing"


def test_reference_rows_name_what_they_are_for_and_are_asked_of_every_model():
    rows = proofkit.reference_rows()
    assert len({row["reference"] for row in rows}) == len(rows) == 3
    assert "rabbits" in rows[0]["answers"] and "rabbits" in rows[0]["target"]


def test_the_stage_builds_and_verifies_the_rows_by_hand(tmp_path):
    from data_contracts.verdict import failures
    from tasks.build_dataset import DatasetConfig, build_dataset, verify_dataset
    from tasks.core.stage import Job

    config, job = DatasetConfig(source="gold", train_rows=29, heldout_rows=15), Job(recipe="proofkit", out=tmp_path)
    assert build_dataset(config, job) == {"source": "gold"}
    checks = verify_dataset(config, job)
    assert len(checks) >= 5 and not failures(checks), [one.sentence() for one in failures(checks)]


def test_the_labels_score_one_on_a_board_and_follow_every_changed_input():
    from tasks.evaluation.survey import Survey

    survey = Survey.of(load_recipe("proofkit"), read("heldout"), 15)
    board = survey.board_row(survey.ceiling("ceiling"), 0.95)
    assert (
        board["scores"]["gate_pass_fraction"]["value"]
        == board["scores"]["metamorphic_swapped_anchors_fraction"]["value"]
        == 1.0
    )
    assert board["scores"]["metamorphic_swapped_company_fraction"]["n"] == 15
    assert board["scores"]["valid_json_fraction"]["n"] == 4 and all(board["reference_right"].values())
