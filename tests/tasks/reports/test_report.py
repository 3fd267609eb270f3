"""The page shows what was measured, no better and no worse, and asks no server for anything."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from itertools import combinations

import pytest

from data_contracts.verdict import check
from tasks.reports.charts import draw_curve
from tasks.reports.data import LossPoint, Sample
from tasks.reports.graph import BOX_HEIGHT, BOX_WIDTH, draw_graph
from tasks.reports.leaderboard import leaderboard_json, leaderboard_markdown
from tasks.reports.report import render_report, sample_view


class _Page(HTMLParser):
    """The tags, attributes and visible text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.feed(html)
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] not in ("style", "script"):
            self.words.append(data)


@pytest.fixture
def page(sample_release) -> _Page:
    return _Page(render_report(sample_release()))


def test_page_shows_every_check_with_its_number_and_limit(page, sample_release):
    for shown in ("2.4e-06", "≤ 0.0001", "1.53e-07 nats", "≤ 1e-05 nats", "0.99998", "≥ 0.999", "14 tensors compared"):
        assert shown in page.text
    for _, one in sample_release().checks:
        assert one.name in page.text
    assert "16 of 16 checks passed" in page.text
    assert "3 more numbers are reported without a limit" in page.text


def test_no_verdict_wraps(sample_release):
    html = render_report(sample_release())
    assert html.count('<span class="verdict plain">reported</span>') == 3
    assert re.search(r"^\.verdict \{[^}]*white-space: nowrap", html, re.MULTILINE)
    assert not re.search(r'<td>(?:<span class="soft">)?(?:reported|pass|fail|cannot tell)<', html)


def test_page_changes_with_its_numbers(sample_release, stages):
    stages[4] = stages[4].model_copy(update={"checks": [check("largest logit difference", 7.7e-5, "<=", 1e-4)]})
    text = _Page(render_report(sample_release(stages=stages))).text
    assert "7.7e-05" in text and "2.4e-06" not in text


def test_page_asks_no_server_for_anything(failing_release):
    html = render_report(failing_release())
    addresses = [
        value for _, attrs in _Page(html).tags for key, value in attrs.items() if key in ("src", "href", "action")
    ]
    assert sorted(set(addresses)) == ["#content", "data:,"]
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#tip\))", html, flags=re.I)
    assert "default-src 'none'" in html


def test_markup_in_a_headline_is_inert(sample_release, hostile):
    html = render_report(sample_release(name="<img src=x onerror=alert(1)>", not_proven=[hostile]))
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", html, flags=re.S)
    assert len(scripts) == 1 and "alert" not in scripts[0]
    tags = [tag for tag, _ in _Page(html).tags]
    assert "img" not in tags and tags.count("script") == 1
    assert "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;" in html
    allowed = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{allowed}'" in html  # the browser refuses any other script


def test_failing_and_unmeasured_are_shown_as_such(sample_release, failing_release):
    page = _Page(render_report(failing_release()))
    assert any(tag == "div" and attrs.get("class") == "banner tone-fail" for tag, attrs in page.tags)
    assert "1 failed, 1 could not tell" in page.text
    assert "0.0041 nats" in page.text and "convert it again" in page.text and "not measured" in page.text
    assert "Pass" not in page.text
    passing = _Page(render_report(sample_release()))
    assert any(attrs.get("class") == "banner tone-pass" for _, attrs in passing.tags)
    assert not any(
        "tone-fail" in (attrs.get("class") or "") for tag, attrs in passing.tags if tag in ("tr", "g", "li", "div")
    )


def test_unscored_is_cannot_tell_and_never_zero(failing_release):
    release = failing_release()
    html, board = render_report(release), leaderboard_markdown(release)
    label = next(
        attrs["aria-label"] for _, attrs in _Page(html).tags if attrs.get("aria-label", "").startswith("sign right: ")
    )
    assert "q4_k_m cannot tell" in label
    row = next(line for line in board.splitlines() if "q4_k_m" in line)
    assert "cannot tell" in row and "0.0 %" not in row
    stored = next(row for row in leaderboard_json(release)["rows"] if row["model"] == "q4_k_m")
    assert stored["scores"]["sign_right"]["value"] is None


def test_a_stage_without_a_limit_is_not_called_proven(page):
    proven, _, rest = page.text.partition("Not proven")
    assert "export_gguf.q4_k_m : numbers are reported, none has a limit" in rest
    assert "export_gguf.q4_k_m" not in proven.partition("Proven on the files themselves")[2]


def test_graph_draws_every_stage_and_every_input(page, sample_release):
    release = sample_release()
    drawn = draw_graph(release)
    assert len(drawn.boxes) == 9 and len(drawn.lines) == len(release.edges) == 16
    rows = {box.stage.stage: box.y for box in drawn.boxes}
    assert all(rows[line.source] < rows[line.target] for line in drawn.lines)
    corners = [(box.x, box.y) for box in drawn.boxes]
    assert all(abs(a[0] - b[0]) >= BOX_WIDTH or abs(a[1] - b[1]) >= BOX_HEIGHT for a, b in combinations(corners, 2))
    for box in drawn.boxes:
        assert box.stage.artifact_digest[:12] in page.text


def test_loss_curve_is_drawn_to_scale(sample_release):
    points = [
        LossPoint(step=0, train_loss=2.0),
        LossPoint(step=50, train_loss=1.0, heldout_loss=1.2),
        LossPoint(step=100, train_loss=0.0),
    ]
    curve = draw_curve(points)
    (x0, y0, _), (x1, y1, _), (x2, y2, _) = curve.train.points
    assert x1 - x0 == pytest.approx(x2 - x1) and y1 - y0 == pytest.approx(y2 - y1)
    assert y2 == pytest.approx(curve.bottom) and len(curve.heldout.points) == 1
    assert draw_curve([]) is None and draw_curve([LossPoint(step=3)]) is None
    assert "No loss was recorded" in render_report(sample_release(loss_curve=[]))


def test_bars_are_as_long_as_the_scores(sample_release):
    html = render_report(sample_release())
    widths = re.findall(r'class="bar[^"]*" x="76" y="4" width="([\d.]+)"', html)
    assert len(widths) == 21
    assert float(widths[0]) == pytest.approx(178 * 238 / 240, abs=0.06)


def test_sample_marks_only_what_differs(sample_release):
    view = sample_view(sample_release().samples[0])
    assert [one.models for one in view.answers] == [["base"], ["merged", "f16", "q8_0"], ["q4_k_m"]]
    assert [name for name, _, differs in view.answers[0].fields if differs] == ["direction"]
    assert not any(differs for _, _, differs in view.answers[1].fields)
    assert view.answers[2].correct is None and view.wrong and view.differ
    broken = Sample(row={}, prompt="p", expected="yes it does", answers={"base": "yes it did"}, correct={"base": False})
    assert [span.text for span in sample_view(broken).answers[0].spans if span.differs] == ["did"]
