"""The built rows of proofkit: each target is made from its answers, keeps the house rules, and reads like a sentence.

The checks here are written again, apart from the contract's: they share no code with what they test but the rows. At
the end the contract's own are asked too: what they refuse, no run can train on.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import polars as pl
import pytest

from data_contracts.audit.audit import audit_rows, audit_splits
from data_contracts.limits import load_limits
from data_contracts.rows.contract import check_rows
from data_contracts.verdict import Check, failures
from tasks.recipes.proofkit import nano_rows as proofkit_nano
from tasks.recipes.proofkit import recipe as proofkit
from tasks.recipes.proofkit import rows as proofkit_world
from tasks.recipes.proofkit.rows import built_rows, combination_of

ROOT = Path(__file__).resolve().parents[4]
N_ROWS = 7_000
TIMES: dict[str, float] = {}
PROMPT_COLUMNS = (
    "role", "artifact_type", "section", "company", "constraint", "stakes", "skills", "profile", "answers", "draft", "rubric",
)  # fmt: skip


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    start = time.perf_counter()
    found, _ = built_rows(N_ROWS, 0, seed=42)
    TIMES["built"] = time.perf_counter() - start
    return found


def of(rows: list[dict], *tasks: str) -> list[dict]:
    found = [row for row in rows if row["task"] in tasks]
    assert len(found) >= 100 * len(tasks)
    return found


def texts(row: dict) -> list[str]:
    """The strings of a target; a text is one of them."""
    if row["task"] not in ("review", "talking_points"):
        return [row["target"]]
    found: list[str] = []
    todo = [json.loads(row["target"])]
    while todo:
        value = todo.pop()
        if isinstance(value, str):
            found.append(value)
        else:
            todo += list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return found


def holds(phrase: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", text, re.IGNORECASE) is not None


def anchors(row: dict) -> list[str]:
    return row["anchors"].split(" | ")


def masked(text: str, row: dict) -> str:
    for phrase in sorted([*anchors(row), row["company"], row["role"], row["artifact_type"]], key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(phrase)}(?!\w)", "§", text, flags=re.IGNORECASE)
    return re.sub(r"\d+", "0", text)


def test_seven_thousand_rows_take_less_than_a_minute(rows) -> None:
    assert len(rows) == N_ROWS
    assert TIMES["built"] < 60


def test_rows_are_spread_evenly_over_tasks_and_roles(rows) -> None:
    tasks, roles = Counter(row["task"] for row in rows), Counter(row["role"] for row in rows)
    assert len(roles) >= 12
    assert max(roles.values()) - min(roles.values()) <= 20
    assert {task: count // (N_ROWS // 20) for task, count in tasks.items()} == {
        "draft": 6, "revise": 3, "review": 3, "talking_points": 2, "scenario": 2, "bullets": 2, "post": 2,
    }  # fmt: skip
    assert len({(row["task"], row["answers"]) for row in rows}) == N_ROWS


def test_two_processes_give_the_same_bytes_and_another_seed_does_not() -> None:
    code = "import json; from tasks.recipes.proofkit.rows import built_rows; print(json.dumps(built_rows(150, 40, {})))"
    outputs = []
    for seed, hash_seed in ((7, "1"), (7, "2"), (8, "1")):
        env = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        outputs.append(
            subprocess.run([sys.executable, "-c", code.format(seed)], env=env, capture_output=True, check=True).stdout
        )
    assert outputs[0] == outputs[1]
    assert len(outputs[0]) > 100_000
    assert outputs[0] != outputs[2]


def test_a_larger_set_begins_with_the_smaller_one(rows) -> None:
    assert built_rows(30, 0, seed=42)[0] == rows[:30]


def test_every_anchor_stands_in_the_answers_and_in_the_target(rows) -> None:
    for row in rows:
        assert len(anchors(row)) >= 2
        for anchor in anchors(row):
            assert holds(anchor, row["answers"]), (anchor, row["answers"])
            assert any(holds(anchor, text) for text in texts(row)), (anchor, row["target"])


def test_drafts_revisions_and_scenarios_leave_nothing_of_the_answers_out(rows) -> None:
    """The odd things above all: the story's tester asked for rabbits and got none. Names and numbers as well."""
    deck = proofkit_world._deck()
    pools = {
        "odd": [one for pool in deck.odd.values() for one in pool],
        "names": [*deck.world.names.people, *deck.world.names.places],
    }
    typed = {
        kind: re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, sorted(pool, key=len, reverse=True)))})(?!\w)")
        for kind, pool in pools.items()
    }
    typed["numbers"] = re.compile(r"\d[\d,:]*\d|\d")
    counts = Counter()
    for row in of(rows, "draft", "revise", "scenario"):
        for kind, pattern in typed.items():
            found = set(pattern.findall(row["answers"]))
            lost = [one for one in found if not holds(one, row["target"]) and one not in row["target"]]
            assert not lost, (lost, row["answers"], row["target"])
            counts[kind] += len(found)
    assert min(counts["odd"], counts["names"] // 3, counts["numbers"] // 2) > 1_500


def test_with_the_answers_of_another_row_a_target_no_longer_holds_its_anchors(rows) -> None:
    groups = defaultdict(list)
    for row in rows:
        groups[row["task"], row["role"]].append(row)
    swaps = passed = 0
    for group in groups.values():
        for row, other in zip(group, group[1:] + group[:1], strict=True):
            swaps += 1
            passed += all(any(holds(one, text) for text in texts(row)) for one in anchors(other))
    assert swaps == N_ROWS
    assert passed == 0


def test_the_choice_in_a_target_is_the_one_that_the_applicant_made(rows) -> None:
    """Swapping the two ways in the answers must swap the decision: it cannot be read off role, section or event."""
    chosen = re.compile(r"between (?P<a>[^;.]+?) and (?P<b>[^;.]+?) I (?:take|want) the first", re.IGNORECASE)
    deck, checked, firsts = proofkit_world._deck(), 0, Counter()
    for row in of(rows, "draft"):
        if not (found := chosen.search(row["answers"])):
            continue
        _, key, _ = combination_of(row).split("|")
        case = next(one for one in deck.world.role(row["role"]).cases if one.key == key)
        ways = [one.what for one in case.options]
        took = found["a"].lower() if found["a"].lower() in ways else None
        if took is None:
            continue
        other = ways[1 - ways.index(took)]
        target = row["target"].lower()
        assert not re.search(
            rf"(?:choose|pick|recommend\w*|prefer|take) {re.escape(other)}(?! (?:instead|would))", target
        ), row["target"]
        checked, firsts[ways.index(took)] = checked + 1, firsts[ways.index(took)] + 1
    assert checked > 80
    assert min(firsts.values()) > 25


def test_reasoning_and_targets_repeat_nothing_once_names_are_masked(rows) -> None:
    reviews = of(rows, "review")
    reasonings = [masked(json.loads(row["target"])["reasoning"], row) for row in reviews]
    assert len(set(reasonings)) >= 0.99 * len(reasonings)
    for task in ("draft", "revise", "review", "talking_points", "scenario", "bullets", "post"):
        some = [masked(row["target"], row) for row in of(rows, task)]
        assert len(set(some)) >= 0.99 * len(some)


def test_the_parts_of_a_talking_point_and_the_lines_of_bullets_are_rarely_the_same(rows) -> None:
    points = [
        point["point"] for row in of(rows, "talking_points") for point in json.loads(row["target"])["talking_points"]
    ]
    bullets = [line for row in of(rows, "bullets") for line in row["target"].splitlines()]
    assert len(set(points)) > 0.9 * len(points) > 1_500
    assert len(set(bullets)) > 0.9 * len(bullets) > 1_500


def test_companies_are_called_fictional_and_pieces_practice(rows) -> None:
    for row in rows:
        whole = " ".join(texts(row))
        near = [found.start() for found in re.finditer(re.escape(row["company"]), whole)]
        assert near, row["target"]
        assert any(re.search(r"fictional|invented|made[ -]up", whole[max(0, at - 160) : at + 160]) for at in near), (
            whole
        )
        if row["task"] not in ("review", "talking_points"):
            assert re.search(r"practice|simulated|mock|exercise|work sample|hypothetical case", whole), whole
            assert re.search(r"\b(?:no|not|without|never|neither|nor|none|nothing)\b", whole, re.IGNORECASE)
        assert not re.search(r"\bour (?:client|customer|employer)|\bmy (?:client|boss)\b", whole, re.IGNORECASE)


def test_every_number_comes_from_the_prompt_or_is_called_hypothetical(rows) -> None:
    for row in rows:
        given = " ".join(str(row[name]) for name in PROMPT_COLUMNS if row[name])
        for text in texts(row):
            for sentence in re.split(r"(?<=[.!?]) (?=[A-Z])|\n", text):
                for number in re.findall(r"\d[\d,.:]*\d|\d", sentence):
                    assert number in given or "hypothetical" in sentence, (number, sentence)


BROKEN = re.compile(
    r"[{}\[\]|]|\bNone\b(?! of)|  |\.\.|\s[,.;:!?]|[,;:][.,;]|\b[Aa] [aeio]\w|\b[Aa]n [bcdfgjklpqtvwz]\w"
)
TWICE = re.compile(r"\b(?!that\b|had\b)([a-z]{2,}) \1\b", re.IGNORECASE)


def test_no_placeholder_and_no_careless_spot_is_left_in_any_text(rows) -> None:
    for row in rows:
        for text in (*texts(row), row["draft"] or "", row["constraint"], row["stakes"] or "", row["profile"] or ""):
            found = BROKEN.search(re.sub(r"\ba (?=one\b|once\b)", "", text)) or TWICE.search(text)
            assert not found, (found.group(), text[max(0, found.start() - 60) : found.end() + 40])
            if text in ("ready", "almost ready", "not ready"):
                continue
            for line in text.split("\n"):
                for sentence in re.split(r"(?<=[.!?]) ", line.lstrip("#- ").strip("'\"")):
                    assert not sentence or not sentence[0].isalpha() or sentence[0].isupper(), text


def test_a_revision_changes_what_the_rubric_names_and_nothing_else(rows) -> None:
    changes = Counter()
    for row in of(rows, "revise"):
        before, after = (Counter(re.split(r"(?<=[.!?])\s+(?:- )?", row[name])) for name in ("draft", "target"))
        removed, added = before - after, after - before
        assert removed or added
        assert sum(removed.values()) <= 3, (removed, row["rubric"])
        assert sum(added.values()) <= 4, (added, row["rubric"])
        changes["removed only" if not added else "added only" if not removed else "replaced"] += 1
    assert min(changes[kind] for kind in ("removed only", "added only", "replaced")) > 100


def test_a_review_follows_from_its_draft(rows) -> None:
    verdicts = Counter()
    for row in of(rows, "review"):
        answer = json.loads(row["target"])
        lowest = min(answer["scores"].values())
        assert answer["readiness"] == ("ready" if lowest >= 4 else "not ready" if lowest <= 2 else "almost ready")
        verdicts[answer["readiness"]] += 1
        draft = row["draft"]
        claims_job = re.search(
            r"(?:While working at|as an employee at|In my job at|My employer,|I was hired by|as an employee,)", draft
        )
        assert (answer["scores"]["honesty"] <= 2) >= bool(claims_job), draft
        discloses = re.search(r"practice|simulated|work sample", draft)
        assert (answer["scores"]["honesty"] <= 3) >= (not discloses), draft
        assert (answer["scores"]["evidence"] <= 4) >= (not re.search("assum", draft, re.IGNORECASE)), draft
    assert min(verdicts.values()) > 0.28 * sum(verdicts.values())


def test_quotations_of_a_review_are_the_drafts_own_words(rows) -> None:
    quotations = 0
    for row in of(rows, "review"):
        for text in (*json.loads(row["target"])["gaps"], *json.loads(row["target"])["strengths"]):
            for quote in re.findall(r"(?<!\w)'([^']{25,})'(?!\w)", text):
                quotations += 1
                assert quote.lower()[1:] in row["draft"].lower() or quote[:20].lower()[1:] in row["draft"].lower(), (
                    quote
                )
    assert quotations > 500


def test_bullets_are_three_lines_that_begin_with_a_verb_in_the_past(rows) -> None:
    irregular = {"Wrote", "Built", "Put", "Made", "Took", "Set", "Came", "Saw", "Won", "Found", "Gave", "Held", "Cut",
                 "Broke", "Spelled", "Chose", "Kept", "Brought", "Began", "Heard", "Met", "Laid", "Read", "Retold"}  # fmt: skip
    verbs = Counter()
    for row in of(rows, "bullets"):
        lines = row["target"].splitlines()
        assert len(lines) == 3
        for line in lines:
            verb = re.match(r"- ([A-Z]\w+)", line)[1]
            assert verb.endswith("ed") or verb in irregular, line
            verbs[verb] += 1
    assert len(verbs) >= 60


def table(rows: list[dict]) -> pl.DataFrame:
    return pl.DataFrame(rows, infer_schema_length=None)


def told(checks: list[Check]) -> list[str]:
    """What did not pass, in words; *cannot tell* counts."""
    return [one.sentence() for one in failures(checks)]


def test_seven_thousand_rows_keep_the_contract_and_pass_its_audit(rows) -> None:
    frame, limits = table(rows), load_limits("proofkit")
    found = check_rows("proofkit", frame, limits)
    assert found.passed, found.broken
    assert told(audit_rows(frame, limits)) == []


def test_rows_with_the_targets_of_others_break_the_contract(rows) -> None:
    """The check above can fail: half the drafts answer somebody else, or all of them end alike."""
    drafts = of(rows, "draft")[:200]
    shifted = [{**row, "target": drafts[i - 1]["target"]} if i % 2 else row for i, row in enumerate(drafts)]
    assert check_rows("proofkit", table(shifted)).n_rejected == len(drafts) // 2
    same = "\n\nWhat I would look at first is what the team already knows, because nobody writes it down. " * 8
    alike = [{**row, "target": row["target"] + same} for row in drafts]
    assert any("skeleton" in one for one in told(audit_rows(table(alike), load_limits("proofkit"))))


@pytest.fixture(scope="module")
def nano() -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows of the demo: numbers and seed as in configs/proofkit/nano.yaml."""
    train, heldout = proofkit.build_rows("nano", 420, 210, 42)
    return table(train), table(heldout)


def test_the_demo_s_rows_keep_the_contract_too(nano) -> None:
    limits = load_limits("proofkit", "nano")
    for frame in nano:
        found = check_rows("proofkit", frame, limits)
        assert found.passed, found.broken
    checks = [*audit_rows(nano[0], limits), *audit_splits(*nano, limits)]
    assert told(checks) == []
    leaked = pl.concat([nano[1], nano[0][:1]])
    assert any("also in training" in one for one in told(audit_splits(nano[0], leaked, limits)))


def test_a_phrase_of_its_own_length_for_one_readiness_is_seen(monkeypatch) -> None:
    for points in (0, 1):  # both are "not ready"
        monkeypatch.setitem(proofkit_nano.POINTS_MET, points, f"Points met: {points}, which is far too few of them.")
    train, _ = proofkit.build_rows("nano", 420, 210, 42)
    assert any(
        "of reasoning length with" in one for one in told(audit_rows(table(train), load_limits("proofkit", "nano")))
    )
