"""A release out of manifests: artifacts that other runs built are named apart, and each is paid for once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_contracts.verdict import check
from tasks.core.errors import ArtifactError
from tasks.release.assemble import assemble
from tasks.reports.data import ReleaseData

MIB = 1 << 20
SHARD = {"prompts": 5, "prompt_tokens": 900, "completion_tokens": 40, "price_usd": 0.25}
STAGES = {  # role in this run: (part of the run that built it, stage, its facts)
    "teacher_base": ("", "prepare_base", {}),
    "base": ("", "prepare_base", {}),
    "built": ("", "build_dataset", {}),
    "answers_000": ("", "generate_teacher", SHARD),
    "answers_001": ("", "generate_teacher", {**SHARD, "completion_tokens": 2}),
    "rows": ("direct", "validate_dataset", {}),
    "adapter": ("direct", "train_lora", {"train_tokens": 77}),
    "gguf": ("direct", "export_gguf", {}),
    "evaluation": ("direct", "evaluate_model", {"tokens_per_s": {}, "generated_tokens": 300}),
}


def manifest(role: str, changes: dict) -> dict:
    part, stage, facts = STAGES[role]
    made = {
        "stage": stage,
        "part": part,
        "digest": f"digest of {role}",
        "key": f"key of {role}",
        "config": {"role": role},
        "rebuilt_because": [],
        "inputs": {},
        "verified": [check("it is there", 1, "==", 1).model_dump(mode="json")],
        "facts": facts,
        "cost": {"seconds": 10.0, "peak_memory_bytes": MIB},
    }
    return made | changes


@pytest.fixture
def assembled(tmp_path):
    """assembled(role={field: value}) -> the release of STAGES with that changed; None drops a role's manifest."""
    evaluation, adapter = tmp_path / "evaluation", tmp_path / "adapter"
    for folder in (evaluation, adapter):
        folder.mkdir()
    (evaluation / "verdict.json").write_text("{}", "utf-8")
    (evaluation / "scores.json").write_text("[]", "utf-8")
    for empty in (evaluation / "answers.jsonl", adapter / "training_log.jsonl"):
        empty.touch()

    def write(**changes: dict | None) -> ReleaseData:
        given: dict[str, Path] = {}
        for role in STAGES:
            change = changes.get(role, {})
            if change is not None:
                given[role] = tmp_path / f"{role}.json"
                given[role].write_text(json.dumps(manifest(role, change)), "utf-8")
        return assemble("run", "signals", given, {role: tmp_path / role for role in STAGES}, {"license": "other"})

    return write


def test_artifacts_of_another_run_take_their_roles_as_names(assembled):
    release = assembled()
    names = [one.stage for one in release.stages]
    assert names[:5] == [
        "teacher_base prepare_base",
        "base prepare_base",
        "build_dataset",
        "answers_000 generate_teacher",
        "answers_001 generate_teacher",
    ]
    assert names[5:] == [f"direct {one}" for one in ("validate_dataset", "train_lora", "export_gguf", "evaluate_model")]
    assert release.config == {
        **{one.stage: {"role": one.key[7:]} for one in release.stages},
        "card": {"license": "other"},
    }


@pytest.mark.parametrize("first", ["part", "role"])
def test_a_part_that_is_called_like_a_role_does_not_collide_with_it(assembled, first):
    """Of three bases two are named alike; the third is named, by its part, as one of those is by its role."""
    part = {"teacher_base": {"part": "base"}} if first == "part" else {"base": {"part": "teacher_base"}}
    release = assembled(**part, built={"stage": "prepare_base"})
    assert [one.stage for one in release.stages][:3] == [
        "teacher_base prepare_base",
        "base prepare_base",
        "built prepare_base",
    ]


def test_parts_are_names_where_they_tell_artifacts_apart(assembled):
    release = assembled(teacher_base={"part": "teacher"}, base={"part": "student"})
    assert [one.stage for one in release.stages][:2] == ["teacher prepare_base", "student prepare_base"]


def test_an_artifact_of_two_roles_is_one_stage_and_paid_for_once(assembled):
    apart = assembled()
    same = assembled(teacher_base={"digest": "one"}, base={"digest": "one"})
    assert [one.stage for one in same.stages][:2] == ["prepare_base", "build_dataset"]
    assert apart.costs.seconds == 10.0 * len(STAGES) and same.costs.seconds == 10.0 * (len(STAGES) - 1)
    twice = assembled(answers_001={"digest": "digest of answers_000", "facts": SHARD})
    assert twice.costs.price == 0.25 and twice.costs.generated_tokens == 300 + 40


def test_what_the_teacher_wrote_counts_and_prices_are_summed(assembled):
    costs = assembled().costs
    assert costs.generated_tokens == 300 + 40 + 2 and costs.train_tokens == 77
    assert costs.price == 0.5 and costs.currency == "USD" and costs.peak_memory_bytes == MIB
    partly = assembled(answers_001={"facts": {**SHARD, "price_usd": None}}).costs
    assert partly.price == 0.25
    free = {"facts": {**SHARD, "price_usd": 0.0}}
    assert assembled(answers_000=free, answers_001=free).costs.price == 0.0


def test_what_no_stage_tells_stays_unknown(assembled):
    bare = {"facts": {}}
    costs = assembled(answers_000=bare, answers_001=bare, evaluation={"facts": {"tokens_per_s": {}}}).costs
    assert costs.price is None and costs.generated_tokens is None


def test_a_judge_s_words_are_no_generated_tokens(assembled):
    """Only a teacher's answers are what the release was made of: other stages may count tokens of their own."""
    assert assembled(built={"facts": {"completion_tokens": 9_000}}).costs.generated_tokens == 342


def test_a_hole_in_the_lineage_is_refused(assembled):
    with pytest.raises(ArtifactError, match="no manifest for built"):
        assembled(built=None)
