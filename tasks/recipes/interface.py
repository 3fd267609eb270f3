"""What a recipe offers to the stages: read by a type checker, which holds every recipe of tasks/recipes/__init__.py to it.

A recipe is a module. Its rows are flat mappings from the columns of its contract to text, numbers or None.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

Row = Mapping[str, Any]
"""Column of the contract -> text, number or None."""
Pairs = list[tuple[float, float]]
"""What a statistic of tasks/measures/bootstrap.py is taken over."""
ParsedT = TypeVar("ParsedT", bound="Parsed")
ProbedT = TypeVar("ProbedT", bound="Parsed", contravariant=True)


@dataclass(frozen=True)
class Trace:
    """The reasoning that an answer shows before it answers."""

    text: str
    """What stands where the reasoning should, without its tags, as far as it went; empty when the answer comes at once."""
    begun: bool
    """A tag opens or closes it."""
    well_formed: bool
    """The answer holds exactly one trace, closed and not empty."""
    agrees: bool | None
    """The answer says what the words of the trace conclude; None when they conclude nothing, or nothing can be read."""


class Parsed(Protocol):
    """An answer read back."""

    @property
    def answer(self) -> dict[str, Any] | None:
        """The object that the text holds; None where it holds none."""

    @property
    def problem(self) -> str:
        """Why it cannot be read; empty when it can."""


class Probe(Protocol[ProbedT]):
    """What is measured beyond being right."""

    def variants(self, row: Row, /) -> Mapping[str, Row]:
        """Kind of change -> the row with its input changed so, and its answer with it."""

    def holds(self, kind: str, before: ProbedT, after: ProbedT, /) -> bool:
        """Whether the answer followed the changed input as it must."""

    def paired_measures(self, rows: Sequence[Row], parsed: Sequence[ProbedT], /) -> dict[str, tuple[str, Pairs]]:
        """Name -> (statistic, pairs): numbers that are no share of rows."""


@runtime_checkable
class ReadsTraces(Protocol):
    """A probe of a recipe that keeps traces."""

    def traces(self, answers: Sequence[str], rows: Sequence[Row], /) -> list[Trace]:
        """The reasoning of each answer to its row."""


class Recipe(Protocol[ParsedT]):
    """What every recipe offers."""

    METRICS: tuple[str, ...]
    """The names that `score` gives, in the order in which boards show them."""
    SOURCES: tuple[str, ...]
    """Values of `dataset.source` that `build_rows` knows."""
    ENDLESS_SOURCES: tuple[str, ...]
    """Those of any number of rows, of which a smaller set is the beginning of a larger one."""
    KEEPS_TRACE: bool
    """An answer begins with a thinking trace that belongs to the row; elsewhere a model's thoughts are cut off."""
    ROW_FILES: tuple[str, ...]
    """Files of its contract folder, besides the contract itself, that its rows are made of; patterns as Path.glob has them."""
    EVALUATION_FILES: tuple[str, ...]
    """The same for its reference rows and its probe."""

    def build_rows(
        self, source: str, train_rows: int, heldout_rows: int, seed: int
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """(training rows, held-out rows).

        Raises:
            ConfigError: an unknown source, or more rows than there are.
        """

    def reference_rows(self) -> list[dict[str, Any]]:
        """The rows of the fixed benchmark."""

    def pretraining_rows(self, n_rows: int, seed: int) -> Iterable[tuple[list[dict[str, str]], str]]:
        """(messages, answer) pairs that its nano base is made of."""

    def wording(self, row: Row, /) -> str | None:
        """The template that a synthetic row is made of; None for another row."""

    def completion(self, row: Row, /) -> str:
        """What the model learns to answer."""

    def parse_output(self, text: str, row: Row, /) -> ParsedT:
        """An answer to a row, read back."""

    def reads_back(self, row: Row, /) -> bool:
        """The row's own answer survives being read."""

    def score(self, row: Row, parsed: ParsedT, /) -> dict[str, float | None]:
        """Metric -> number; None where this row says nothing about it."""

    def all_right(self, row: Row, parsed: ParsedT, /) -> bool:
        """What the side-by-side page marks as right."""

    def probe(self) -> Probe[ParsedT]:
        """What is measured beyond being right."""

    def with_answer(self, row: Row, text: str, /) -> dict[str, Any]:
        """The row with a teacher's answer in place of its own.

        Raises:
            ContractError: as `kind: detail`, when the answer cannot be taken.
        """


@runtime_checkable
class JoinsThoughts(Protocol):
    """A recipe whose answers hold their reasoning."""

    def with_thoughts(self, text: str, thoughts: str = "", /) -> str:
        """An answer given without its trace, made readable."""


@runtime_checkable
class Teaching(Protocol):
    """A recipe for which a teacher can write traces."""

    SEED_FIELDS: tuple[str, ...]
    """Columns that a seed gives besides the expected answer."""

    def teacher_seeds(self) -> Path:
        """The file of seeds when a config names none."""

    def teacher_messages(self, seed_row: Row, /) -> list[dict[str, str]]:
        """The prompt of a seed."""

    def teacher_row(self, seed_row: Row, text: str, model: str, /) -> dict[str, Any]:
        """The row that a teacher's answer makes of a seed.

        Raises:
            ContractError: as `kind: detail`, when it makes none.
        """
