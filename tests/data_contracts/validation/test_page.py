"""The page of a validated file: complete, self-contained, small, and safe whatever stands in the rows."""

import json
import re
from collections import Counter
from html.parser import HTMLParser

import polars as pl
import pytest

from data_contracts.validation.distributions import NUMBER_BINS, Distributions, NumberSpread
from data_contracts.validation.page import SHOWN_BATCHES, SHOWN_RULES, _round_steps
from data_contracts.validation.validate import validate_file
from data_contracts.verdict import Verdict

pytestmark = pytest.mark.usefixtures("few_draws")
VOID = {"meta", "link", "br"}
ATTACK = '<script>alert("x")</script><img src=//evil.example/x onerror=alert(1)>'


class Page(HTMLParser):
    """Reads a page, and notes what is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attributes]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def page_of(frame: pl.DataFrame, folder) -> tuple[object, str, Page]:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in frame.to_dicts()), "utf-8")
    found = validate_file("signals", path, out=folder / "out")
    text = found.page_path.read_text("utf-8")
    return found, text, Page(text)


@pytest.fixture(scope="module")
def gold_page(tmp_path_factory):
    from data_contracts.paths import CONTRACTS_FOLDER
    from data_contracts.rows.rows_file import read_rows

    gold = read_rows(CONTRACTS_FOLDER / "signals" / "examples" / "gold.jsonl")
    return (gold, *page_of(gold, tmp_path_factory.mktemp("gold")))


def test_it_tells_verdict_checks_and_distributions(gold_page):
    gold, found, _, page = gold_page
    assert found.verdict is Verdict.PASS
    assert "Pass" in page.text and found.sentence() in page.text
    assert len(found.checks) > 20
    for one in found.checks:
        assert one.name in page.text, one.name
    for name in ("noise", "YES more likely", "YES less likely", "malformed", "no direction"):
        assert (name in page.text) == (name != "no direction"), name
    for batch in gold["source_batch"].unique():
        assert batch in page.text
    for field in ("relevance", "direction", "magnitude", "source credibility", "novelty", "information type"):
        assert field in page.text
    for kind in gold["information_type"].drop_nulls().unique():
        assert kind.replace("_", " ") in page.text
    assert page.tags["svg"] == 2 + 5 + 2 + 1, "lengths twice, five numbers, two lists of names, one matrix"


def test_it_is_whole_html_without_scripts_and_asks_the_network_for_nothing(gold_page):
    _, _, text, page = gold_page
    assert page.open == [] and text.startswith("<!doctype html>")
    assert page.tags["script"] == 0
    assert not [one for one in page.attributes if one[1] in ("src", "srcset", "onload") or one[1].startswith("on")]
    assert {value for _, name, value in page.attributes if name == "href"} == {"data:,", "#content"}
    assert not re.search(r"url\(|@import|https?://", text)
    assert "prefers-color-scheme: dark" in text
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert sum((tag, name) == ("svg", "aria-label") for tag, name, _ in page.attributes) == page.tags["svg"]
    assert not re.search(r"\b(?:nan|inf|None)\b", " ".join(value for _, name, value in page.attributes if name == "d"))


def test_classes_have_names_and_no_verdict_wraps(gold_page):
    """ "True 30" says nothing to its reader; "reported" was broken into two lines by the long texts beside it."""
    _, found, text, page = gold_page
    told = page.text + found.table() + "".join(one.detail for one in found.audit)
    assert not re.search(r"\b(?:True|False)\b", told)
    for classes in (
        "rows: noise 30, signal 59",
        "rows: YES less likely 31, YES more likely 28",
        "rows: large 27, small 32",
    ):
        assert told.count(classes) >= 3, classes
    assert re.search(r"features that tell most: [\w ]+ \((?:more|less) in '(?:noise|signal)', AUC 0\.\d\d\)", told)
    rows = sum(one.comparison == "report" for one in found.checks)
    assert rows >= 2 and text.count('<span class="verdict plain">reported</span>') == rows
    words = {"pass", "fail", "cannot tell", "reported"}
    assert len(re.findall(rf'class="verdict[^"]*">(?:<span[^>]*>.</span> )?(?:{"|".join(words)})<', text)) == len(
        found.checks
    )
    assert re.search(r"^\.verdict \{[^}]*white-space: nowrap", text, re.MULTILINE)
    assert ".scroll table { min-width: 620px; }" in text, "on a phone the check's name was a column of single letters"


def test_the_matrix_holds_the_counts(gold_page):
    gold, found, text, _ = gold_page
    expected = gold.filter(pl.col("error_code").is_null()).group_by(
        "metric_direction", sign=pl.col("direction").sign().cast(pl.Int8)
    )
    for metric, sign, rows in expected.len().rows():
        assert f"metric {metric}, YES {sign}: {rows}" in text
    assert sum(found.distributions.moves.values()) == gold["error_code"].is_null().sum()
    assert text.count('class="cell apart"') == 2


def test_text_from_rows_is_escaped(gold, tmp_path):
    """In an accepted batch's name, a rejected headline and value, a column's name, and the file's name."""
    frame = gold.with_row_index("n").with_columns(
        source_batch=pl.when(pl.col("n") < 60).then(pl.lit(f"batch {ATTACK}")).otherwise("source_batch"),
        information_type=pl.when(pl.col("n") == 70).then(pl.lit(ATTACK)).otherwise("information_type"),
        headline=pl.when(pl.col("n") == 71).then(pl.lit(f"{ATTACK} - Reuters")).otherwise("headline"),
    )
    frame = frame.drop("n").with_columns(pl.lit("x").alias(f"extra {ATTACK}"))
    found, text, page = page_of(frame, tmp_path)
    assert found.verdict is Verdict.FAIL
    assert page.tags["script"] == 0 and page.tags["img"] == 0
    assert "<script" not in text and "<img" not in text
    assert page.text.count('<script>alert("x")</script>') >= 3
    accepted = gold.with_columns(source_batch=pl.lit(f"batch {ATTACK}"))
    _, text, page = page_of(accepted, tmp_path)
    assert page.tags["script"] == 0 and "batch <script>" in page.text


def test_broken_rules_stand_with_counts_examples_and_what_to_do(gold, tmp_path):
    frame = gold.with_row_index("n").with_columns(
        novelty=pl.when(pl.col("n") < 3).then(pl.lit(7.0)).otherwise("novelty"),
        magnitude=pl.when(pl.col("n") >= 0).then(pl.col("magnitude")),
    )
    found, _, page = page_of(frame.drop("n"), tmp_path)
    assert "not from 0 to 1; rescale or correct it" in page.text
    assert "row 1 : 7.0" in page.text or "row 1: 7.0" in page.text
    assert "rejected.jsonl" in page.text
    assert "✗" in page.text and "Fail" in page.text
    assert found.rejected_path.parent == found.page_path.parent


def test_a_check_that_failed_says_what_to_do(gold, tmp_path):
    found, _, page = page_of(gold.filter((pl.col("relevance") > 0.1) | pl.col("relevance").is_null()), tmp_path)
    failed = next(one for one in found.audit if one.name == "noise fraction (at least)")
    assert failed.verdict is Verdict.FAIL
    assert f"To do: {failed.fix}" in page.text
    assert page.text.index("noise fraction (at least)") < page.text.index("shortest trace"), "failed checks come first"


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_few_or_no_rows_still_make_a_page(gold, tmp_path, rows):
    found, _, page = page_of(gold.head(rows), tmp_path)
    assert found.verdict is Verdict.FAIL
    assert page.open == []
    assert ("nothing is drawn" in page.text) == (rows == 0)


def test_the_page_stays_small_whatever_the_file_holds(gold, tmp_path):
    """More batches with long names and more undeclared columns with long values than are shown, long wrong cells."""
    frame = pl.concat([gold] * 2).with_row_index("n")
    frame = frame.with_columns(
        source_batch=pl.format("batch {} {}", "n", pl.lit("long " * 200)),
        information_type=pl.when(pl.col("n") % 2 == 0).then(pl.lit("gossip " * 500)).otherwise("information_type"),
        headline=pl.format("{} {}", "headline", "n"),
        trace=pl.when(pl.col("n") == 7).then(pl.lit("A word and a word. " * 9_000)).otherwise("trace"),
    )
    frame = frame.drop("n").with_columns(
        pl.lit("wrong " * 100).alias(f"undeclared {n} " * 8) for n in range(SHOWN_RULES + 20)
    )
    found, text, page = page_of(frame, tmp_path)
    assert len(found.findings.broken) > SHOWN_RULES + 20
    assert len(text.encode()) < 300_000
    assert "more rules" in page.text
    accepted = gold.with_columns(source_batch=pl.format("batch {}", pl.int_range(pl.len())))
    found, text, page = page_of(accepted, tmp_path)
    assert len(found.distributions.chars_by_batch) == 41
    assert f"The largest {SHOWN_BATCHES}; {41 - SHOWN_BATCHES} more are not drawn" in page.text
    assert "other batches" in page.text


def test_distributions_in_parts_are_those_of_the_whole(gold, limits):
    from data_contracts.audit.audit import view_of

    whole, parts = Distributions("signals"), Distributions("signals")
    view = view_of(gold, limits)
    whole.add(gold, view)
    for first in range(0, gold.height, 10):
        parts.add(gold[first : first + 10], view[first : first + 10])
    assert parts.numbers == whole.numbers and parts.names == whole.names and parts.moves == whole.moves
    assert parts.chars_by_class == whole.chars_by_class and parts.chars_by_batch == whole.chars_by_batch
    lengths = gold["trace"].str.len_chars() // 10
    assert sum(one.total() for one in whole.chars_by_class.values()) == gold.height
    assert sum((one for one in whole.chars_by_batch.values()), Counter()) == Counter(lengths.to_list())
    assert whole.chars_by_class["malformed"].total() == gold["error_code"].is_not_null().sum()
    assert whole.names["information_type"] == Counter(gold["information_type"].drop_nulls().to_list())


def test_a_number_falls_into_its_bin():
    spread = NumberSpread(0, 1)
    spread.add(pl.Series([0.0, 0.3, 0.35, 1.0, None, 0.05]))
    expected = [0] * NUMBER_BINS
    for place in (0, 6, 7, 19, 1):
        expected[place] += 1
    assert (spread.counts, spread.smallest, spread.largest) == (expected, 0.0, 1.0)
    spread.add(pl.Series([], dtype=pl.Float64))
    assert spread.counts == expected


@pytest.mark.parametrize(("low", "high"), [(700, 1_000), (0, 100_010), (10, 20), (120, 360)])
def test_axis_ticks_are_few_and_round(low, high):
    ticks = _round_steps(low, high)
    assert 1 <= len(ticks) <= 9
    assert all(low <= one <= high and one % 10 == 0 for one in ticks)
