"""A board of judged answers as Markdown, and what changed between two boards. `board` is what judgement.json holds."""

from __future__ import annotations

from collections.abc import Mapping

from data_contracts.verdict import Check
from tasks.reports import words
from tasks.reports.leaderboard import checks_markdown, markdown_table, plain_text

UNTOLD = "cannot tell"
_ROLES = {"yardstick": "the yardstick, not a competitor", "floor": "untuned: the floor", "competitor": ""}


def board_markdown(board: Mapping) -> str:
    """judgement.md: the ranks, what the panel agrees on, what to know before believing it, and how the judges did."""
    judges = [one["name"] for one in board["judges"]]
    columns = ["model", "rank", *judges, "judges, mean", "gates", "final", "what it is"]
    rows = [_row(one, judges, board) for one in board["rows"]]
    parts = [
        f"# Board over {board['prompts']:,} prompts",
        f"`final = {board['formula']}`. In brackets: {board['limits']['interval_fraction']:.0%} bootstrap interval over "
        "the prompts.",
        markdown_table(columns, rows, right=len(columns) - 2),
        _listed("What the panel agrees on, and where it does not", [one["sentence"] for one in board["findings"]]),
        _listed("Before you believe it", board["notes"]),
        _gates(board),
        _judges(board),
        _agreement(board["agreement"]),
    ]
    return "\n".join(f"{part}\n" for part in parts if part)


def _row(one: Mapping, judges: list[str], board: Mapping) -> list[str]:
    rank = str(one["rank"]) if one["rank"] else "–"
    told = [part for part in (_ROLES[one["role"]], one["why_no_rank"]) if part]
    mean = UNTOLD if one["judge_mean"] is None else f"{one['judge_mean']:.2f}"
    final = scored(one["final"])
    if one["judges_alone"] is not None:
        final = f"{UNTOLD} (judges alone: {one['judges_alone']:.1f})"
    shown = [scored(one["columns"][name]) + ("" if one["columns"][name]["counts"] else " *") for name in judges]
    return [one["model"], rank, *shown, mean, words.percent(one["gate_pass_rate"]), final, "; ".join(told)]


def scored(value: Mapping) -> str:
    """Points with their interval; an unscored one is "cannot tell", never 0."""
    if value["value"] is None:
        return UNTOLD
    ends = "" if value["low"] is None else f" [{value['low']:.1f}, {value['high']:.1f}]"
    return f"{value['value']:.1f}{ends}"


def _listed(title: str, sentences: list[str]) -> str:
    if not sentences:
        return f"## {title}\n\nNothing to say.\n"
    return f"## {title}\n\n" + "\n".join(f"- {plain_text(one)}" for one in sentences) + "\n"


def _gate_names(board: Mapping) -> list[str]:
    return list(dict.fromkeys(name for one in board["rows"] for name in one["gates"]))


def _gates(board: Mapping) -> str:
    names = _gate_names(board)
    if not names:
        return ""
    rows = [[one["model"], *(words.percent(one["gates"].get(name)) for name in names)] for one in board["rows"]]
    table = markdown_table(["model", *map(words.label, names)], rows, right=len(names))
    return f"## Answers that pass each gate\n\n{table}"


def _judges(board: Mapping) -> str:
    if not board["judges"]:
        return ""
    rows = [
        [
            one["name"],
            one["family"],
            f"{one['coverage_fraction']:.0%}" + ("" if one["counts"] else ", does not count"),
            f"{one['asked']:,}",
            ", ".join(f"{count} {kind}" for kind, count in one["unscored"].items()) or "none",
            {True: f"yes: {one['own_family']['first']}", False: "no", None: UNTOLD}[
                one["own_family"]["ranks_own_family_first"]
            ],
        ]
        for one in board["judges"]
    ]
    table = markdown_table(["judge", "family", "scored", "questions", "unscored", "own family first"], rows)
    checks = [(one["name"], Check(**each)) for one in board["judges"] for each in one["checks"]]
    return f"## The judges\n\n{table}\n{checks_markdown(checks)}"


def _agreement(found: Mapping) -> str:
    lines = [f"Krippendorff's alpha (ordinal), all criteria: {_alpha(found['alpha'])}."]
    lines += [f"{words.label(name)}: {_alpha(one)}." for name, one in found["alpha_by_criterion"].items()]
    lines += [
        f"Kendall's tau of {' and '.join(one['judges'])}: {UNTOLD if one['tau'] is None else format(one['tau'], '.2f')}."
        for one in found["kendall_tau"]
    ]
    for one in found["without"]:
        moved = ", ".join(f"{model} {old} to {new}" for model, (old, new) in one["moved"].items())
        lines.append(f"Without {one['judge']}: {f'places change: {moved}' if moved else 'no place changes'}.")
    return _listed("How far the judges agree", lines)


def _alpha(one: Mapping) -> str:
    if one["value"] is None:
        return UNTOLD
    return f"{one['value']:.3f}" + ("" if one["low"] is None else f" [{one['low']:.3f}, {one['high']:.3f}]")


def board_diff(old: Mapping, new: Mapping) -> str:
    """diff.md: what changed, and whether the two boards can be compared at all."""
    before, after = ({row["model"]: row for row in board["rows"]} for board in (old, new))
    parts = ["# What changed since the older board", _comparable(old, new)]
    rows = [_change(name, before[name], after[name]) for name in after if name in before]
    if rows:
        columns = ["model", "rank", "final", "change", "gates", "files"]
        parts.append(markdown_table(columns, rows, right=len(columns) - 2))
    for title, some in (
        ("New on the board", after.keys() - before.keys()),
        ("Gone from it", before.keys() - after.keys()),
    ):
        if some:
            parts.append(f"{title}: {', '.join(map(plain_text, sorted(some)))}.\n")
    said_before, said_now = ([one["sentence"] for one in board["findings"]] for board in (old, new))
    parts.append(_listed("Findings that are new", [one for one in said_now if one not in said_before]))
    parts.append(_listed("Findings that are gone", [one for one in said_before if one not in said_now]))
    return "\n".join(f"{part}\n" for part in parts)


def _comparable(old: Mapping, new: Mapping) -> str:
    differ = []
    if old["rubric"]["digest"] != new["rubric"]["digest"]:
        differ.append("the rubric")
    if old["prompts_digest"] != new["prompts_digest"]:
        differ.append("the prompts")
    panels = [
        sorted((one["served_as"], one["identity"]) for one in board["judges"] if one["counts"]) for board in (old, new)
    ]
    if panels[0] != panels[1]:
        differ.append("the judges that count")
    if old["formula"] != new["formula"]:
        differ.append("the formula")
    if set(_gate_names(old)) != set(_gate_names(new)):
        differ.append("the gates")
    if differ:
        changed = ", ".join(differ)
        return f"**Cannot tell** what is better than before: {changed} changed. The numbers only stand side by side.\n"
    return "Same rubric, prompts, judges, gates and formula: the numbers can be compared.\n"


def _change(name: str, old: Mapping, new: Mapping) -> list[str]:
    ranks = (
        " → ".join(str(one["rank"] or "–") for one in (old, new))
        if old["rank"] != new["rank"]
        else str(new["rank"] or "–")
    )
    finals = [one["final"]["value"] for one in (old, new)]
    values = finals if finals != [None, None] else [one["judges_alone"] for one in (old, new)]
    change = UNTOLD if None in values else f"{values[1] - values[0]:+.1f} ({_intervals(old['final'], new['final'])})"
    files = [one["file_digest"] for one in (old, new)]
    same = UNTOLD if None in files else "the same file" if files[0] == files[1] else "another file"
    gates = f"{words.percent(old['gate_pass_rate'])} → {words.percent(new['gate_pass_rate'])}"
    shown = " → ".join(UNTOLD if one is None else f"{one:.1f}" for one in values)
    return [name, ranks, shown, change, gates, same]


def _intervals(old: Mapping, new: Mapping) -> str:
    if None in (old["low"], new["low"]):
        return "no interval is known"
    apart = old["high"] < new["low"] or new["high"] < old["low"]
    return "intervals apart" if apart else "within the intervals"
