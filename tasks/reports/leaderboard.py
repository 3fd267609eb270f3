"""The release as tables and a graph: JSON for programs, a table for the terminal, markdown and mermaid for Prefect."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from data_contracts.verdict import Check, Verdict
from tasks.reports import words
from tasks.reports.data import LeaderboardRow, ReleaseData, Score

if TYPE_CHECKING:
    from rich.table import Table

_STYLES = {Verdict.PASS: "green", Verdict.FAIL: "bold red", Verdict.CANNOT_TELL: "yellow"}


def leaderboard_json(release: ReleaseData) -> dict[str, Any]:
    """What leaderboard.json holds. An unscored metric has the value null and its number of rows."""
    return {
        "schema": "leaderboard",
        "name": release.name,
        "recipe": release.recipe,
        "verdict": release.verdict.value,
        "metrics": release.metrics,
        "rows": [row.model_dump(mode="json") for row in release.leaderboard],
    }


def leaderboard_table(release: ReleaseData) -> Table:
    """The one table that ends a run: scores, size, bits per weight, tokens a second, verdict."""
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=f"{release.name}: {release.verdict.value}",
        title_style=f"bold {_STYLES[release.verdict]}",
        title_justify="left",
    )
    table.add_column("model", style="bold", no_wrap=True)
    for column in [*map(words.label, release.shown_metrics), "size", "bits per weight", "tokens/s"]:
        table.add_column(column, justify="right")
    table.add_column("verdict", no_wrap=True)
    for row in release.leaderboard:
        verdict = Text("not judged", style="dim") if row.verdict is None else _verdict_text(row.verdict)
        # Text, not str: rich would read square brackets in a name as markup
        table.add_row(Text(row.model), *map(Text, [*_scores(row, release), *_sizes(row)]), verdict)
    return table


def leaderboard_markdown(release: ReleaseData) -> str:
    """The same table for a Prefect artifact."""
    columns = ["model", *map(words.label, release.shown_metrics), "size", "bits per weight", "tokens/s", "verdict"]
    rows = [
        [row.model, *_scores(row, release), *_sizes(row), "not judged" if row.verdict is None else _signed(row.verdict)]
        for row in release.leaderboard
    ]
    table = markdown_table(columns, rows, right=len(columns) - 2)
    return f"**{plain_text(release.name)}**: {_signed(release.verdict)}\n\n{table}"


def verification_markdown(release: ReleaseData) -> str:
    """Every check with its number, limit and verdict; those that did not pass come first."""
    order = [Verdict.FAIL, Verdict.CANNOT_TELL, Verdict.PASS]
    return checks_markdown(sorted(release.checks, key=lambda pair: order.index(pair[1].verdict)))


def checks_markdown(checks: list[tuple[str, Check]]) -> str:
    """A table of (stage, check)."""
    if not checks:
        return "Nothing was checked, so nothing is known.\n"
    rows = [
        [
            stage,
            one.name,
            words.measured(one),
            words.limit(one),
            words.outcome(one) if words.outcome(one) == "reported" else _signed(one.verdict),
            " ".join(part for part in (one.detail, one.fix if one.verdict is not Verdict.PASS else "") if part),
        ]
        for stage, one in checks
    ]
    return markdown_table(["stage", "check", "measured", "limit", "verdict", "detail"], rows)


def lineage_mermaid(release: ReleaseData) -> str:
    """The graph of artifacts as mermaid text; put it in a ```mermaid block."""
    ids = {stage.stage: f"s{number}" for number, stage in enumerate(release.stages)}
    lines = ["flowchart TD"]
    for stage in release.stages:
        parts = [
            stage.stage,
            words.short(stage.artifact_digest),
            words.duration(stage.seconds),
            stage.verdict.value,
        ]
        lines.append(f'  {ids[stage.stage]}["{"<br/>".join(map(_mermaid, parts))}"]')
    lines += [
        f'  {ids[source]} -->|"{_mermaid(name)}"| {ids[target]}'
        if name != source
        else f"  {ids[source]} --> {ids[target]}"
        for source, target, name in release.edges
    ]
    for verdict, colours in (
        (Verdict.FAIL, "fill:#fae7e3,stroke:#a32a1c,color:#1d1f21"),
        (Verdict.CANNOT_TELL, "fill:#f8edd2,stroke:#7d5600,color:#1d1f21"),
    ):
        struck = [ids[stage.stage] for stage in release.stages if stage.verdict is verdict]
        if struck:
            name = verdict.value.replace(" ", "_")
            lines += [f"  classDef {name} {colours}", f"  class {','.join(struck)} {name}"]
    return "\n".join(lines) + "\n"


def markdown_table(columns: list[str], rows: list[list[str]], right: int = 0) -> str:
    """A GitHub-style table; the first column and those after `right` more are left-aligned."""
    rule = [" --- " if number == 0 or number > right else " ---: " for number in range(len(columns))]
    lines = [
        " | ".join(map(plain_text, columns)),
        "|".join(rule).strip(),
        *(" | ".join(map(plain_text, row)) for row in rows),
    ]
    return "".join(f"| {line} |\n" for line in lines)


def _scores(row: LeaderboardRow, release: ReleaseData) -> list[str]:
    return [_score(row.scores.get(metric)) for metric in release.shown_metrics]


def _score(score: Score | None) -> str:
    return "–" if score is None else words.percent(score.value)


def _sizes(row: LeaderboardRow) -> list[str]:
    return [words.size(row.size_bytes), words.plain(row.bits_per_weight), words.plain(row.tokens_per_s, 0)]


def _signed(verdict: Verdict) -> str:
    return f"{words.MARKS[verdict]} {verdict.value}"


def _verdict_text(verdict: Verdict) -> Any:
    from rich.text import Text

    return Text(_signed(verdict), style=_STYLES[verdict])


def plain_text(text: str) -> str:
    """Text that stays one cell of a markdown table and cannot become HTML, a link or an image."""
    flat = re.sub(r"\s+", " ", text)
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\|`*\[\]!])", r"\\\1", flat)


def _mermaid(text: str) -> str:
    """Text inside a quoted mermaid label."""
    return re.sub(r"[^\w .,:/+()·-]", lambda found: f"#{ord(found[0])};", text)
