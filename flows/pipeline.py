"""One run of a flow: calls stages in turn, shows how each is doing, remembers how it went."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from tasks.core.artifact import Artifact
from tasks.core.cached import run_stage
from tasks.core.child import WILL_NOT_FINISH
from tasks.core.errors import PlumblineError
from tasks.core.progress import Rate, progress_line
from tasks.core.stage import Outcome, Run, Stage

_LOG_EVERY_S = 10.0
_NAME_CHARS = 17
"""Room for the longest name of a stage; that of a part's stage may run over."""


class Pipeline:
    """`pipeline(stage, config, name=artifact, ...) -> Artifact`; `outcomes` holds how each stage went."""

    def __init__(
        self, run: Run, outcomes: list[Outcome] | None = None, named: Callable[[str, str], str] | None = None
    ) -> None:
        """`named(part, message)`: the message with settings under the names that they have in this flow."""
        self.run = run
        self.named = named
        self.outcomes: list[Outcome] = [] if outcomes is None else outcomes
        tell_errors_plainly()

    def part(self, name: str) -> Pipeline:
        """The same run, for one of its models: its stages are shown, and remembered, under the part's name."""
        return Pipeline(self.run.model_copy(update={"part": name}), self.outcomes, self.named)

    def __call__(self, stage: Stage, config: BaseModel, **inputs: Artifact) -> Artifact:
        with _Shown(f"{self.run.part} {stage.name}".strip()) as shown:
            try:
                outcome = run_stage(stage, self.run, config, shown.beat, **inputs)
            except PlumblineError as error:
                if self.named is None:
                    raise
                raise type(error)(self.named(self.run.part, str(error))) from None
            self.outcomes.append(outcome)
            shown.done(outcome)
        return outcome.artifact


class _Shown(AbstractContextManager):
    """A stage on the terminal as a moving bar, elsewhere (a worker, CI) as a line every ten seconds."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.console = Console(stderr=True)
        self.last_line_s = time.monotonic()
        self.warned, self.rate = False, Rate()
        columns = (
            SpinnerColumn(),
            TextColumn(f"{{task.description:<{_NAME_CHARS}}}"),
            BarColumn(24),
            TimeElapsedColumn(),
            TextColumn("{task.fields[numbers]}"),
        )
        self.bar = Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
        self.row = self.bar.add_task(name, total=None, numbers="")

    def __enter__(self) -> _Shown:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def beat(self, done: int, total: int, numbers: dict[str, Any]) -> None:
        seconds, steps = self.rate.note(time.monotonic(), done, numbers)
        line = progress_line(done, total, numbers, steps / seconds if seconds else 0.0)
        self.bar.update(self.row, completed=done, total=total or None, numbers=line)
        if (late := numbers.get(WILL_NOT_FINISH)) and not self.warned:
            self.warned = True
            tell(f"{self.name}: {WILL_NOT_FINISH}: {late}")
        if not self.console.is_terminal and time.monotonic() - self.last_line_s > _LOG_EVERY_S:
            self.last_line_s = time.monotonic()
            tell(f"{self.name}: {line}")

    def done(self, outcome: Outcome) -> None:
        self.bar.stop()
        name = f"{self.name:<{_NAME_CHARS}}"
        if outcome.reused:
            line = f"{name} reused   {outcome.seconds:6.1f} s  {len(outcome.artifact.files)} files hashed again"
        else:
            more = f"; and {len(outcome.because) - 2} more" if len(outcome.because) > 2 else ""
            line = f"{name} {outcome.how:<8} {outcome.seconds:6.1f} s  {'; '.join(outcome.because[:2])}{more}"
        if self.console.is_terminal:
            self.console.print(line, highlight=False, markup=False)
        else:
            tell(line)


def tell(line: str) -> None:
    """On a worker into the run's log, where the Prefect UI shows it; from a terminal, onto it."""
    from prefect.logging import get_run_logger
    from prefect.runtime import deployment

    if deployment.id:
        get_run_logger().info(line)
    else:
        print(line, file=sys.stderr, flush=True)


class _PlainErrors(logging.Filter):
    """An error that is the data's, the config's or an artifact's fault is told in its own words, without a traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], PlumblineError):
            record.exc_info = record.exc_text = None
        return True


def tell_errors_plainly() -> None:
    """Take the tracebacks of users' mistakes out of Prefect's logs."""
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logger = logging.getLogger(name)
        if not any(isinstance(one, _PlainErrors) for one in logger.filters):
            logger.addFilter(_PlainErrors())
