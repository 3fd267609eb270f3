"""Ask any list of models the same held-out rows, and say which of them can be told apart.

Reads:    models from the Hub, from folders, GGUF files, endpoints, or a finetune run's artifacts; held-out rows.
Writes:   comparison.json (scores with intervals, ranks, pairs, distances), comparison.md, comparison.png,
          answers.jsonl and probes.jsonl (every answer of every model).
Verifies: every model answered every row once; every scored file still has the digest it is listed under; the labels score 1;
          scores and ranks follow again from the written answers; the table names every model; the picture opens and is not
          empty; what came from the Hub is pinned to a commit.

One model is in memory at a time. What stands in the way of any model is told, all of it, before the first is asked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, model_validator

from data_contracts.gates import Gates, load_gates
from data_contracts.verdict import Check
from tasks.comparison.answers import ask_entries
from tasks.comparison.board import board_of
from tasks.comparison.checks import BOARD, CHART, TABLE, comparison_checks
from tasks.comparison.distances import Distances
from tasks.comparison.model_entry import CEILING, NF4, ModelEntry, run_input
from tasks.comparison.preflight import disk_problems
from tasks.core.artifact import canonical_json
from tasks.core.child import HUB_SECRETS
from tasks.core.errors import ConfigError, ContractError
from tasks.core.stage import Job, Stage
from tasks.core.stage_process import child_main
from tasks.evaluation.local_models import AskingConfig
from tasks.evaluation.survey import Survey
from tasks.formats.jsonl import read_lines, write_json
from tasks.recipes import load_recipe


class CompareConfig(AskingConfig):
    """Which models are compared, on which rows."""

    models: list[ModelEntry] = Field(min_length=1)
    """The models, in any order."""
    rows_file: str | None = None
    """A .jsonl or .parquet of held-out rows, checked against the recipe's row contract."""
    rows_run: str | None = None
    """In place of rows_file: name of a finetune run in the store, whose held-out rows are asked."""
    max_rows: int | None = Field(default=None, ge=1)
    """Ask only so many rows, the first ones; all when left out."""
    metamorphic_rows: int = Field(default=24, ge=0)
    """Rows that are asked again with the question negated, the subject swapped, the date moved; 0 for none."""
    distance_to: str | None = None
    """Name of a model on this disk from which every other one's distance is measured (KL, same first choice, same answers)."""
    distance_rows: int = Field(default=8, ge=1)
    """Rows whose expected answers the distances are measured on."""
    endpoint_answers: dict[str, str] = Field(default_factory=dict)
    """Filled in by the flow: endpoint's name -> sha256 of its answer to one question. An address has no digest of its own, so
    a finished comparison is recognised by this."""

    @model_validator(mode="after")
    def _whole_list(self) -> CompareConfig:
        wrong = []
        names = [one.name for one in self.models]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            wrong.append(f"{', '.join(twice)} stand(s) more than once; give each model a name of its own")
        if sum(one.role == "base" for one in self.models) > 1:
            wrong.append("only one model can have the role base")
        if (self.rows_file is None) == (self.rows_run is None):
            wrong.append("give rows_file or rows_run, and not both")
        on_disk = [one.name for one in self.models if one.endpoint is None]
        if self.distance_to is not None and self.distance_to not in on_disk:
            wrong.append(f"distance_to names no model on this disk; those are {', '.join(on_disk) or 'none'}")
        if wrong:
            raise ValueError("; ".join(wrong))
        return self


def compare_models(config: CompareConfig, job: Job) -> dict:
    """Look, ask, rank, draw; returns the speeds, which are this machine's and so no part of the artifact.

    Raises:
        ConfigError: every model that cannot be asked, and why.
        ContractError: a row breaks its contract.
        ArtifactError, TransientError: a model failed while it was asked.
    """
    recipe, gates = load_recipe(job.recipe), load_gates(job.recipe)
    rows = heldout_rows(config, job.recipe, job.inputs)
    survey = Survey.of(recipe, rows, config.metamorphic_rows)
    found = [*_ranking_problems(job.recipe, gates, survey), *disk_problems(config.models, job.inputs, job.recipe, rows)]
    refuse_unaskable(config, found)
    distances = None
    if config.distance_to:
        some = rows[: config.distance_rows]
        distances = Distances(config.distance_to, some, [recipe.completion(row) for row in some], job.work / "logits")
    everyone = ask_entries(config, config.models, config.endpoint_answers, job, survey, distances)
    if distances:
        distances.close()
    _write(job.out, board_of(survey, gates, everyone, distances, _about(config, job.recipe, rows)))
    answers = [one.answers for one in everyone]
    survey.write_answers(job.out, [survey.ceiling(CEILING), *answers])
    speeds = {one.model: round(one.generated_tokens / one.seconds, 1) for one in answers if one.seconds}
    return {"tokens_per_s": speeds, "generated_tokens": sum(one.generated_tokens for one in answers)}


def refuse_unaskable(config: CompareConfig, problems: list[str]) -> None:
    """Raises ConfigError with every problem, if there is one."""
    if problems:
        head = f"compare_models: {len(problems)} problem(s) with {len(config.models)} models. None was asked."
        raise ConfigError([head, *problems])


def _ranking_problems(recipe: str, gates: Gates, survey: Survey) -> list[str]:
    """A metric that nothing measures would leave every two models untold, without a word."""
    known = survey.scores(survey.ceiling(CEILING))
    strange = [one.metric for one in gates.ranking if one.metric not in known]
    if gates.ranking and not strange:
        return []
    wrong = f"nothing measures {', '.join(strange)}" if strange else "names no metric"
    return [f"  ranking in data_contracts/{recipe}/gates.yaml {wrong}. Known: {', '.join(known)}."]


def heldout_rows(config: CompareConfig, recipe: str, folders: Mapping[str, Path]) -> list[dict]:
    """The rows to ask.

    Raises:
        ContractError: the file cannot be read, or rows break the recipe's contract; with file, line and column.
    """
    if config.rows_run:
        return read_lines(folders[run_input(config.rows_run, "rows")] / "heldout.jsonl")[: config.max_rows]
    from data_contracts.limits import load_limits
    from data_contracts.rows.contract import check_rows
    from data_contracts.rows.findings import format_table
    from data_contracts.rows.rows_file import read_batch

    path = Path(str(config.rows_file))
    batch, limits = read_batch(path), load_limits(recipe).model_copy(update={"min_rows": 1})
    findings = check_rows(recipe, batch.frame, limits, batch.texts)
    if findings.broken:
        raise ContractError(f"compare_models: {path} breaks the row contract.\n{format_table(findings, path)}")
    return findings.frame.to_dicts()[: config.max_rows]


def _about(config: CompareConfig, recipe: str, rows: list[dict]) -> dict:
    digest = hashlib.sha256(canonical_json(rows).encode()).hexdigest()
    source = config.rows_file or f"held out by the last run of {config.rows_run}"
    return {"recipe": recipe, "source": source, "count": len(rows), "sha256": digest}


def _write(out: Path, board: dict) -> None:
    from tasks.reports.comparison_chart import draw_comparison
    from tasks.reports.comparison_text import comparison_markdown

    write_json(out / BOARD, board)
    (out / TABLE).write_text(comparison_markdown(board), "utf-8")
    draw_comparison(board, out / CHART)


def verify_comparison(config: CompareConfig, job: Job) -> list[Check]:
    """Measure the written comparison; see the module's docstring."""
    return comparison_checks(config.models, job, heldout_rows(config, job.recipe, job.inputs))


def _stack(config: CompareConfig) -> tuple[str, ...]:
    return ("bitsandbytes",) if any(one.part == NF4 for one in config.models) else ()


STAGE = Stage(
    name="compare_models",
    kind="comparison",
    version=1,
    redo_failed=lambda config: any(entry.endpoint for entry in config.models),
    work=compare_models,
    verify=verify_comparison,
    stack=("torch", "transformers", "peft", "llama_cpp_python", "matplotlib"),
    optional_stack=_stack,
    contract=("prompt.md", "prompt_rich.md", "output.py", "rows.py", "limits.yaml", "gates.yaml"),
    recipe_files=lambda recipe: load_recipe(recipe).EVALUATION_FILES,
    secrets=HUB_SECRETS,
    named_secrets=lambda config: [one.endpoint.api_key_env for one in config.models if one.endpoint],
    outside=lambda config: [
        *([config.rows_file] if config.rows_file else []),
        *(path for one in config.models for path in one.files),
    ],
)

if __name__ == "__main__":
    raise SystemExit(child_main(STAGE, CompareConfig))
