"""Families of limits: a recipe names one, its checks cannot vanish, and no number is left that nothing reads."""

import polars as pl
import pytest

from data_contracts.audit import audit
from data_contracts.audit.audit import FAMILIES, SetTally, audit_rows, view_of
from data_contracts.errors import ConfigError
from data_contracts.limits import AssessmentLimits, Limits, WritingLimits, limits_model, load_limits
from data_contracts.paths import CONTRACTS_FOLDER
from data_contracts.rows.rows_file import read_rows
from data_contracts.signals.limits import SignalsLimits
from data_contracts.yaml_model import read_yaml

RECIPES = {"signals": SignalsLimits, "proofkit": WritingLimits}


def gold(recipe: str) -> pl.DataFrame:
    return read_rows(CONTRACTS_FOLDER / recipe / "examples" / "gold.jsonl")


@pytest.mark.parametrize("recipe", RECIPES)
def test_each_recipe_names_its_family_and_every_profile_loads(recipe):
    assert limits_model(recipe) is RECIPES[recipe]
    profiles = list(read_yaml(CONTRACTS_FOLDER / recipe / "limits.yaml", "limits"))
    assert {"default", "nano"} <= set(profiles)
    for profile in profiles:
        limits = load_limits(recipe, profile)
        assert type(limits) is RECIPES[recipe] and limits.text_chars[0] < limits.text_chars[1]


@pytest.mark.parametrize("family", [Limits, *(one.limits for one in FAMILIES.values())])
def test_every_limit_says_what_it_means(family):
    assert all(field.description for field in family.model_fields.values())


def test_the_families_share_nothing_but_what_every_set_is_held_to():
    assert set(AssessmentLimits.model_fields) & set(WritingLimits.model_fields) == set(Limits.model_fields)


@pytest.mark.parametrize("wrong", [None, Limits, "WritingLimits", dict])
def test_a_recipe_without_a_family_is_refused(monkeypatch, wrong):
    from data_contracts.proofkit import rows

    monkeypatch.setattr(rows, "LIMITS", wrong)
    with pytest.raises(ConfigError, match=r"proofkit/rows\.py names no family of limits.*LIMITS = WritingLimits"):
        load_limits("proofkit")


def test_a_number_of_another_family_is_no_setting(monkeypatch):
    from data_contracts.signals import rows

    monkeypatch.setattr(rows, "LIMITS", WritingLimits)
    with pytest.raises(ConfigError) as error:
        load_limits("signals")
    told = "\n".join(error.value.problems)
    assert "min_noise_fraction is not a setting" in told and "min_row_anchors is missing" in told


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_family_without_checks_is_our_own_bug_and_no_pass(monkeypatch, recipe):
    monkeypatch.setattr(FAMILIES[RECIPES[recipe].family].tally, "checks", lambda self, sample: [])
    with pytest.raises(RuntimeError, match="made no check on"):
        audit_rows(gold(recipe), load_limits(recipe))


def test_a_family_that_no_audit_knows_is_refused(monkeypatch):
    monkeypatch.delitem(audit.FAMILIES, "writing")
    with pytest.raises(
        ConfigError, match=r"no check reads max_self_similarity_fraction.*min_row_anchors.*AssessmentLimits"
    ):
        SetTally(load_limits("proofkit"))


def test_a_view_that_lacks_what_its_family_looks_at_is_refused(monkeypatch):
    from data_contracts.proofkit import rows

    whole = rows.audited
    monkeypatch.setattr(rows, "audited", lambda frame: whole(frame).drop("slots", "reasoning"))
    with pytest.raises(ConfigError, match=r"does not give reasoning, slots, which WritingLimits looks at"):
        view_of(gold("proofkit"), load_limits("proofkit"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_family_adds_its_checks_to_those_of_every_set(recipe):
    names = {one.name for one in audit_rows(gold(recipe), load_limits(recipe))}
    text = RECIPES[recipe].text
    shared = {"rows", f"shortest {text}", f"longest {text}", f"|rank correlation| of {text} length with source batch",
              f"{text}s with a raw marker such as <|channel|>", "inputs that occur before in the same table",
              "largest similarity of two inputs of the table"}  # fmt: skip
    assert shared <= names
    signs, anchors = "YES-more-likely fraction (at least)", "targets that do not use every anchor of their input"
    assert (signs in names, anchors in names) == (recipe == "signals", recipe == "proofkit")


def test_labels_are_found_by_the_view_s_names():
    names = {one.name for one in audit_rows(gold("proofkit"), load_limits("proofkit"))}
    for label in ("specificity", "evidence", "honesty", "readiness"):
        assert f"|rank correlation| of reasoning length with {label}" in names
    assert "balanced accuracy of guessing readiness from surface features" in names


def test_a_length_that_follows_a_label_is_found_in_any_family():
    """200 reviews whose reasoning grows with the score for evidence."""
    limits = load_limits("proofkit")
    view = view_of(gold("proofkit"), limits).filter(pl.col("reasoning").is_not_null())
    many = pl.concat([view] * 50).with_row_index("row", offset=1)
    score = (pl.col("row") % 5 + 1).cast(pl.Int64)
    many = many.with_columns(label_evidence=score, reasoning=pl.lit("A word. ").repeat_by(score * 9).list.join(""))
    found = {one.name: one for one in audit.length_independence(many, limits)}
    assert found["|rank correlation| of reasoning length with evidence"].measured > 0.95
    assert "Rewrite the reasoning to one length" in found["|rank correlation| of reasoning length with evidence"].fix
    assert str(found["|rank correlation| of reasoning length with evidence"].verdict) == "fail"


def test_a_batch_of_one_short_task_is_not_called_short():
    """Bullets are shorter than drafts; a batch that holds only bullets has the lengths of bullets all the same."""
    limits = load_limits("proofkit")
    view = view_of(gold("proofkit"), limits)
    dealt = view.with_columns(
        source_batch=pl.when(pl.col("task") == "bullets").then(pl.lit("b")).otherwise(pl.lit("a"))
    )
    name = "|rank correlation| of target length with source batch"
    found = {one.name: one for one in audit.length_independence(dealt, limits)}[name]
    assert found.measured < 0.2
    even = pl.int_range(pl.len()) % 2 == 0
    grown = pl.concat([view] * 4).with_columns(
        target=pl.when(even).then(pl.concat_str("target", "target")).otherwise("target"),
        source_batch=pl.when(even).then(pl.lit("long")).otherwise(pl.lit("short")),
    )
    found = {one.name: one for one in audit.length_independence(grown, limits)}[name]
    assert str(found.verdict) == "fail", found.sentence()


def test_the_page_draws_what_the_family_has(tmp_path):
    from data_contracts.validation.validate import validate_file

    found = validate_file("proofkit", CONTRACTS_FOLDER / "proofkit" / "examples" / "gold.jsonl", out=tmp_path)
    text = found.page_path.read_text("utf-8")
    assert "Target lengths" in text and "Target lengths by class: draft: 5 rows" in text
    assert "Metric against YES" not in text and "race length" not in text
    assert found.distributions.names["readiness"] == {"ready": 1, "almost ready": 2, "not ready": 1}
    assert sum(found.distributions.names["voice"].values()) == 21
    assert all(f"{task}: " in text for task in found.distributions.chars_by_class)
