"""Rows -> adapter -> 16-bit model -> GGUF -> verdict -> release: the whole chain as one flow."""

from __future__ import annotations

from prefect import flow

from flows.config import FinetuneConfig, load_config, profile_path, refuse_problems
from flows.memory import refuse_too_small_a_card
from flows.pipeline import Pipeline, tell
from flows.preflight import contract_lines
from flows.release import check_access, place, shown
from tasks import (
    build_dataset,
    evaluate_model,
    export_gguf,
    merge_adapter,
    prepare_base,
    publish_model,
    train_lora,
    validate_dataset,
)
from tasks.core.artifact import Store


@flow(name="finetune", validate_parameters=True)
def finetune(profile: str = "signals/nano", config: FinetuneConfig | None = None) -> str:
    """Fine-tune a model and release it; every artifact is verified by loading it from disk.

    Args:
        profile: A configuration that ships, as recipe/profile (signals/nano), or the path of a YAML file.
        config: A whole configuration; when given, it is used in place of the profile.
    """
    config = refuse_problems(config) if config else load_config(profile_path(profile))
    check_access(config)
    pipeline = Pipeline(config.run())
    if config.hardware or config.base.source == "hub":
        tell(
            refuse_too_small_a_card(config.hardware, config.base, config.train, config.validate_rows.max_length_tokens)
        )
    dataset = pipeline(build_dataset.STAGE, config.dataset)
    for line in contract_lines(pipeline.run, dataset, {"": config.validate_rows}):
        tell(line)
    base = pipeline(prepare_base.STAGE, config.base)
    rows = pipeline(validate_dataset.STAGE, config.validate_rows, dataset=dataset, base=base)
    adapter = pipeline(train_lora.STAGE, config.train, base=base, rows=rows)
    merged = pipeline(merge_adapter.STAGE, config.merge, base=base, adapter=adapter, rows=rows)
    gguf = pipeline(export_gguf.STAGE, config.export, merged=merged, rows=rows)
    made = {"base": base, "adapter": adapter, "merged": merged, "gguf": gguf, "rows": rows}
    evaluation = pipeline(evaluate_model.STAGE, config.evaluate, **made)
    made |= {"dataset": dataset, "evaluation": evaluation}
    with shown(config, made):
        release = pipeline(publish_model.STAGE, config.publish, **made)
        return place(Store(config.store), release, config.publish.folder, config.name)
