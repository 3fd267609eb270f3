"""A comparison's board as a page of markdown: ranks, scores with intervals, who can be told apart, what sets models apart."""

from __future__ import annotations

from collections.abc import Mapping

from tasks.reports import words
from tasks.reports.leaderboard import markdown_table

_READINGS = {"differ": "✓ differ", "all but tied": "= all but tied", "cannot tell": "? cannot tell"}
_MAX_METRICS = 5


def shown_metrics(board: Mapping) -> list[str]:
    """What the table and the chart show: the ranking's metrics, then those that gates look at, as many as fit."""
    measured = [name for row in board["models"] for name, one in row["scores"].items() if one["n"]]
    gated = [gate["name"] for row in board["models"] for gate in row.get("gates", [])]
    wanted = [*(one["metric"] for one in board["ranking"]), *gated]
    return [name for name in dict.fromkeys(wanted) if name in measured][:_MAX_METRICS]


def comparison_markdown(board: Mapping) -> str:
    """comparison.md, which is also the page in the Prefect UI."""
    rows, ranking = board["rows"], ", then ".join(words.label(one["metric"]) for one in board["ranking"])
    percent = f"{board['interval_fraction']:.0%}"
    parts = [
        f"# {rows['recipe']}: {len(board['models']) - 1} models on {rows['count']:,} held-out rows",
        f"Ranked by {ranking}. Two models share a rank unless one is better beyond the {percent} interval of their difference, "
        f"paired by row, and beyond both noise floors, with at least {board['fewest_rows_apart']} rows apart.",
        f"Rows: {rows['source']} (sha256 {words.short(rows['sha256'])}).",
        _scores(board),
        "".join(f"- {note}\n" for note in board["notes"]),
        "## Neighbours\n\n" + _neighbours(board),
        "## What sets them apart\n\n" + _apart(board),
        _measures(board),
        "## Gates, as information\n\n" + _gates(board),
    ]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def _scores(board: Mapping) -> str:
    metrics = shown_metrics(board)
    columns = ["model", "rank", *map(words.label, metrics), "size", "asked"]
    cells = [
        [
            row["model"],
            _rank(row),
            *(_score(row["scores"].get(name)) for name in metrics),
            words.size(row["size_bytes"]),
            _asked(row),
        ]
        for row in board["models"]
    ]
    return markdown_table(columns, cells, right=len(metrics) + 2)


def _rank(row: Mapping) -> str:
    if row["role"] == "ceiling":
        return "yardstick"
    rank = "cannot tell" if row["rank"] is None else str(row["rank"])
    return f"{rank} ({row['role']})" if row["role"] else rank


def _score(score: Mapping | None) -> str:
    if score is None or score["value"] is None:
        return words.percent(None)
    return f"{words.percent(score['value'])} ({score['low'] * 100:.0f} to {score['high'] * 100:.0f})"


def _asked(row: Mapping) -> str:
    """Where it is, and what was unusual about the asking."""
    parts = [row["source"]]
    if row.get("thinking") is not None:
        parts.append(f"thinking {'on' if row['thinking'] else 'off'}")
    if row.get("prompt_set", "trained") != "trained":
        parts.append(f"{row['prompt_set']} prompt")
    if commit := row.get("facts", {}).get("commit"):
        parts.append(f"commit {words.short(commit)}")
    if row["cut_off_answers"]:
        parts.append(f"{row['cut_off_answers']} answers cut off")
    return ", ".join(parts)


def _neighbours(board: Mapping) -> str:
    if not board["neighbours"]:
        return "There is only one model to rank.\n"
    columns = ["model", "beside", "reading", "by", "difference", "interval", "noise", "rows apart"]
    cells = []
    for pair in board["neighbours"]:
        told = pair["difference"] is not None
        cells.append(
            [
                pair["first"],
                pair["second"],
                _READINGS[pair["reading"]],
                words.label(pair["metric"]) if pair["metric"] else "–",
                _points(pair["difference"]),
                f"{_points(pair['low'])} to {_points(pair['high'])}" if told else "–",
                "not measured" if pair["noise_floor"] is None else _points(pair["noise_floor"], sign=""),
                f"{pair['rows_apart']:,} of {pair['rows']:,}",
            ]
        )
    return markdown_table(columns, cells)


def _points(value: float | None, sign: str = "+") -> str:
    return "–" if value is None else f"{value * 100:{sign}.1f}"


def _apart(board: Mapping) -> str:
    """Distances, lost updates and metamorphic checks: what equal scores may hide."""
    kinds = sorted(
        {n for row in board["models"] for n, one in row["scores"].items() if n.startswith("metamorphic_") and one["n"]}
    )
    reference = board["distance_to"]
    columns = [
        "model",
        *(
            [f"KL to {reference}", "same first token", "same answers", "update kept", "update error"]
            if reference
            else []
        ),
    ]
    columns += [words.label(name).removeprefix("metamorphic ") for name in kinds]
    cells = [
        [row["model"], *(_distance(row) if reference else []), *(_share(row["scores"].get(n)) for n in kinds)]
        for row in board["models"]
    ]
    if len(columns) == 1:
        return "Nothing else was measured.\n"
    return markdown_table(columns, cells, right=len(columns) - 1)


def _distance(row: Mapping) -> list[str]:
    found, update = row.get("distance") or {}, row.get("facts", {}).get("update") or {}
    if row["source"] == "the labels":
        return ["–"] * 5
    kl, first = found.get("mean_kl_nats"), found.get("top1_fraction")
    return [
        found.get("why_not") or "–" if kl is None else f"{kl:.3g}",
        "–" if first is None else words.percent(first),
        words.percent(row["same_answers_fraction"]),
        words.percent(update["kept_fraction"]) if update else "–",
        words.plain(update.get("error_ratio")),
    ]


def _share(score: Mapping | None) -> str:
    return "–" if score is None or not score["n"] else words.percent(score["value"])


def _measures(board: Mapping) -> str:
    """Numbers that are no share of rows, such as the slope of predicted on true magnitudes."""
    names = [name for row in board["models"] for name, one in row["measures"].items() if one["value"] is not None]
    names = list(dict.fromkeys(names))
    if not names:
        return ""
    cells = [[row["model"], *(_measure(row["measures"].get(name)) for name in names)] for row in board["models"]]
    table = markdown_table(["model", *map(words.label, names)], cells, right=len(names))
    return f"## Measures\n\n{table}"


def _measure(one: Mapping | None) -> str:
    if one is None or one["value"] is None:
        return "cannot tell"
    return f"{one['value']:.2f} ({one['low']:.2f} to {one['high']:.2f})"


def _gates(board: Mapping) -> str:
    columns = ["model", "verdict", "gates that did not pass"]
    cells = []
    for row in board["models"]:
        if "gates" in row:
            bad = [gate["name"] for gate in row["gates"] if gate["verdict"] != "pass"]
            cells.append([row["model"], row["verdict"], ", ".join(map(words.label, bad)) or "none"])
    return markdown_table(columns, cells)
