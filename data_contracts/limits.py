"""The numbers a set of rows is held to: one frozen model, filled from `data_contracts/<recipe>/limits.yaml`.

`Limits` is what every set is held to. A recipe adds a family: `AssessmentLimits` for rows whose text argues for labels,
`WritingLimits` for rows whose text is the answer. Its rows.py says which (`LIMITS = ...`); audit.py knows the checks of each.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from data_contracts.errors import ConfigError
from data_contracts.paths import CONTRACTS_FOLDER
from data_contracts.yaml_model import read_yaml, validated


@dataclass(frozen=True)
class Guess:
    """A label that a shortcut could lead to, as a column of the audit's view."""

    label: str
    column: str
    among: Literal["all", "signal", "signed"] = "all"
    """Which rows have it: all whose cell is not empty, those that are no noise, those with a sign."""
    split: Literal["names", "true", "positive", "above median"] = "names"
    """How its values become classes; "names" are classes already."""
    classes: tuple[str, str] = ("", "")
    """What the two classes of a split are called."""


@dataclass(frozen=True)
class SignWords:
    """What the sign of an assessment means, in the words of a recipe: messages and pages show them."""

    more: str = "positive sign"
    less: str = "negative sign"
    more_fraction: str = "positive-sign fraction"
    balance: str = "Add rows of the rarer sign"
    """How the shares of the two signs are brought together."""
    apart: str = "metric and answer move apart"
    add_apart: str = "Add such rows: only they show which of the two a model follows"
    concludes: tuple[str, str, str] = ("a positive sign", "a negative sign", "no sign")
    """What words conclude of a row that is positive, negative, neither."""
    conclude: str = "State in each trace what the answer's sign is"
    target: str = "the answer"
    """What the sign is about."""
    signed_rows: str = "rows with a sign"
    size: str = "size"
    """What the field is called that says how large a change is."""
    apart_shown: str = (
        "Which way the metric moves, and which way the answer moves. In the outlined cells they move apart."
    )
    """What the page writes above the nine cells of metric against answer."""


class Limits(BaseModel):
    """Limits of one profile. All `_fraction` values lie between 0 and 1; bounds are inclusive unless said."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    text: ClassVar[str] = "text"
    """What the learned text is called, in the audit's view and in its messages."""
    argument: ClassVar[str] = "text"
    """The part of it that argues for the labels: its length and its surface must give none of them away."""
    leaked_tag: ClassVar[str] = "a think tag"
    """What a think tag inside the learned text is called; the renderer sets a first pair around a trace."""

    family: ClassVar[str] = ""
    """Which checks audit.py adds to those of every set."""
    numeric_labels: ClassVar[Mapping[str, str]] = {}
    """Name -> column of the view: labels with an order, beside the view's own (`label_...`)."""
    named_labels: ClassVar[Mapping[str, str]] = {}
    """The same for labels that are names."""
    labels_every_row: ClassVar[bool] = False
    """Every row has a label to guess."""
    words: ClassVar[SignWords | None] = None
    """What the sign of an answer means; None where answers have none."""

    recipe: str
    """Contract folder that the numbers come from."""
    profile: str
    """Section of limits.yaml that was laid over `default`."""
    min_rows: int = Field(ge=1)
    """Fewest rows of a table. An empty table breaks no rule on a column, so this one is never optional."""
    max_length_rank_correlation: float = Field(ge=0, le=1)
    """Largest |Spearman correlation| of the text's length with a label."""
    max_length_side_correlation: float = Field(ge=0, le=1)
    """The same for the fields in `side_fields`."""
    side_fields: list[str]
    """Labels that describe an input but do not decide what is done with it: they have a wider limit."""
    max_p_value: float = Field(gt=0, lt=1)
    """A finding above its limit is believed when chance gives one as large at most this often; else *cannot tell*."""
    min_audit_rows: int = Field(ge=10)
    """Fewest rows from which a correlation, a share or a shortcut can be told; half as many of a subset of rows."""
    max_shortcut_advantage_fraction: float = Field(ge=0, le=0.5)
    """How far above chance (0.5) a model that sees only the text's length may guess a label, in balanced accuracy."""
    max_surface_advantage_fraction: float | None = Field(ge=0, le=0.5)
    """The same for a model that sees every surface feature of text and input. null: the texts are templates, which give
    their labels away by design; the accuracy is reported."""
    max_input_similarity_fraction: float | None = Field(ge=0, le=1)
    """Largest word-shingle Jaccard similarity of a held-out input with a training input. null: inputs are templated
    sentences, so similarity says nothing; only identical inputs are refused, and the largest one is reported."""
    max_repeat_similarity_fraction: float | None = Field(ge=0, le=1)
    """Largest such similarity of two inputs of one table. null: as above."""
    max_text_similarity_fraction: float | None = Field(ge=0, le=1)
    """Largest such similarity of two learned texts (trace or target), in one table or across the splits: a text copied under
    another input is learned twice. null: as above."""

    @property
    def where(self) -> str:
        """The place of these numbers, for messages."""
        return f"data_contracts/{self.recipe}/limits.yaml, {self.profile}"

    @property
    def text_chars(self) -> tuple[int, int]:
        """Shortest and longest learned text, in characters."""
        return getattr(self, f"min_{self.text}_chars"), getattr(self, f"max_{self.text}_chars")

    @property
    def line_similarity_fraction(self) -> float | None:
        """Largest similarity of one line of an input with that of a held-out row; None: lines have no limit."""
        return None

    def guesses(self, named: Mapping[str, str], columns: Collection[str]) -> list[Guess]:
        """The labels that a model which does not read must not guess.

        Args:
            named: Name -> column of the view's labels that are names.
            columns: All columns of the view.
        """
        return [Guess(name, column) for name, column in named.items()]

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Limits:
        names = type(self).model_fields
        pairs = [name[4:] for name in names if name.startswith("min_") and f"max_{name[4:]}" in names]
        wrong = [name for name in pairs if getattr(self, f"min_{name}") > getattr(self, f"max_{name}")]
        if wrong:
            raise ValueError("; ".join(f"min_{one} is larger than max_{one}: no row could pass" for one in wrong))
        return self


class AssessmentLimits(Limits):
    """Rows that assess an input: a thinking trace, then labels with a sign and a size, noise among them."""

    text: ClassVar[str] = "trace"
    argument: ClassVar[str] = "trace"
    leaked_tag: ClassVar[str] = "a second think tag"
    family: ClassVar[str] = "assessment"
    numeric_labels: ClassVar[Mapping[str, str]] = {"sign": "sign"}
    named_labels: ClassVar[Mapping[str, str]] = {"kind": "kind"}
    labels_every_row: ClassVar[bool] = True
    words: ClassVar[SignWords] = SignWords()
    split_labels: ClassVar[tuple[str, ...]] = ()
    """Labels that are guessed as above or not above the median of the signal rows, where the view has them."""

    min_trace_chars: int = Field(ge=1)
    """Shortest thinking trace, in characters."""
    max_trace_chars: int = Field(ge=1)
    """Longest thinking trace, in characters."""
    max_part_similarity_fraction: float | None = Field(ge=0, le=1)
    """Largest similarity, of shingles of two words, of one line of an input with the same line of a
    hand-written held-out row. null: lines are templates, which inputs share by design."""
    min_noise_fraction: float = Field(ge=0, le=1)
    """Smallest share of noise rows."""
    max_noise_fraction: float = Field(ge=0, le=1)
    """Largest share of noise rows."""
    min_positive_fraction: float = Field(ge=0, le=1)
    """Smallest share of rows with a positive sign among the rows with a direction."""
    max_positive_fraction: float = Field(ge=0, le=1)
    """Largest share of rows with a positive sign among the rows with a direction."""
    min_disagreeing_fraction: float = Field(ge=0, le=1)
    """Smallest share of rows whose metric and answer move apart, among rows in which both move."""
    min_concluded_fraction: float = Field(ge=0, le=1)
    """Smallest share of rows in which the words of the trace decide a sign; below it agreement cannot be told."""
    max_contradiction_fraction: float = Field(ge=0, le=1)
    """Largest share of contradictions among the rows in which the words of the trace decide."""
    sizes_unsaid: bool
    """true: traces of this profile never speak of sizes, so none that does is no lack of data."""
    min_kind_fraction: float | None = Field(ge=0, le=1)
    """Smallest share of each kind of information among the signal rows. null: reported only."""
    small_size: float = Field(ge=0, le=1)
    """A magnitude up to this is a small update."""
    large_size: float = Field(ge=0, le=1)
    """A magnitude from this on is near-resolving."""
    min_small_fraction: float | None = Field(ge=0, le=1)
    """Smallest share of small updates among the signal rows. null: reported only."""
    min_large_fraction: float | None = Field(ge=0, le=1)
    """Smallest share of near-resolving updates among the signal rows. null: reported only."""
    min_disagreeing_rows: int | None = Field(ge=1)
    """Fewest rows whose metric and answer move apart. null: reported only."""
    min_malformed_rows: int | None = Field(ge=1)
    """Fewest malformed rows. null: reported only."""
    max_one_value_fraction: float | None = Field(ge=0, le=1)
    """Largest share of one value of a numeric label among the signal rows: a label that hardly varies teaches a constant.
    null: reported only."""

    @property
    def line_similarity_fraction(self) -> float | None:
        return self.max_part_similarity_fraction

    def guesses(self, named: Mapping[str, str], columns: Collection[str]) -> list[Guess]:
        split = [name for name in self.split_labels if f"label_{name}" in columns]
        return [
            Guess("noise", "noise", "all", "true", ("noise", "signal")),
            Guess("sign", "sign", "signed", "positive", (self.words.more, self.words.less)),
            Guess("a large update", "size", "signal", "above median", ("large", "small")),
            Guess("the kind of information", "kind", "signal"),
            *(Guess(f"high {name}", f"label_{name}", "signal", "above median", ("high", "low")) for name in split),
        ]


class WritingLimits(Limits):
    """Rows whose text is the answer: it must follow from its input, and not from a template that the input fills."""

    family: ClassVar[str] = "writing"
    text: ClassVar[str] = "target"
    argument: ClassVar[str] = "reasoning"

    min_target_chars: int = Field(ge=1)
    """Shortest target, in characters of its text; the marks of a JSON answer do not count."""
    max_target_chars: int = Field(ge=1)
    """Longest target, in characters."""
    min_row_anchors: int = Field(ge=1)
    """Fewest anchors of a row: distinctive tokens of its input that stand in its target."""
    min_task_rows: int = Field(ge=4)
    """Fewest rows of a task from which repetition can be told."""
    min_distinct_reasoning_fraction: float | None = Field(ge=0, le=1)
    """Smallest share of distinct reasoning strings in a sample of 125 rows that have one, names and numbers masked.
    null: reported only, because the texts are templates by design."""
    min_distinct_trigram_fraction: float | None = Field(ge=0, le=1)
    """Smallest share of distinct three-word runs in the targets of a task (distinct-3), names masked. null: as above."""
    max_self_similarity_fraction: float | None = Field(ge=0, le=1)
    """Largest mean similarity of a target with the most similar other one of its task, names masked. null: as above."""
    max_skeleton_fraction: float | None = Field(ge=0, le=1)
    """Largest share of a task's own words (what does not come from the input) that a common skeleton predicts. null: as above."""


def limits_model(recipe: str) -> type[Limits]:
    """The family of limits that a recipe's rows.py names.

    Raises:
        ConfigError: it names none, so nobody could say which checks its rows must pass.
    """
    model = getattr(import_module(f"data_contracts.{recipe}.rows"), "LIMITS", None)
    if not (isinstance(model, type) and issubclass(model, Limits) and f"min_{model.text}_chars" in model.model_fields):
        raise ConfigError(
            f"limits: data_contracts/{recipe}/rows.py names no family of limits. Found LIMITS = {model!r}. Write "
            "LIMITS = AssessmentLimits (labels argued for by a trace) or LIMITS = WritingLimits (the text is the answer)."
        )
    return model


def load_limits(recipe: str, profile: str = "default") -> Limits:
    """The limits of a recipe: section `default` of limits.yaml with section `profile` laid over it.

    Raises:
        ConfigError: every unknown key, missing key and impossible value at once; or the profile is not in the file.
    """
    values = read_yaml(CONTRACTS_FOLDER / recipe / "limits.yaml", "limits")
    where = f"data_contracts/{recipe}/limits.yaml"
    not_sections = [name for name, section in values.items() if not isinstance(section, dict)]
    if not_sections or "default" not in values:
        raise ConfigError(
            f"limits: {where}: expected sections of 'name: value' lines, 'default' among them. Found {sorted(values)}"
            f"{'; not a section: ' + ', '.join(map(str, not_sections)) if not_sections else ''}. Correct the file."
        )
    if profile not in values:
        raise ConfigError(
            f"limits: {where}: no profile '{profile}'. Found {', '.join(values)}. Add a section or name another."
        )
    merged = {**values["default"], **values[profile], "recipe": recipe, "profile": profile}
    return validated(limits_model(recipe), merged, "limits", f"{where} ({profile})")
