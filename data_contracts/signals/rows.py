"""The row contract of signals: one headline, one market question, the reasoning and the six fields of the answer.

Rules read "what is wrong; what to do". A rule on two columns is a `dataframe_check`, named after the column to look at.
"""

from __future__ import annotations

from typing import get_args

import pandera.polars as pa
import polars as pl
from pandera.api.polars.types import PolarsData

from data_contracts.prompting import context as lines
from data_contracts.prompting import markers
from data_contracts.prompting.prompt import load_prompt
from data_contracts.rows.contract import EMPTY_CELL
from data_contracts.signals.conclusions import concluded as concluded  # the audit looks for it here
from data_contracts.signals.limits import SignalsLimits
from data_contracts.signals.output import ErrorCode, InformationType

NOISE_MAX_RELEVANCE = 0.1
"""At or below this a row is noise. Part of the meaning of `relevance`, not a limit to tune: so it stands here."""

INFORMATION_TYPES = list(get_args(InformationType))
SIGNAL_KINDS = [one for one in INFORMATION_TYPES if one != "unrelated"]
"""The kinds that a row which is no noise can have; `kind` in the audit's view."""
ERROR_CODES = list(get_args(ErrorCode))
CLASSES = ("noise", "YES more likely", "YES less likely", "no direction", "malformed")
"""Kinds of rows whose lengths the page draws side by side; `row_class` in the audit's view."""
ANSWER = ("relevance", "direction", "magnitude", "source_credibility", "information_type", "novelty")
"""The columns of the answer; all are empty in a malformed row, whose answer is the error."""
MALFORMED = pl.col("error_code").is_not_null()
NOISE = pl.col("relevance") <= NOISE_MAX_RELEVANCE
SOURCE_TAG = r" [-–—|] (?:[A-Z][\w.&'’]*)(?: [A-Z][\w.&'’]*){0,3}\s*$"


def audited(frame: pl.DataFrame) -> pl.DataFrame:
    """What the set-level audit looks at, under names that every recipe shares (data_contracts/audit/audit.py)."""
    malformed = MALFORMED if "error_code" in frame.columns else pl.lit(False)
    shown = [name for name in ("headline", "question", "context") if name in frame.columns]
    return frame.select(
        "trace",
        "source_batch",
        malformed=malformed,
        row_class=_row_class(malformed),
        input=pl.concat_str(shown, separator="\n", ignore_nulls=True),
        part_headline="headline",
        part_question="question",
        noise=NOISE,
        sign=pl.col("direction").sign().cast(pl.Int8),
        metric_sign=pl.col("metric_direction").cast(pl.Int8),
        size="magnitude",
        kind="information_type",
        label_relevance="relevance",
        label_direction="direction",
        label_magnitude="magnitude",
        label_source_credibility="source_credibility",
        label_novelty="novelty",
    )


def _row_class(malformed: pl.Expr) -> pl.Expr:
    return (
        pl.when(malformed.fill_null(False))
        .then(pl.lit("malformed"))
        .when(NOISE)
        .then(pl.lit("noise"))
        .when(pl.col("direction") > 0)
        .then(pl.lit("YES more likely"))
        .when(pl.col("direction") < 0)
        .then(pl.lit("YES less likely"))
        .otherwise(pl.lit("no direction"))
    )


def _has(data: PolarsData, pattern: str) -> pl.LazyFrame:
    return data.lazyframe.select(pl.col(data.key).str.contains(pattern))


def _well_formed(data: PolarsData, rule: pl.Expr) -> pl.LazyFrame:
    """A rule on inputs, which a malformed row is there to break."""
    return data.lazyframe.select(MALFORMED | rule)


def _lacks(data: PolarsData, pattern: str) -> pl.LazyFrame:
    return data.lazyframe.select(~pl.col(data.key).str.contains(pattern))


def _line_rule(rule: lines.LineRule) -> classmethod:
    """A rule on each further line of the prompt."""

    def keeps(cls, data: PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(rule.kept(data.key))

    return pa.check("context", error=rule.text)(keeps)


def _answered(column: str) -> classmethod:
    """The rule that a column of the answer is empty in malformed rows only."""

    def rule(cls, data: PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(MALFORMED | pl.col(column).is_not_null())

    return pa.dataframe_check(name=column, error=EMPTY_CELL)(rule)


class SignalRow(pa.DataFrameModel):
    """One row, its answer either the six fields or, for a malformed input, the two error fields; the others are empty.

    `metric_direction` and `source_batch` describe a row and never enter a prompt or an answer.
    """

    headline: str = pa.Field(description="as published, without the source's name")
    question: str = pa.Field(description="the market's question; YES and NO are its two answers")
    trace: str = pa.Field(description="reasoning from the headline to the probability of YES, without think tags")
    relevance: float = pa.Field(nullable=True, description="0..1, how much the headline bears on the question")
    direction: float = pa.Field(
        nullable=True, description="-1..1, whether YES gets more or less likely; never the metric's direction"
    )
    magnitude: float = pa.Field(nullable=True, description="0..1, size of the update; 0.1 moderate, 0.4 near-resolving")
    source_credibility: float = pa.Field(nullable=True, description="0..1, how far the source can be believed")
    information_type: str = pa.Field(nullable=True, description="what kind of information it is; see output.py")
    novelty: float = pa.Field(nullable=True, description="0..1, how much the market cannot have known")
    source_batch: str = pa.Field(description="where the row came from")
    metric_direction: int = pa.Field(description="-1, 0, +1: which way the metric in the headline moves; 0 for none")
    error_code: str | None = pa.Field(nullable=True, description="what is wrong with a malformed input; see output.py")
    error_message: str | None = pa.Field(nullable=True, description="one sentence for whoever sent it")
    context: str | None = pa.Field(
        nullable=True,
        description="further lines of the prompt, 'Label: value' each, a line break between; null for none",
    )

    @pa.check("headline", "question", error="shorter than 8 characters; write it out, or drop the row")
    def long_enough(cls, data: PolarsData) -> pl.LazyFrame:
        return _well_formed(data, pl.col(data.key).str.strip_chars().str.len_chars() >= 8)

    @pa.check("headline", "question", error="spans lines or has outer white space; join the lines and strip it")
    def one_clean_line(cls, data: PolarsData) -> pl.LazyFrame:
        return _well_formed(data, ~pl.col(data.key).str.contains(r"[\n\r\t]|^\s+\S|\S\s+$"))

    @pa.check("headline", error="ends with a source tag such as ' - Reuters'; strip it where the row is made")
    def no_source_tag(cls, data: PolarsData) -> pl.LazyFrame:
        return _lacks(data, SOURCE_TAG)

    @pa.check("headline", "question", error="holds chat-control text such as '<|' or '</think>'; drop the row")
    def no_chat_control(cls, data: PolarsData) -> pl.LazyFrame:
        return _lacks(data, markers.CHAT_CONTROL)

    @pa.check(
        "headline", "question", "trace", error="holds invisible characters; decode the source as UTF-8 and strip them"
    )
    def printable(cls, data: PolarsData) -> pl.LazyFrame:
        return _lacks(data, markers.CONTROL_CHARACTERS)

    @pa.check("question", error="does not end with '?'; state the market as one yes-or-no question")
    def is_question(cls, data: PolarsData) -> pl.LazyFrame:
        return _well_formed(data, pl.col(data.key).str.contains(r"\?\s*$"))

    @pa.check("trace", "source_batch", error="is empty; fill it in, or drop the row")
    def not_blank(cls, data: PolarsData) -> pl.LazyFrame:
        return _has(data, r"\S")

    @pa.check("trace", error="has outer white space; strip it: the renderer sets the line breaks around a trace")
    def stripped(cls, data: PolarsData) -> pl.LazyFrame:
        return _lacks(data, r"^\s+\S|\S\s+$")

    @pa.check(
        "trace", error="holds a think tag, a chat marker or a channel name; cut the trace out of the raw answer again"
    )
    def no_marker(cls, data: PolarsData) -> pl.LazyFrame:
        return _lacks(data, markers.ANY_MARKER)

    @pa.check("trace", error="holds JSON; keep the reasoning only, the renderer appends the answer")
    def no_json(cls, data: PolarsData) -> pl.LazyFrame:
        return _lacks(data, markers.JSON_TEXT)

    @pa.check("relevance", "magnitude", "source_credibility", "novelty", error="not from 0 to 1; rescale or correct it")
    def unit_interval(cls, data: PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col(data.key).is_between(0, 1))

    @pa.check("direction", error="not from -1 to 1; -1 makes YES less likely, +1 more likely")
    def signed_interval(cls, data: PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col(data.key).is_between(-1, 1))

    @pa.check("metric_direction", error="not -1, 0 or 1; give only the sign of the metric's move")
    def is_sign(cls, data: PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col(data.key).is_in([-1, 0, 1]))

    @pa.check("information_type", error=f"not one of {', '.join(INFORMATION_TYPES)}; choose one")
    def known_type(cls, data: PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col(data.key).is_in(INFORMATION_TYPES))

    @pa.check("error_code", error=f"not one of {', '.join(ERROR_CODES)}; choose one, or leave it empty")
    def known_error(cls, data: PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col(data.key).is_in(ERROR_CODES))

    @pa.check("error_message", error="not one sentence of 10 to 160 characters; say what is wrong with the input")
    def one_sentence(cls, data: PolarsData) -> pl.LazyFrame:
        return _has(data, r"^[A-Z][^\n]{8,158}[.]$")

    @pa.check(
        "error_message", error="holds a think tag, a chat marker or invisible characters; write it as plain words"
    )
    def plain_words(cls, data: PolarsData) -> pl.LazyFrame:
        return _lacks(data, f"{markers.ANY_MARKER}|{markers.INVISIBLE}")

    context_is_lines = _line_rule(lines.FORM)
    context_has_short_labels = _line_rule(lines.SHORT_LABEL)
    context_has_short_values = _line_rule(lines.SHORT_VALUE)
    context_has_no_marker = _line_rule(lines.NO_MARKER)
    context_is_printable = _line_rule(lines.PRINTABLE)

    @pa.check("context", error=lines.OWN_LABEL)
    def context_has_other_labels(cls, data: PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(lines.own_label_rule(load_prompt("signals").own_labels).kept(data.key))

    @pa.check("context", error=lines.TWICE)
    def context_has_no_label_twice(cls, data: PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(lines.no_label_twice(data.key))

    has_relevance = _answered("relevance")
    has_direction = _answered("direction")
    has_magnitude = _answered("magnitude")
    has_source_credibility = _answered("source_credibility")
    has_information_type = _answered("information_type")
    has_novelty = _answered("novelty")

    @pa.dataframe_check(
        name="error_code", error="stands beside an answer; empty the six fields of a malformed row, or the error"
    )
    def error_or_answer(cls, data: PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(~MALFORMED | pl.all_horizontal(pl.col(name).is_null() for name in ANSWER))

    @pa.dataframe_check(
        name="error_message", error="does not go with error_code; give both in a malformed row, neither elsewhere"
    )
    def message_with_code(cls, data: PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col("error_message").is_not_null() == MALFORMED)

    @pa.dataframe_check(name="direction", error="not 0 in a noise row; set it to 0, or raise relevance above 0.1")
    def noise_has_no_direction(cls, data: PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(~NOISE | (pl.col("direction") == 0))

    @pa.dataframe_check(name="magnitude", error="not 0 in a noise row; set it to 0, or raise relevance above 0.1")
    def noise_moves_nothing(cls, data: PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(~NOISE | (pl.col("magnitude") == 0))

    @pa.dataframe_check(
        name="metric_direction", error="not 0 in a noise row; only a metric that the question is about counts"
    )
    def noise_has_no_metric(cls, data: PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(~NOISE | (pl.col("metric_direction") == 0))

    @pa.dataframe_check(
        name="information_type", error="'unrelated' and noise must go together; correct it or the relevance"
    )
    def noise_is_unrelated(cls, data: PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select((pl.col("information_type") == "unrelated") == NOISE)

    @pa.dataframe_check(name="magnitude", error="0 although direction is not; an update with a sign has a size")
    def direction_has_magnitude(cls, data: PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(NOISE | (pl.col("direction") == 0) | (pl.col("magnitude") != 0))

    class Config:
        """A column that is not declared here is an error."""

        strict = True


ROWS = SignalRow
"""The name under which every contract folder exports its row contract."""

LIMITS = SignalsLimits
"""What its sets are held to: the family of limits whose numbers limits.yaml gives."""
