"""What people see of a board: the chart, the Markdown, the page of answers, the diff; markup in an answer stays words."""

from __future__ import annotations

import copy
import json
import re

import pytest

from tasks.reports.answers_page import prompt_views, render_answers
from tasks.reports.judging_chart import ChartBar, draw_board, draw_chart
from tasks.reports.judging_text import board_diff, board_markdown
from tests.fixtures import judge_panel as world

HOSTILE = "# Letter\n<script>alert(1)</script> | pipe | <img src=x onerror=alert(2)> fictional q3 </p></article>"
ANSWERS = {
    "ceiling": [world.letter("ceiling", n, 5) for n in range(8)],
    "student": [HOSTILE, *(world.letter("student", n, 4) for n in range(1, 8))],
    "$x_1$ [a](b)": [world.letter("student", n, 3) for n in range(8)],
    "base": [world.letter("base", n, 2).replace("fictional", "") for n in range(8)],
}


@pytest.fixture
def made(tmp_path):
    """(board, records, table) of two judges."""
    return world.board_and_records(tmp_path, ANSWERS, "gpt", "qwen")


@pytest.fixture
def unjudged(tmp_path):
    """The same without a judge."""
    return world.board_and_records(tmp_path, ANSWERS)


def page_of(made) -> str:
    board, records, table = made
    return render_answers(board, records, table, world.recipe(), world.RUBRIC)


def test_the_page_holds_every_answer_beside_every_judge_and_no_markup_of_a_model(made):
    page = page_of(made)
    assert page.count('class="sample"') == 8 and page.count('<table class="opinions">') == 4 * 8
    assert "<script>alert" not in page and "onerror=alert(2)>" not in page and "&lt;script&gt;alert(1)" in page
    assert page.count("<script>") == 1 and page.count("</article>") == 8
    assert page.count('<tr class="scores">') == 2 * 4 * 8 and "as the rubric says" in page


def test_the_page_asks_no_server(made):
    page = page_of(made)
    assert not re.search(r'(?:src|href)\s*=\s*"(?!data:|#)', page) and "@import" not in page and "url(" not in page
    assert "default-src 'none'" in page


def test_the_page_without_judges_says_so(unjudged):
    page = page_of(unjudged)
    assert page.count("Judges: cannot tell") == 32 and "0 judges" in page


def test_prompts_on_which_judges_part_are_marked(made):
    board, records, table = made
    assert not any(one.disagree for one in prompt_views(board, records, table, world.recipe(), world.RUBRIC))
    parted = copy.deepcopy(records)
    one = next(r for r in parted if r["kind"] == "answer" and r["prompt"] == 3 and r["judge"] == "gpt")
    one["levels"] = dict.fromkeys(world.CRITERIA, 5 if one["levels"]["integrity"] <= 3 else 1)
    lost = next(r for r in parted if r["kind"] == "answer" and r["prompt"] == 5)
    lost |= {"levels": None, "unscored": "no verdict: none"}
    views = prompt_views(board, parted, table, world.recipe(), world.RUBRIC)
    assert [n for n, view in enumerate(views) if view.disagree] == [3]
    assert [n for n, view in enumerate(views) if view.unscored] == [5]


def test_equal_answers_share_a_column(tmp_path):
    board, records, table = world.board_and_records(tmp_path, {**ANSWERS, "copy": ANSWERS["base"]}, "gpt")
    views = prompt_views(board, records, table, world.recipe(), world.RUBRIC)
    assert [one.models for one in views[2].answers][-1] == ["base", "copy"]


def test_markdown_has_a_row_a_model_and_names_stay_words(made):
    text = board_markdown(made[0])
    assert r"| $x_1$ \[a\](b) | 2 |" in text and "[a](b)" not in text
    assert "| ceiling | – |" in text and "the yardstick, not a competitor" in text and "untuned: the floor" in text
    assert "100 * (0.6 * judge_mean / 5 + 0.4 * gate_pass_rate)" in text
    assert "ceiling is above every other model for every judge." in text


def test_markdown_without_judges_says_cannot_tell(unjudged):
    text = board_markdown(unjudged[0])
    assert "| student | – | cannot tell | 100.0 % | cannot tell | no judge was asked |" in text


@pytest.mark.parametrize(
    ("judges", "same", "untold"),
    [
        (("gpt", "qwen"), True, ["alpha (ordinal), all criteria: cannot tell.", "tau of gpt and qwen: cannot tell."]),
        (("gpt",), False, ["alpha (ordinal), all criteria: cannot tell.", "No finding: 1 judge(s) of 1 family"]),
        ((), False, ["alpha (ordinal), all criteria: cannot tell.", "No finding: 0 judge(s)"]),
    ],
    ids=["all scores equal", "one judge", "no judge"],
)
def test_what_cannot_be_told_is_said_and_is_no_nan(tmp_path, judges, same, untold):
    answers = {name: [world.letter(name, n, 3 if same else 1 + n % 5) for n in range(8)] for name in "abcd"}
    board, _, _ = world.board_and_records(tmp_path, answers, *judges)
    json.dumps(board, allow_nan=False)
    text = board_markdown(board)
    assert all(one in text for one in untold) and not re.search(r"\bnan\b", text)
    if same:
        assert [row["rank"] for row in board["rows"]] == [1, 1, 1, 1]
        assert {one["kind"] for one in board["findings"]} == {"tied"}


def png_size(path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])


def test_the_chart_grows_with_the_models_and_repeats_byte_for_byte(made, tmp_path):
    draw_board(made[0], tmp_path / "a.png")
    draw_board(made[0], tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    draw_chart(tmp_path / "one.png", [ChartBar("one", {"judges": 40.0})])
    assert png_size(tmp_path / "a.png")[1] > png_size(tmp_path / "one.png")[1] > 100


def test_the_chart_shows_what_the_board_says(made, unjudged, tmp_path, monkeypatch):
    """The text that the figure draws: scores, and "cannot tell" in place of a bar."""
    from matplotlib.figure import Figure

    drawn = {}

    def keep(figure, *_, **__):
        drawn["texts"] = [text.get_text() for text in figure.axes[0].texts]
        drawn["labels"] = [one.get_text() for one in figure.axes[0].get_yticklabels()]
        drawn["bars"] = [(round(one.get_x(), 1), round(one.get_width(), 1)) for one in figure.axes[0].patches]

    monkeypatch.setattr(Figure, "savefig", keep)
    draw_board(made[0], tmp_path / "a.png")
    final = {one["model"]: one["final"]["value"] for one in made[0]["rows"]}
    assert drawn["texts"] == [f"{value:.1f}" for value in final.values()]
    assert drawn["labels"][0] == "ceiling  (yardstick)" and drawn["labels"][-1] == "base  (floor)"
    assert (60.0, 40.0) in drawn["bars"]  # the ceiling: 60 points of the judges, then 40 of the gates
    draw_board(unjudged[0], tmp_path / "a.png")
    assert drawn["texts"].count("cannot tell") == 4 and drawn["texts"].count("no judge was asked") == 4


def test_a_chart_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="needs a bar"):
        draw_chart(tmp_path / "x.png", [])


def test_the_diff_tells_what_changed_and_whether_it_can_be_compared(made, tmp_path):
    old = made[0]
    new, _, _ = world.board_and_records(
        tmp_path,
        {
            **{name: ANSWERS[name] for name in ("ceiling", "base")},
            "student": [world.letter("s", n, 5) for n in range(8)],
        },
        "gpt",
        "qwen",
    )
    text = board_diff(old, new)
    assert "the numbers can be compared" in text and re.search(
        r"\| student \| 1 \| 8\d\.\d → 100\.0 \| \+1\d\.\d", text
    )
    assert r"Gone from it: $x_1$ \[a\](b)." in text and "Findings that are gone" in text
    for change, told in (
        ({"rubric": {**new["rubric"], "digest": "x"}}, "the rubric changed"),
        ({"prompts_digest": "x"}, "the prompts changed"),
        ({"judges": new["judges"][:1], "formula": "x"}, "the judges that count, the formula changed"),
        ({"rows": [{**one, "gates": {**one["gates"], "anchors": 1.0}} for one in new["rows"]]}, "the gates changed"),
    ):
        assert f"**Cannot tell** what is better than before: {told}" in board_diff(old, {**new, **change})


def test_a_change_without_intervals_is_not_within_them(made):
    old, new = made[0], copy.deepcopy(made[0])
    for row in new["rows"]:
        row["final"] |= {"value": row["final"]["value"] - 2, "low": None, "high": None}
    assert "| -2.0 (no interval is known) |" in board_diff(old, new)
    assert "| +0.0 (within the intervals) |" in board_diff(old, old)
    alone = copy.deepcopy(made[0])
    for row in alone["rows"]:
        row |= {"judges_alone": 80.0, "final": {"value": None, "low": None, "high": None}}
    assert "| +0.0 (no interval is known) |" in board_diff(alone, alone)
    assert re.search(r"\| student \| 1 \| \d+\.\d → cannot tell \| cannot tell \|", board_diff(old, alone)), (
        "a final score is no number of the judges alone"
    )


def test_an_unscored_model_in_a_diff_is_no_fall(made, unjudged):
    text = board_diff(made[0], unjudged[0])
    assert "| student | 1 → – |" in text and "→ cannot tell | cannot tell |" in text and "-8" not in text
