"""The model card: what the model is, what was proven about it and what was not, and how to run it.

Reads:  ReleaseData. From `config["card"]`: license, base_model, language, tags, and repo_id when the release has one.
Writes: text for `README.md`, with front matter that the Hub reads (model-index included).
"""

from __future__ import annotations

import json
import shlex
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import BaseModel, ConfigDict, Field

from data_contracts.prompting.context import MAX_LABEL_CHARS, MAX_VALUE_CHARS
from data_contracts.verdict import Verdict, failures
from tasks.reports import words
from tasks.reports.data import ReleaseData
from tasks.reports.leaderboard import checks_markdown, leaderboard_markdown, markdown_table


class CardConfig(BaseModel):
    """What the card says that no measurement can tell."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    license: str = "other"
    """Licence id as the Hub spells it, such as apache-2.0."""
    base_model: str | None = None
    """Hub id of the base; None for a base that was trained from scratch by this very run."""
    language: list[str] = Field(default_factory=lambda: ["en"])
    tags: list[str] = Field(default_factory=list)
    repo_id: str | None = None
    """Where it is published, as owner/name; the commands then name it."""
    description: str = ""
    """One or two sentences on what the model does."""


def render_card(release: ReleaseData) -> str:
    """The whole README.md of a release."""
    config = CardConfig.model_validate(release.config.get("card", {}))
    return _card().render(
        front_matter=_front_matter(release, config),
        release=release,
        card=config,
        where=config.repo_id or "model",
        gguf=[row.path for row in release.leaderboard if row.path and row.path.endswith(".gguf")],
        messages=_messages(release),
        lines=_further_lines(release),
        leaderboard=leaderboard_markdown(release),
        proven=checks_markdown([pair for pair in release.checks if pair[1].verdict is Verdict.PASS]),
        lineage=_lineage(release),
        broken=[(stage.stage, one) for stage in release.stages for one in failures(stage.checks)],
        unlimited=[stage.stage for stage in release.stages if not stage.limited],
        settings=json.dumps(release.config, indent=2, ensure_ascii=False, default=str),
    )


def _front_matter(release: ReleaseData, config: CardConfig) -> str:
    from huggingface_hub import ModelCardData

    results = _results(release)
    data = ModelCardData(
        language=config.language,
        license=config.license,
        library_name="transformers",
        tags=list(dict.fromkeys(["plumbline", "gguf", release.recipe, *config.tags])),
        base_model=config.base_model,
        pipeline_tag="text-generation",
        model_name=release.name if results else None,
        eval_results=results or None,
    )
    return data.to_yaml().strip()


def _results(release: ReleaseData) -> list[Any]:
    """One result for each scored metric of the released 16-bit model. Unscored is left out."""
    from huggingface_hub import EvalResult

    rows = [row for row in release.leaderboard if row.model == "merged"]
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=f"{release.recipe}-heldout",
            dataset_name=f"{release.recipe}, held-out rows",
            dataset_split="heldout",
            metric_type=metric,
            metric_name=words.label(metric),
            metric_value=score.value,
            metric_args={"rows": score.n, "file_sha256": row.file_digest},
            verified=None,
        )
        for row in rows
        for metric, score in row.scores.items()
        if score.value is not None
    ]


def _messages(release: ReleaseData) -> str:
    """The chat of the example, as Python source: the contract's own words, and a held-out row when there is one."""
    if release.prompt is None:
        return "[...]  # the messages of the recipe's prompt contract"
    user = release.samples[0].prompt if release.samples else next(iter(release.prompt.users.values()))
    chat = [{"role": "system", "content": release.prompt.system}, {"role": "user", "content": user}]
    return "[\n" + "".join(f"    {json.dumps(one, ensure_ascii=False)},\n" for one in chat) + "]"


def _further_lines(release: ReleaseData) -> list[str]:
    """Sentences on the one way in which a client may add to the prompt, and on which lines the model has read."""
    prompt = release.prompt
    if prompt is None or prompt.context is None:
        return ["The prompt takes nothing else: whatever is added to it gives answers that nobody has tested."]
    read: dict[str, int] = next(
        (stage.facts["context_labels"] for stage in release.stages if "context_labels" in stage.facts), {}
    )
    labels = ", ".join(f"`{label}` ({rows:,} {'row' if rows == 1 else 'rows'})" for label, rows in read.items())
    return [
        f"What is known only at run time is added as further lines, `{prompt.context}` each, after the last line of the "
        "user message. Nothing else may be added, and nothing anywhere else.",
        f"A label begins with a capital, has at most {MAX_LABEL_CHARS} characters and is none of the prompt's own "
        f"({', '.join(prompt.own_labels) or 'it has none'}); a value is one line of at most {MAX_VALUE_CHARS} characters.",
        f"Lines in the training rows: {labels}. Other labels were never read."
        if labels
        else "No training row held such a line: a prompt that does is one the model has never read, and is not tested.",
    ]


def _lineage(release: ReleaseData) -> str:
    rows = [
        [
            stage.stage,
            stage.artifact_digest,
            ", ".join(f"{name} {words.short(digest)}" for name, digest in stage.inputs.items()) or "–",
            words.duration(stage.seconds),
        ]
        for stage in release.stages
    ]
    return markdown_table(["stage", "artifact (sha256)", "made from", "time"], rows)


@lru_cache
def _card() -> Any:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=False, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {name: getattr(words, name) for name in ("number", "measured", "duration", "size", "plain")}
    environment.filters |= {"text": _text, "quoted": shlex.quote}
    return environment.get_template("card.md.j2")


def _text(value: object) -> str:
    """Text of the release in a paragraph: no HTML, no new line, no heading."""
    flat = " ".join(str(value).split())
    return flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("[", "\\[").replace("`", "\\`")
