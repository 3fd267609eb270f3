"""The same questions to every model, and what is measured on the answers: scores, probes, measures, the noise floor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.evaluation.local_models import Answers
from tasks.formats.jsonl import write_lines
from tasks.measures.bootstrap import measure_of, score_of
from tasks.recipes.interface import Recipe, Row

Scores = dict[str, list[float | None]]


@dataclass(frozen=True)
class Survey:
    """Held-out rows, the recipe's fixed reference rows, and held-out rows whose input was changed; asked in this order."""

    recipe: Recipe
    rows: list[dict]
    reference: list[dict]
    probes: list[tuple[str, int, Row]]
    """(kind of change, number of the row that was changed, the changed row)"""

    @classmethod
    def of(cls, recipe: Recipe, rows: list[dict], metamorphic_rows: int) -> Survey:
        """The survey over held-out rows; the first `metamorphic_rows` are changed in every way that the recipe knows."""
        changes = [(i, recipe.probe().variants(row)) for i, row in enumerate(rows[:metamorphic_rows])]
        probes = [(kind, i, changed) for i, found in changes for kind, changed in found.items()]
        return cls(recipe, rows, recipe.reference_rows(), probes)

    @property
    def asked(self) -> list[Row]:
        """Every row that a model must answer."""
        return [*self.rows, *self.reference, *(changed for _, _, changed in self.probes)]

    def ceiling(self, model: str) -> Answers:
        """What the labels themselves score."""
        return Answers(model, [self.recipe.completion(row) for row in self.asked])

    def scores(self, one: Answers) -> Scores:
        """Metric -> value for each held-out row; None where the row says nothing about it."""
        parsed = self._parsed(self.rows, one.texts)
        per_row = [self.recipe.score(row, answer) for row, answer in zip(self.rows, parsed, strict=True)]
        return {name: [numbers[name] for numbers in per_row] for name in per_row[0]}

    def noise_floor(self, one: Answers) -> dict[str, float]:
        """Metric -> how far two runs of this model over the same rows differ, per row on average.

        Empty when no row was answered twice.
        """
        found: dict[str, list[float]] = {}
        for row, *texts in zip(self.rows, one.texts, one.again, strict=False):
            before, after = (self.recipe.score(row, self.recipe.parse_output(text, row)) for text in texts)
            for name, value in before.items():
                other = after[name]
                if value is not None and other is not None:
                    found.setdefault(name, []).append(abs(value - other))
        return {name: sum(values) / len(values) for name, values in found.items()}

    def board_row(self, one: Answers, interval_fraction: float) -> dict:
        """What scores.json, comparison.json and leaderboard.json say about a model."""
        parsed = self._parsed(self.asked, one.texts)
        shown: Mapping[str, Sequence[float | None]] = {**self.scores(one), **self._metamorphic(parsed)}
        paired = self.recipe.probe().paired_measures(self.rows, parsed[: len(self.rows)])
        reference = zip(self.reference, parsed[len(self.rows) :], strict=False)
        return {
            "model": one.model,
            "file_digest": one.file_digest,
            "size_bytes": one.size_bytes,
            "cut_off_answers": one.cut_off,
            "scores": {name: score_of(values, interval_fraction) for name, values in shown.items()},
            "measures": {name: measure_of(pairs, how, interval_fraction) for name, (how, pairs) in paired.items()},
            "noise_floor": self.noise_floor(one),
            "reference_right": {
                row.get("reference", str(i)): self.recipe.all_right(row, answer)
                for i, (row, answer) in enumerate(reference)
            },
        }

    def write_answers(self, folder: Path, everyone: list[Answers]) -> None:
        """answers.jsonl: every model's answer to each held-out and reference row, and what it scores; probes.jsonl: to each
        changed row."""
        lines = []
        for i, row in enumerate([*self.rows, *self.reference]):
            texts = {one.model: one.texts[i] for one in everyone}
            parsed = {model: self.recipe.parse_output(text, row) for model, text in texts.items()}
            right = {model: self.recipe.all_right(row, answer) for model, answer in parsed.items()}
            scores = {model: self.recipe.score(row, answer) for model, answer in parsed.items()}
            lines.append({"row": row, "answers": texts, "right": right, "scores": scores})
        write_lines(folder / "answers.jsonl", lines)
        changed = [
            {"kind": kind, "row": i, "changed": row, "answers": {one.model: one.texts[place] for one in everyone}}
            for place, (kind, i, row) in enumerate(self.probes, len(lines))
        ]
        write_lines(folder / "probes.jsonl", changed)

    def _metamorphic(self, parsed: list) -> dict[str, list[float]]:
        """Kind of change -> for each changed row, did the answer follow as it must."""
        found: dict[str, list[float]] = {}
        answers = parsed[len(self.rows) + len(self.reference) :]
        for (kind, i, _), after in zip(self.probes, answers, strict=True):
            held = self.recipe.probe().holds(kind, parsed[i], after)
            found.setdefault(f"metamorphic_{kind}_fraction", []).append(float(held))
        return found

    def _parsed(self, rows: Iterable[Row], texts: Iterable[str]) -> list:
        """The answers to `rows`, read back; further texts are left out."""
        return [self.recipe.parse_output(text, row) for row, text in zip(rows, texts, strict=False)]
