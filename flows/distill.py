"""Rows -> teacher -> its answers -> one student made twice -> board -> release: a large model's behaviour in a small one."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from flows.boards import keep_board
from flows.config import load_config, profile_path, refuse_problems
from flows.distill_config import DistillConfig
from flows.memory import refuse_too_small_cards
from flows.pipeline import Pipeline, tell
from flows.preflight import contract_lines
from flows.referee import choose
from flows.release import check_access, place, shown
from tasks import (
    build_dataset,
    distill_rows,
    evaluate_model,
    export_gguf,
    generate_teacher,
    judge_answers,
    merge_adapter,
    prepare_base,
    publish_model,
    train_lora,
    validate_dataset,
)
from tasks.core.artifact import Artifact, Store

Made = dict[str, Artifact]


@flow(name="distill", validate_parameters=True)
def distill(profile: str = "proofkit/nano", config: DistillConfig | None = None) -> str:
    """Distil a teacher into a student and release the better of two; every artifact is verified by loading it from disk.

    Args:
        profile: A configuration that ships, as recipe/profile (proofkit/nano), or the path of a YAML file.
        config: A whole configuration; when given, it is used in place of the profile.
    """
    config = refuse_problems(config) if config else load_config(profile_path(profile, "distill"), kind=DistillConfig)
    check_access(config)
    for line in refuse_too_small_cards(config):
        tell(line)
    pipeline, store = Pipeline(config.run(), named=config.named), Store(config.store)
    dataset = pipeline(build_dataset.STAGE, config.dataset)
    for line in contract_lines(pipeline.run, dataset, config.validations):
        tell(line)
    teacher = _teacher(pipeline.part("teacher"), config, dataset) if config.teacher else {}
    asked = {"teacher": teacher["merged"]} if teacher else {}
    answers = _answers(pipeline, config, dataset, asked)
    distilled = pipeline(distill_rows.STAGE, config.distill, dataset=dataset, **answers)
    base = pipeline.part("student")(prepare_base.STAGE, config.student.base)
    students = {
        name: _student(pipeline.part(name), config, getattr(config.student, name), base, rows, asked)
        for name, rows in (("direct", dataset), ("distilled", distilled))
    }
    evaluations = {name: made["evaluation"] for name, made in students.items()}
    judgement = pipeline(judge_answers.STAGE, config.judge, **evaluations)
    keep_board(Path(config.publish.folder), config.name, store.folder(judgement))
    chosen = choose(config, evaluations, judgement)
    behind = {f"teacher_{role}": one for role, one in teacher.items()} | answers | {"built": dataset}
    made = behind | students[chosen] | {"judgement": judgement}
    with shown(config, made):
        release = pipeline(publish_model.STAGE, config.publish, **made)
        return place(store, release, config.publish.folder, config.name)


def _teacher(pipeline: Pipeline, config: DistillConfig, dataset: Artifact) -> Made:
    teacher = config.teacher
    assert teacher is not None, "a teacher without a block of its own is not trained"
    base = pipeline(prepare_base.STAGE, teacher.base)
    rows = pipeline(validate_dataset.STAGE, teacher.validate_rows, dataset=dataset, base=base)
    adapter = pipeline(train_lora.STAGE, teacher.train, base=base, rows=rows)
    merged = pipeline(merge_adapter.STAGE, teacher.merge, base=base, adapter=adapter, rows=rows)
    return {"base": base, "rows": rows, "adapter": adapter, "merged": merged}


def _answers(pipeline: Pipeline, config: DistillConfig, dataset: Artifact, asked: Made) -> Made:
    """The teacher's answers to the training prompts, an artifact for each shard."""
    shards = config.generate.sharded(Store(config.store).folder(dataset))
    parts = [pipeline.part(f"shard-{one.shard}") for one in shards]
    return distill_rows.named(
        [part(generate_teacher.STAGE, one, dataset=dataset, **asked) for part, one in zip(parts, shards, strict=True)]
    )


def _student(pipeline: Pipeline, config: DistillConfig, train, base: Artifact, dataset: Artifact, beside: Made) -> Made:
    student = config.student
    rows = pipeline(validate_dataset.STAGE, student.validate_rows, dataset=dataset, base=base)
    adapter = pipeline(train_lora.STAGE, train, base=base, rows=rows)
    merged = pipeline(merge_adapter.STAGE, student.merge, base=base, adapter=adapter, rows=rows)
    gguf = pipeline(export_gguf.STAGE, student.export, merged=merged, rows=rows)
    made = {"base": base, "adapter": adapter, "merged": merged, "gguf": gguf, "rows": rows}
    evaluation = pipeline(evaluate_model.STAGE, config.evaluate, **made, **beside)
    return made | {"dataset": dataset, "evaluation": evaluation}
