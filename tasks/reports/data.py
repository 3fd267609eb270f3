"""What a release says about itself, as plain frozen data: report, card and tables are drawn from nothing else."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from data_contracts.prompting.prompt import PromptContract
from data_contracts.verdict import Check, Verdict, overall


class _Record(BaseModel):
    """Frozen, no unknown field, and no NaN or infinity: those have no place in JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class StageRecord(_Record):
    """One artifact of the lineage: what made it, from what, at what cost, and what was proven about it."""

    stage: str
    """Name of the box, unique in a release ("train_lora", "export_gguf.q8_0")."""
    artifact_digest: str
    """sha256 of the artifact's content."""
    key: str
    """Cache key under which it was built."""
    inputs: dict[str, str] = Field(default_factory=dict)
    """Name of an input -> digest of the artifact given. The digest of another stage of this release draws an edge."""
    seconds: float = Field(ge=0)
    """Wall clock that building it took, whichever run built it."""
    rebuilt_because: list[str] = Field(default_factory=list)
    """Parts of the cache key that changed since the last build; empty when built for the first time."""
    checks: list[Check] = Field(default_factory=list)
    facts: dict[str, Any] = Field(default_factory=dict)
    """Numbers worth knowing that no check limits."""

    @property
    def limited(self) -> list[Check]:
        """The checks that can fail: those with a limit."""
        return [one for one in self.checks if one.comparison != "report"]

    @property
    def verdict(self) -> Verdict:
        """The worst of its checks; no check at all is *cannot tell*."""
        return overall(self.checks)


class Score(_Record):
    """One metric of one model. A value of None is *unscored*: shown as "cannot tell", never as zero."""

    value: float | None = Field(ge=0, le=1)
    """Share of rows, 0..1."""
    low: float | None = None
    """Lower end of the confidence interval."""
    high: float | None = None
    """Upper end of the confidence interval."""
    n: int = Field(ge=0)
    """Rows that the value rests on."""


class Measure(_Record):
    """A number about one model that is no share of rows, such as a slope. None is *unscored*."""

    value: float | None
    low: float | None = None
    """Lower end of the bootstrap interval."""
    high: float | None = None
    """Upper end of the bootstrap interval."""
    n: int = Field(ge=0)
    """Rows that the value rests on."""


class LeaderboardRow(_Record):
    """One model, or one file of it, and how it did."""

    model: str
    """One of base, adapter, merged, f16, q8_0, q4_k_m, ceiling."""
    file_digest: str | None = None
    """sha256 of the very file that was scored; None for a row that is not a file (a ceiling taken from the labels)."""
    path: str | None = None
    """Where the file lies, relative to the release folder, such as gguf/signals-nano-q8_0.gguf."""
    size_bytes: int | None = None
    bits_per_weight: float | None = None
    tokens_per_s: float | None = None
    """Generation speed on the machine of this run, in tokens a second."""
    scores: dict[str, Score] = Field(default_factory=dict)
    """Metric -> score."""
    measures: dict[str, Measure] = Field(default_factory=dict)
    """Name -> number that is no share of rows."""
    verdict: Verdict | None = None
    """What its gates said; None for a row that no gate judges (base, ceiling)."""


class LossPoint(_Record):
    """The loss at one optimizer step, in nats a token."""

    step: int = Field(ge=0)
    train_loss: float | None = None
    heldout_loss: float | None = None


class Sample(_Record):
    """One held-out row beside what each model answered."""

    row: dict[str, Any]
    """The row as in heldout.jsonl."""
    prompt: str
    """The user message that the models were given."""
    expected: str
    """The answer that the row holds."""
    answers: dict[str, str] = Field(default_factory=dict)
    """Model -> its full answer."""
    correct: dict[str, bool | None] = Field(default_factory=dict)
    """Model -> was it right; None is unscored."""


class Costs(_Record):
    """What the run behind this release used."""

    seconds: float = Field(default=0, ge=0)
    """Wall clock of the whole run."""
    train_tokens: int | None = None
    generated_tokens: int | None = None
    peak_memory_bytes: int | None = None
    price: float | None = None
    currency: str = "USD"


class ReleaseData(_Record):
    """Everything that a release shows. Its verdict can be worse than its checks (the gates), never better."""

    name: str
    """Folder name of the release, such as "signals-nano"."""
    recipe: str
    verdict: Verdict
    stages: list[StageRecord]
    leaderboard: list[LeaderboardRow] = Field(default_factory=list)
    headline: list[str] = Field(default_factory=list)
    """Metrics that the one table of a run shows; empty for all of them."""
    loss_curve: list[LossPoint] = Field(default_factory=list)
    samples: list[Sample] = Field(default_factory=list)
    not_proven: list[str] = Field(default_factory=list)
    """Plain sentences: what nobody should assume about this model."""
    prompt: PromptContract | None = None
    """The words that the model was trained on; the card shows them."""
    config: dict[str, Any] = Field(default_factory=dict)
    """The whole configuration, as validated. `config["card"]` feeds the card's front matter (tasks/reports/card.py)."""
    costs: Costs = Field(default_factory=Costs)

    @property
    def checks(self) -> list[tuple[str, Check]]:
        """Every check with the stage that made it."""
        return [(stage.stage, one) for stage in self.stages for one in stage.checks]

    @property
    def metrics(self) -> list[str]:
        """Metric names, in the order in which they first appear; those that no row says anything about are left out."""
        return list(dict.fromkeys(name for row in self.leaderboard for name, one in row.scores.items() if one.n))

    @property
    def shown_metrics(self) -> list[str]:
        """The metrics of the one table."""
        return [name for name in self.metrics if name in self.headline] or self.metrics

    @property
    def further(self) -> list[str]:
        """Metrics beside those of the one table, then measures."""
        measures = dict.fromkeys(name for row in self.leaderboard for name in row.measures)
        return [name for name in self.metrics if name not in self.shown_metrics] + list(measures)

    @property
    def edges(self) -> list[tuple[str, str, str]]:
        """(from stage, to stage, name of the input), by matching input digests to the stages' own digests."""
        makers = {stage.artifact_digest: stage.stage for stage in self.stages}
        return [
            (makers[digest], stage.stage, name)
            for stage in self.stages
            for name, digest in stage.inputs.items()
            if digest in makers and makers[digest] != stage.stage
        ]

    @model_validator(mode="after")
    def _stages_have_one_name_each(self) -> ReleaseData:
        names = [stage.stage for stage in self.stages]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"stages named more than once: {', '.join(twice)}; give each artifact its own name")
        return self

    @model_validator(mode="after")
    def _no_better_than_checks(self) -> ReleaseData:
        worst = overall(one for _, one in self.checks)
        if self.verdict is Verdict.PASS and worst is not Verdict.PASS:
            broken = [f"{stage}: {one.name}" for stage, one in self.checks if one.verdict is not Verdict.PASS]
            raise ValueError(
                f"verdict is pass, but {len(broken)} of {len(self.checks)} checks did not pass: {'; '.join(broken[:5])}"
            )
        return self
