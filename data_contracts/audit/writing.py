"""Checks on a set whose text is the answer: does each target follow from its input, or from a template that the input fills?

The story's data set rendered the applicant's answers and the target from the same slots. The model learned
"target = template", passed every gate, and dropped whatever a user typed. These checks belong to `WritingLimits`.

Before anything is compared, what came from the input is replaced by a mark: the anchors, the slots (company, role, ...), and
every run of MIN_COPIED_WORDS words that stands in the prompt. What remains are the target's *own words*.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import polars as pl

from data_contracts.audit import anchoring
from data_contracts.audit import sentences as prose
from data_contracts.audit.content_order import by_content
from data_contracts.limits import WritingLimits
from data_contracts.verdict import Check, Comparison, check, report

COLUMNS = ("task", "target", "reasoning", "anchors", "slots", "given")
"""What the audit's view must hold: `anchors` and `slots` as lists of text, `given` all of the prompt, `reasoning` where a task
has one."""
SAMPLED = "distinctness, self-similarity, skeletons and input ablation"

FROM_INPUT = "§"
MIN_COPIED_WORDS = 4
SKELETON_WORDS = 5
"""Length of the runs that a skeleton is made of: five words in a row are shared by chance in hardly any two texts."""
SKELETON_FRACTION = 0.1
"""A run that stands in this share of a task's targets, or more, belongs to its skeleton; the story had some 4 reasoning strings
over 125 rows, 0.25 each."""
MIN_SKELETON_ROWS = 3
TASK_ROWS = 200
"""Rows of a task that are compared with one another; 20,000 pairs."""
DISTINCT_ROWS = 100
"""Rows of a task over which distinct three-word runs are counted: the share falls with the number of rows."""
REASONING_ROWS = 125
"""As many as the story counted: about 4 distinct reasoning strings before its data were mended, 86 after."""
SEED = 42
SHOWN_ROWS = 5
SHOWN_WORDS = 16


class WritingTally:
    """Counts of a set that comes in parts; memory follows the number of rows with a reasoning, 8 bytes each."""

    def __init__(self, limits: WritingLimits) -> None:
        self.limits = limits
        self._n_rows = 0
        self._n_reasoned = 0
        self._reasonings = array("q")
        self._bare: list[str] = []
        self._n_bare = 0
        self._n_few = 0
        self._few: list[int] = []

    def add(self, view: pl.DataFrame) -> None:
        """Count some rows."""
        self._n_rows += view.height
        for row, target, anchors in view.select("row", "target", "anchors").iter_rows():
            if wrong := anchoring.problem([target], anchors):
                self._n_bare += 1
                self._bare += [f"row {row} {wrong}"] if len(self._bare) < SHOWN_ROWS else []
            if len(anchors) < self.limits.min_row_anchors:
                self._n_few += 1
                self._few += [row] if len(self._few) < SHOWN_ROWS else []
        reasoned = view.filter(pl.col("reasoning").is_not_null())
        self._n_reasoned += reasoned.height
        self._reasonings.extend(hash(one) for one in _reasonings(reasoned))

    def checks(self, sample: pl.DataFrame) -> list[Check]:
        """Every check of this family."""
        tasks = [_Task(name, rows) for (name,), rows in sample.group_by("task", maintain_order=True)]
        return [
            *self._anchors(),
            _ablation(tasks, self.limits),
            self._distinct_reasoning(sample),
            _held(_DISTINCT, tasks, self.limits.min_distinct_trigram_fraction, self.limits),
            _held(_ALIKE, tasks, self.limits.max_self_similarity_fraction, self.limits),
            _held(_SKELETON, tasks, self.limits.max_skeleton_fraction, self.limits),
        ]

    def _anchors(self) -> list[Check]:
        enough, least = self._n_rows > 0, self.limits.min_row_anchors
        return [
            check(
                "targets that do not use every anchor of their input",
                self._n_bare,
                "==",
                0,
                unit="rows",
                detail="; ".join(self._bare),
                fix="Write the target from the answers: what the applicant typed must be found in it",
                enough=enough,
            ),
            check(
                f"rows with fewer than {least} anchors",
                self._n_few,
                "==",
                0,
                unit="rows",
                detail=f"rows {', '.join(map(str, self._few))}" if self._few else "",
                fix=f"Name more distinctive tokens of the answers ({self.limits.where})",
                enough=enough,
            ),
        ]

    def _distinct_reasoning(self, sample: pl.DataFrame) -> Check:
        rows = sample.filter(pl.col("reasoning").is_not_null())
        rows = rows if rows.height <= REASONING_ROWS else by_content(rows).head(REASONING_ROWS)
        texts = Counter(_reasonings(rows))
        share = round(len(texts) / rows.height, 6) if rows.height else None
        most = texts.most_common(1)
        repeated = f"; one stands {most[0][1]} times: {_cut(most[0][0])}" if most and most[0][1] > 1 else ""
        detail = (
            f"{len(texts)} distinct of {rows.height}, what comes from the input masked; "
            f"in all {len(set(self._reasonings)):,} of {self._n_reasoned:,}{repeated}"
        )
        return _limited(
            f"share of distinct reasoning strings in up to {REASONING_ROWS} rows",
            share,
            ">=",
            self.limits.min_distinct_reasoning_fraction,
            detail,
            "Reason from what stands in the draft of each row; a few canned sentences are learned by heart",
            rows.height >= self.limits.min_task_rows,
        )


class _Task:
    """Some rows of one task, their targets masked."""

    def __init__(self, name: str, rows: pl.DataFrame) -> None:
        rows = rows if rows.height <= TASK_ROWS else by_content(rows).head(TASK_ROWS).sort("row")
        self.name = name
        self.numbers: list[int] = rows["row"].to_list()
        self.targets: list[str] = rows["target"].to_list()
        self.anchors: list[list[str]] = rows["anchors"].to_list()
        columns = rows.select("target", "anchors", "slots", "given").iter_rows()
        self.masked = [own_words(*row) for row in columns]


def own_words(text: str, anchors: Sequence[str], slots: Sequence[str], given: str) -> list[str]:
    """The words of a text, in small letters; what came from the input is one mark a stretch, and every number is 0."""
    for phrase in sorted({*anchors, *(one.strip(" .!?") for one in slots if one)}, key=len, reverse=True):
        if phrase:
            text = prose.replaced(text, phrase, f" {FROM_INPUT} ")
    some = [
        one if one == FROM_INPUT else re.sub(r"\d+", "0", one)
        for one in re.findall(rf"{FROM_INPUT}|{prose.WORD.pattern}", text.lower())
    ]
    copied = set(prose.ngrams([re.sub(r"\d+", "0", one) for one in prose.words(given)], MIN_COPIED_WORDS))
    from_input = [one == FROM_INPUT for one in some]
    for start, run in enumerate(prose.ngrams(some, MIN_COPIED_WORDS)):
        if run in copied:
            from_input[start : start + MIN_COPIED_WORDS] = [True] * MIN_COPIED_WORDS
    marked = [FROM_INPUT if masked else word for word, masked in zip(some, from_input, strict=True)]
    return [one for place, one in enumerate(marked) if one != FROM_INPUT or marked[place - 1 : place] != [FROM_INPUT]]


def _reasonings(rows: pl.DataFrame) -> Iterable[str]:
    for row in rows.select("reasoning", "anchors", "slots", "given").iter_rows():
        yield " ".join(own_words(*row))


def _ablation(tasks: list[_Task], limits: WritingLimits) -> Check:
    """Each row is given the input of another row of its task; a target that was made from its own input must then fail."""
    pairs, passed = 0, []
    for task in tasks:
        for place, target in enumerate(task.targets):
            other = _another(task, place)
            if other is None:
                continue
            pairs += 1
            if not anchoring.problem([target], task.anchors[other]):
                rows = f"row {task.numbers[place]} with the answers of row {task.numbers[other]}"
                passed.append(f"{rows} ({', '.join(task.anchors[other])})")
    return check(
        "share of targets that still pass after their answers were swapped with another row's",
        round(len(passed) / pairs, 6) if pairs else None,
        "==",
        0,
        detail=f"{len(passed):,} of {pairs:,} swaps{': ' if passed else ''}{'; '.join(passed[:SHOWN_ROWS])}",
        fix="Choose anchors that only this applicant would type, and write the target from them",
        enough=pairs >= limits.min_task_rows,
    )


def _another(task: _Task, place: int) -> int | None:
    """The next row whose anchors are not all this row's own: swapping equal answers would change nothing."""
    own = {one.casefold() for one in task.anchors[place]}
    for step in range(1, len(task.targets)):
        other = (place + step) % len(task.targets)
        if not {one.casefold() for one in task.anchors[other]} <= own:
            return other
    return None


def _distinct_trigrams(task: _Task) -> tuple[float | None, str]:
    """Share of distinct three-word runs (distinct-3, Li et al. 2016) over DISTINCT_ROWS targets."""
    runs = [run for some in task.masked[:DISTINCT_ROWS] for run in prose.ngrams(some, 3)]
    most = Counter(runs).most_common(1)
    detail = f"{_cut(' '.join(most[0][0]))} stands {most[0][1]} times" if most else ""
    return (len(set(runs)) / len(runs) if runs else None), detail


def _self_similarity(task: _Task) -> tuple[float | None, str]:
    """Mean over targets of the largest Jaccard similarity of three-word runs with another target."""
    shingles = [set(prose.ngrams(some, 3)) for some in task.masked]
    nearest, pair = [0.0] * len(shingles), (0.0, 0, 0)
    for place, one in enumerate(shingles):
        for other in range(place):
            shared = len(one & shingles[other])
            alike = shared / max(len(one) + len(shingles[other]) - shared, 1)
            nearest[place], nearest[other] = max(nearest[place], alike), max(nearest[other], alike)
            pair = max(pair, (alike, task.numbers[other], task.numbers[place]))
    if len(nearest) < 2:
        return None, ""
    return sum(nearest) / len(nearest), f"most alike: rows {pair[1]} and {pair[2]} ({pair[0]:.2f})"


def _skeleton_share(task: _Task) -> tuple[float | None, str]:
    """Mean over targets of the share of own words that lie in a run of the task's skeleton; 1 when all is from the input."""
    rows_of: Counter[tuple[str, ...]] = Counter()
    for some in task.masked:
        rows_of.update(set(prose.ngrams(some, SKELETON_WORDS)))
    least = max(MIN_SKELETON_ROWS, SKELETON_FRACTION * len(task.masked))
    shares, longest = list[float](), (tuple[str, ...](), 0)
    for some in task.masked:
        predicted = [False] * len(some)
        for start, run in enumerate(prose.ngrams(some, SKELETON_WORDS)):
            if rows_of[run] >= least:
                predicted[start : start + SKELETON_WORDS] = [True] * SKELETON_WORDS
        own = [told for word, told in zip(some, predicted, strict=True) if word != FROM_INPUT]
        shares.append(sum(own) / len(own) if own else 1.0)
        longest = max(longest, _longest(some, predicted, rows_of), key=lambda found: len(found[0]))
    stretch = f"{_cut(' '.join(longest[0]))} stands in {longest[1]} of {len(task.masked)} targets" if longest[0] else ""
    return (sum(shares) / len(shares) if shares else None), stretch


def _longest(some: list[str], predicted: list[bool], rows_of: Counter) -> tuple[tuple[str, ...], int]:
    """The longest stretch of skeleton in a target, and in how many targets its first run stands."""
    best: tuple[int, int] = (0, 0)
    start = 0
    for place, told in enumerate([*predicted, False]):
        if not told:
            best, start = max(best, (place - start, start)), place + 1
    size, start = best
    return (
        (tuple(some[start : start + size]), rows_of[tuple(some[start : start + SKELETON_WORDS])]) if size else ((), 0)
    )


_Measure = tuple[str, Comparison, Callable[[_Task], tuple[float | None, str]], str]
_DISTINCT: _Measure = (
    "share of distinct three-word runs of a task's targets",
    ">=",
    _distinct_trigrams,
    "Vary what is said, not only the names in it: the targets of this task repeat one another",
)
_ALIKE: _Measure = (
    "mean similarity of a target with the most similar of its task",
    "<=",
    _self_similarity,
    "Write these targets apart: with names and copied words masked, they are near copies",
)
_SKELETON: _Measure = (
    "share of own words that a task's skeleton predicts",
    "<=",
    _skeleton_share,
    "target = template: these words are the same whatever the applicant typed. Write them from the answers",
)


def _held(measure: _Measure, tasks: list[_Task], limit: float | None, limits: WritingLimits) -> Check:
    """The worst task beside the limit. A task of too few rows cannot be told, and so neither can the whole."""
    name, comparison, compute, fix = measure
    found = {task.name: (*compute(task), len(task.masked)) for task in tasks}
    told = {
        one: (value, note)
        for one, (value, note, rows) in found.items()
        if value is not None and rows >= limits.min_task_rows
    }
    few = [f"{one} ({found[one][2]})" for one in found if one not in told]
    order = max if comparison == "<=" else min
    worst = order(told, key=lambda one: told[one][0]) if told else ""
    value = round(told[worst][0], 6) if told else None
    shown = ", ".join(f"{one} {told[one][0]:.3f}" for one in sorted(told, key=lambda one: -told[one][0]))
    detail = f"worst: {worst}; {told[worst][1]}; by task: {shown}" if told else "no rows"
    detail += f"; too few rows (min_task_rows {limits.min_task_rows}): {', '.join(few)}" if few else ""
    broken = value is not None and limit is not None and (value > limit if comparison == "<=" else value < limit)
    return _limited(name, value, comparison, limit, detail, fix, bool(told) and (not few or broken))


def _limited(
    name: str, value: float | None, comparison: Comparison, limit: float | None, detail: str, fix: str, enough: bool
) -> Check:
    if limit is None:
        return report(name, value, detail=f"{detail}; no limit: the texts are templates by design")
    return check(name, value, comparison, limit, detail=detail, fix=fix, enough=enough)


def _cut(text: str) -> str:
    some = text.split()
    return repr(" ".join(some[:SHOWN_WORDS]) + (" ..." if len(some) > SHOWN_WORDS else ""))
