"""The row contract of proofkit: one writing task, what the applicant typed, and the answer the model is to learn.

Rules read "what is wrong; what to do". A rule on two columns is a `dataframe_check`, named after the column to look at.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pandera.polars as pa
import polars as pl
from pandera.api.polars.types import PolarsData

from data_contracts.audit import sentences as prose
from data_contracts.audit.anchoring import MOST_ANCHORS
from data_contracts.limits import WritingLimits
from data_contracts.prompting import markers
from data_contracts.proofkit import house_rules
from data_contracts.proofkit.house_rules import (
    ANCHOR_MARK,
    APPLICANT,
    COLUMNS,
    GATES,
    PROMPT_COLUMNS,
    TASKS,
    VOICES,
)
from data_contracts.proofkit.output import READINESS, SCHEMAS, Review

LINE_COLUMNS = ("role", "artifact_type", "section", "company", "constraint", "stakes", "skills", "profile", "rubric")
"""Columns that stand on one line of the prompt."""


CLASSES = TASKS
"""Kinds of rows whose lengths the page draws side by side; `row_class` in the audit's view."""
CHOICES = {"task": TASKS, "voice": VOICES, "readiness": READINESS}
"""Columns, and labels of the view, that the page draws as bars."""
SLOTS = ("role", "artifact_type", "section", "company", "constraint", "stakes", "profile", "rubric")
"""Columns whose values a template would fill in; `skills` are slots one by one."""


def audited(frame: pl.DataFrame) -> pl.DataFrame:
    """What the set-level audit looks at, under names that every recipe shares (data_contracts/audit/audit.py, writing.py)."""
    read = pl.DataFrame([_read(*row) for row in frame.select("task", "target").iter_rows()], schema=_READ, orient="row")
    frame = frame.with_columns(pl.col("task", *PROMPT_COLUMNS).cast(pl.String))  # a column may hold nothing but null
    lists = frame.select(
        "task",
        "source_batch",
        anchors=pl.col("anchors").str.split(ANCHOR_MARK),
        slots=pl.concat_list(*SLOTS, pl.col("skills").str.split(", ")).list.drop_nulls(),
        given=pl.concat_str(*PROMPT_COLUMNS, separator="\n", ignore_nulls=True),
        input=pl.concat_str("task", *PROMPT_COLUMNS, separator="\n", ignore_nulls=True),
        row_class="task",
    )
    return lists.hstack(read)


_READ = {
    "target": pl.String,
    "reasoning": pl.String,
    "label_readiness": pl.String,
    "label_specificity": pl.Int64,
    "label_evidence": pl.Int64,
    "label_honesty": pl.Int64,
}


def _read(task: str | None, target: str | None) -> tuple:
    """The text of a target, then the reasoning and the labels of a review; the raw target where it cannot be read."""
    if task not in SCHEMAS or target is None:
        return target, None, None, None, None, None
    found = house_rules.read_json(task, target)
    if isinstance(found, str):
        return target, None, None, None, None, None
    text = "\n".join(house_rules.strings(found.model_dump()))
    if not isinstance(found, Review):
        return text, None, None, None, None, None
    scores = found.scores
    return text, found.reasoning, found.readiness, scores.specificity, scores.evidence, scores.honesty


def _by_row(data: PolarsData, rule: Callable[[dict], bool], *columns: str) -> pl.LazyFrame:
    """A rule in Python on some columns of each row; true keeps it. A row that lacks what it needs breaks another rule."""
    frame = data.lazyframe.select("task", *columns).collect()
    return pl.LazyFrame({"kept": [row["task"] not in COLUMNS or rule(row) for row in frame.iter_rows(named=True)]})


class _Judged:
    """The gates of each row of the last table that was asked about: nine rules ask for the same."""

    def __init__(self) -> None:
        self._hashes = pl.Series(dtype=pl.UInt64)
        self._kept = pl.DataFrame()

    def kept(self, frame: pl.DataFrame) -> pl.DataFrame:
        """One Boolean column a gate: true where the target passes it, or it does not apply."""
        hashes = frame.hash_rows(seed=42)
        if not hashes.equals(self._hashes):
            self._kept = pl.DataFrame(
                [_gates(row) for row in frame.iter_rows(named=True)], schema=dict.fromkeys(GATES, pl.Boolean)
            )
            self._hashes = hashes
        return self._kept


def _gates(row: dict) -> dict[str, bool]:
    needed = (row["target"], row["company"], row["role"], row["anchors"])
    if row["task"] not in COLUMNS or any(one is None for one in needed):
        return dict.fromkeys(GATES, True)  # an empty cell is told by itself
    found = house_rules.judge(row, row["target"])
    if found.get("valid_json"):
        return {name: name != "valid_json" for name in GATES}  # one reason is enough for what cannot be read
    return {name: not found.get(name) for name in GATES}


_JUDGED = _Judged()


def _gate(name: str, error: str) -> classmethod:
    """The rule that the target passes a gate of house_rules.py."""

    def rule(cls, data: PolarsData) -> pl.LazyFrame:
        frame = data.lazyframe.select("task", *PROMPT_COLUMNS, "anchors", "target").collect()
        return _JUDGED.kept(frame).lazy().select(name)

    return pa.dataframe_check(name="target", error=error)(rule)


def _shown(column: str) -> classmethod:
    """The rule that a column is filled exactly in the rows of the tasks whose prompt shows it."""
    tasks = [task for task, columns in COLUMNS.items() if column in columns]
    error = f"filled although the task does not show it, or empty although it does; only {', '.join(tasks)} show it"

    def rule(cls, data: PolarsData) -> pl.LazyFrame:
        known = pl.col("task").is_in(list(TASKS))
        return data.lazyframe.select(~known | (pl.col(column).is_not_null() == pl.col("task").is_in(tasks)))

    return pa.dataframe_check(name=column, error=error)(rule)


def _lacks(data: PolarsData, pattern: str) -> pl.LazyFrame:
    return data.lazyframe.select(~pl.col(data.key).str.contains(pattern))


class ProofkitRow(pa.DataFrameModel):
    """One row. `anchors` and `source_batch` describe it and never enter a prompt."""

    task: str = pa.Field(
        description="what is asked for: draft, revise, review, talking_points, scenario, bullets, post"
    )
    role: str = pa.Field(description="target role in lower case, such as 'clinical pharmacist'")
    artifact_type: str = pa.Field(description="kind of work sample, such as 'formulary change memo'")
    section: str = pa.Field(nullable=True, description="heading of the section to write")
    company: str = pa.Field(description="name of the fictional company")
    constraint: str = pa.Field(description="one sentence: what binds the work")
    stakes: str = pa.Field(nullable=True, description="one sentence: what happens when it goes wrong")
    skills: str = pa.Field(description="what the applicant wants to show, by commas")
    profile: str = pa.Field(nullable=True, description="who the applicant is, in one or two sentences")
    voice: str = pa.Field(nullable=True, description="plain, warm, brisk or precise")
    answers: str = pa.Field(description="what the applicant typed, in free text")
    draft: str = pa.Field(nullable=True, description="the text that is worked on")
    rubric: str = pa.Field(nullable=True, description="the point to improve")
    anchors: str = pa.Field(description="distinctive tokens of answers or draft that the target must hold, by ' | '")
    target: str = pa.Field(description="the answer to learn: text, or one JSON object on one line")
    source_batch: str = pa.Field(description="where the row came from")

    @pa.check("task", error=f"not one of {', '.join(TASKS)}; choose one")
    def known_task(cls, data: PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col(data.key).is_in(list(TASKS)))

    @pa.check("voice", error=f"not one of {', '.join(VOICES)}; choose one")
    def known_voice(cls, data: PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col(data.key).is_in(list(VOICES)))

    @pa.check(
        *LINE_COLUMNS,
        "answers",
        "draft",
        "anchors",
        "target",
        "source_batch",
        error="is empty; fill it in, or drop the row",
    )
    def not_blank(cls, data: PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col(data.key).str.contains(r"\S"))

    @pa.check(
        *LINE_COLUMNS, "answers", "anchors", error="spans lines or has outer white space; join the lines and strip it"
    )
    def one_clean_line(cls, data: PolarsData) -> pl.LazyFrame:
        return _lacks(data, r"[\n\r\t]|^\s+\S|\S\s+$")

    @pa.check("draft", "target", error="has outer white space; strip it: the renderer sets the line breaks")
    def stripped(cls, data: PolarsData) -> pl.LazyFrame:
        return _lacks(data, r"^\s+\S|\S\s+$")

    @pa.check("role", error="not in lower case; write it as in 'clinical pharmacist'")
    def lower_case(cls, data: PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col(data.key) == pl.col(data.key).str.to_lowercase())

    @pa.check("constraint", "stakes", error="not one sentence; start with a capital and end with one full stop")
    def one_sentence(cls, data: PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col(data.key).str.contains(r"^\s*[\p{Lu}\d$€£].*[.!?]\s*$|^\s*$"))

    @pa.check(
        *LINE_COLUMNS,
        "answers",
        "draft",
        "anchors",
        error="holds chat-control text such as '<|' or '</think>'; drop the row",
    )
    def no_chat_control(cls, data: PolarsData) -> pl.LazyFrame:
        return _lacks(data, markers.CHAT_CONTROL)

    @pa.check(
        "target", error="holds a think tag, a chat marker or a channel name; cut the answer out of the raw text again"
    )
    def no_marker(cls, data: PolarsData) -> pl.LazyFrame:
        return _lacks(data, markers.ANY_MARKER)

    @pa.check(
        *LINE_COLUMNS, "answers", "draft", "anchors", "target", "source_batch",
        error="holds invisible control characters; decode the source as UTF-8",
    )  # fmt: skip
    def printable(cls, data: PolarsData) -> pl.LazyFrame:
        return _lacks(data, markers.CONTROL_CHARACTERS)

    section_where_shown = _shown("section")
    stakes_where_shown = _shown("stakes")
    profile_where_shown = _shown("profile")
    voice_where_shown = _shown("voice")
    draft_where_shown = _shown("draft")
    rubric_where_shown = _shown("rubric")

    @pa.dataframe_check(
        name="anchors",
        error=f"not 1 to {MOST_ANCHORS} different texts by ' | ', none a part of another; list them again",
    )
    def listed_apart(cls, data: PolarsData) -> pl.LazyFrame:
        return _by_row(data, _listed_apart, "anchors")

    @pa.dataframe_check(
        name="anchors", error="not all of them stand in answers or draft; take words that the applicant typed"
    )
    def typed_by_applicant(cls, data: PolarsData) -> pl.LazyFrame:
        return _by_row(data, lambda row: _stand_in(row, APPLICANT, all), "anchors", *APPLICANT)

    @pa.dataframe_check(
        name="anchors",
        error="one stands in another column of the prompt too; take words that only the applicant's text holds",
    )
    def nowhere_else(cls, data: PolarsData) -> pl.LazyFrame:
        others = [name for name in PROMPT_COLUMNS if name not in APPLICANT]
        return _by_row(data, lambda row: not _stand_in(row, others, any), "anchors", *others)

    @pa.dataframe_check(name="target", error="not JSON as json.dumps writes it, on one line; write it again")
    def canonical_json(cls, data: PolarsData) -> pl.LazyFrame:
        return _by_row(data, _is_canonical, "target")

    keeps_heading = _gate("heading", "does not start with the heading '## <section>' above its text; write it first")
    keeps_fictional_context = _gate(
        "fictional_context", "does not name the company and call it fictional side by side; say so in a sentence"
    )
    keeps_assumptions = _gate(
        "assumptions", "states no assumption of its own; write what is taken as given, in a sentence"
    )
    keeps_tradeoff = _gate("tradeoff", "names no trade-off with both its sides; say what is given up for what")
    keeps_disclosure = _gate(
        "disclosure",
        "does not disclose that it is a practice piece, not real client work or employment; add the sentence",
    )
    keeps_honest = _gate(
        "no_false_claims",
        "claims a client, a job, a result or a number that was not given; label it hypothetical, or cut it",
    )
    keeps_length = _gate("length", "shorter or longer than LENGTH_WORDS of house_rules.py allows; rewrite it")
    keeps_schema = _gate("valid_json", "not the JSON object of its task; output.py has the schema")
    keeps_anchors = _gate("anchors", "does not use every anchor in a sentence; work the applicant's own details in")

    class Config:
        """A column that is not declared here is an error."""

        strict = True


def _listed_apart(row: dict) -> bool:
    if not row["anchors"]:
        return True
    anchors = [one.casefold() for one in house_rules.anchors_of(row)]
    written = house_rules.ANCHOR_MARK.join(house_rules.anchors_of(row))
    inside = any(one in other for i, one in enumerate(anchors) for j, other in enumerate(anchors) if i != j)
    return written == row["anchors"].strip() and 1 <= len(anchors) <= MOST_ANCHORS and not inside


def _stand_in(row: dict, columns: tuple[str, ...] | list[str], quantifier: Callable) -> bool:
    text = "\n".join(row[name] for name in columns if row[name] is not None)
    return quantifier(prose.stands(one, text) for one in house_rules.anchors_of(row))


def _is_canonical(row: dict) -> bool:
    """Text that is no JSON at all breaks another rule."""
    if row["task"] not in SCHEMAS or row["target"] is None:
        return True
    try:
        return json.dumps(json.loads(row["target"]), ensure_ascii=False) == row["target"].strip()
    except ValueError:
        return True


ROWS = ProofkitRow
"""The name under which every contract folder exports its row contract."""

LIMITS = WritingLimits
"""What its sets are held to: the family of limits whose numbers limits.yaml gives."""
