"""Models -> leaderboard: any list of them, or everything that a finetune run made, asked the same rows and ranked."""

from __future__ import annotations

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows.comparison import ComparisonConfig, check_askable, from_last_runs, load_comparison, make_missing
from flows.pipeline import Pipeline
from flows.release import place
from tasks import compare_models
from tasks.comparison.checks import TABLE
from tasks.core.artifact import Store


@flow(name="compare", validate_parameters=True)
def compare(profile: str = "signals/nano", config: ComparisonConfig | None = None) -> str:
    """Ask models the same held-out rows and write a leaderboard: table, picture, and every answer.

    Args:
        profile: A list of models that ships (signals/compare-thinking), a finetune profile whose last run is compared step by
            step (signals/nano), or the path of a YAML file of either kind.
        config: A whole configuration; when given, it is used in place of the profile.
    """
    config = config or load_comparison(profile)
    inputs = from_last_runs(config)
    known_by = check_askable(config, inputs)
    pipeline = Pipeline(config.run())
    inputs |= make_missing(config, pipeline, inputs)
    settings = config.compare.model_copy(update={"endpoint_answers": known_by})
    comparison = pipeline(compare_models.STAGE, settings, **inputs)
    store = Store(config.store)
    page = (store.folder(comparison) / TABLE).read_text("utf-8")
    create_markdown_artifact(
        page, key=f"{config.name.replace('.', '-')}-comparison", description=f"models of {config.name}"
    )
    print(page)
    return place(store, comparison, config.folder, config.name)
