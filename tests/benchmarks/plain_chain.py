"""The nano chain without Prefect: the same stages, called one after another. Argument: folder of the store."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from flows.config import load_config, profile_path
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
from tasks.core.stage import build


def main() -> None:
    """Run the chain into an empty store."""
    config = load_config(profile_path("signals/nano"), {"store": sys.argv[1]})
    run = config.run()

    def call(stage, settings, **inputs):
        return build(stage, run, settings, inputs)

    base = call(prepare_base.STAGE, config.base)
    dataset = call(build_dataset.STAGE, config.dataset)
    rows = call(validate_dataset.STAGE, config.validate_rows, dataset=dataset, base=base)
    adapter = call(train_lora.STAGE, config.train, base=base, rows=rows)
    merged = call(merge_adapter.STAGE, config.merge, base=base, adapter=adapter, rows=rows)
    gguf = call(export_gguf.STAGE, config.export, merged=merged, rows=rows)
    made = {"base": base, "adapter": adapter, "merged": merged, "gguf": gguf, "rows": rows}
    evaluation = call(evaluate_model.STAGE, config.evaluate, **made)
    call(publish_model.STAGE, config.publish, **made, dataset=dataset, evaluation=evaluation)


if __name__ == "__main__":
    main()
