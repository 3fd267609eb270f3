"""Traces beside their answers, and what a table covers: the hand-checked rows pass, each sabotage fails by row."""

import polars as pl
import pytest

from data_contracts.audit.audit import audit_rows
from data_contracts.audit.consistency import trace_agrees
from data_contracts.audit.coverage import coverage, spread_of_labels
from data_contracts.limits import load_limits
from data_contracts.rows.rows_file import read_rows
from data_contracts.signals.conclusions import concluded
from data_contracts.signals.rows import audited
from data_contracts.verdict import Verdict, failures, overall
from tasks.recipes.signals.nano_rows import nano_rows

DECIDED = "fraction of traces whose words decide a sign"
SIGN = "fraction of traces that contradict the answer's sign"
SIZE = "fraction of traces that contradict the answer's size"


@pytest.fixture
def view(gold):
    return audited(gold)


def by_name(checks):
    return {one.name: one for one in checks}


@pytest.mark.parametrize(
    ("trace", "sign"),
    [
        ("The chance of YES rises.", 1),
        ("The chance of YES falls. The month does not change the reading.", -1),
        ("The chance of YES stays.", 0),
        ("YES leaps from 14% to 73%.", 1),
        ("Therefore YES gives up a little, perhaps four points.", -1),
        ("I take the probability from 46.5% down to 37%.", -1),
        ("Progress for the merger is therefore bad for YES.", -1),
        ("YES is neither helped nor hurt by the ruling.", 0),
        ("If tariffs came off, YES rises.", None),
        ("YES would have lost ground on it.", None),
        ("YES does not rise on this.", None),
        ("Inflation moves from 3% to 2%. The odds are unclear.", None),
        ("YES rises at first. In the end YES falls.", None),
        ("Rates went up.", None),
        ("If it had failed, YES would have dropped from 60% to 20%.", None),
        ("YES did not move from 40% to 20% as feared.", None),
        ("YES drops from 60% to 20% should the vote fail.", None),
        ("Had it failed, I would go from 60% to 20%.", None),
        ("The question is whether YES rises.", None),
        ("If it had failed, YES would have dropped from 60% to 20%. As it is, YES climbs from 60% to 72%.", 1),
        ("I would move from 58% to 50%.", -1),
        ("I go from 21% to 42%, a large step that one good game could undo.", 1),
    ],
)
def test_words_decide_a_sign_or_nothing(trace, sign):
    assert concluded(pl.Series([trace]))["sign"].to_list() == [sign]


@pytest.mark.parametrize(
    ("trace", "low", "high"),
    [
        ("YES leaps from 14% to 73%.", 0.54, 0.64),
        ("YES is as good as settled.", 0.3, 1.0),
        ("YES edges up, and no more.", 0.0, 0.15),
        ("The chance of YES rises.", None, None),
        ("If it had failed, YES would have dropped from 60% to 20%. YES climbs from 60% to 72%.", 0.07, 0.17),
        ("If talks fail, YES collapses. For now YES gains.", None, None),
        ("That is not a large step.", None, None),
        ("I go from 21% to 42%, a large step that one good game could undo.", 0.16, 0.26),
        ("It is a moderate step and no more.", 0.0, 0.25),
    ],
)
def test_words_decide_a_size_or_nothing(trace, low, high):
    found = concluded(pl.Series([trace]))
    assert found["size_from"][0] == pytest.approx(low)
    assert found["size_to"][0] == pytest.approx(high)


@pytest.mark.parametrize("name", ["gold", "heldout"])
def test_no_hand_checked_row_contradicts_itself(examples, limits, name):
    view = audited(read_rows(examples / f"{name}.jsonl"))
    checks = trace_agrees(view, limits) + coverage(view, limits)
    assert not failures(checks), "\n".join(one.sentence() for one in failures(checks))


def test_a_supposed_move_refuses_no_sound_row(gold, limits):
    """The trace concludes a rise, and says in passing what a failure would have done."""
    told = "Had the talks failed, YES would have dropped from 60% to 20%. As it is, it has a better day."
    row = (gold["direction"].fill_null(0) > 0).arg_true()[0]
    sound = pl.when(pl.int_range(pl.len()) == row).then(pl.lit(told)).otherwise("trace")
    checks = trace_agrees(audited(gold.with_columns(trace=sound)), limits)
    assert by_name(checks)[SIGN].verdict is Verdict.PASS, by_name(checks)[SIGN].sentence()


def test_the_reference_rows_do_not_either(examples, limits):
    view = audited(read_rows(examples / "reference.jsonl"))
    assert Verdict.FAIL not in {one.verdict for one in trace_agrees(view, limits)[1:]}


@pytest.mark.parametrize("part", [0, 1])
def test_nano_rows_agree_and_one_turned_sign_is_found(part):
    frame = pl.DataFrame(nano_rows(192, 210, 42)[part], infer_schema_length=None)
    nano = load_limits("signals", "nano")
    checks = trace_agrees(audited(frame), nano) + coverage(audited(frame), nano)
    assert not failures(checks), "\n".join(one.sentence() for one in failures(checks))
    row = frame["direction"].abs().arg_max()
    turned = pl.when(pl.int_range(pl.len()) == row).then(-pl.col("direction")).otherwise("direction")
    found = by_name(trace_agrees(audited(frame.with_columns(direction=turned)), nano))[SIGN]
    assert found.verdict is Verdict.FAIL
    assert f"row {row + 1} concludes" in found.detail


def test_a_tenth_of_the_signs_turned_is_refused_with_row_numbers(gold, limits):
    """Every tenth row that has a direction."""
    signal = pl.col("direction").fill_null(0) != 0
    tenth = signal & (signal.cast(pl.Int32).cum_sum() % 10 == 3)
    turned = gold.with_columns(direction=pl.when(tenth).then(-pl.col("direction")).otherwise("direction"))
    rows = set((gold.select(tenth).to_series().arg_true() + 1).to_list())
    assert len(rows) == 6
    found = by_name(trace_agrees(audited(turned), limits))[SIGN]
    assert found.verdict is Verdict.FAIL
    named = {int(part.split()[1]) for part in found.detail.split(": ")[1].split("; ") if part.startswith("row")}
    assert named
    assert named <= rows
    assert "Read these rows" in found.sentence()


def test_a_size_that_the_trace_denies_is_refused(gold, limits):
    wrong = pl.when(pl.col("magnitude") >= 0.4).then(pl.lit(0.05)).otherwise("magnitude")
    found = by_name(trace_agrees(audited(gold.with_columns(magnitude=wrong)), limits))[SIZE]
    assert found.verdict is Verdict.FAIL
    assert "answers 0.05" in found.detail


def test_overconfident_sizes_of_the_story_are_refused(gold, limits):
    """2 to 4 times too large."""
    found = by_name(trace_agrees(audited(gold.with_columns(magnitude=(pl.col("magnitude") * 3).clip(0, 1))), limits))
    assert found[SIZE].verdict is Verdict.FAIL
    assert found[SIZE].measured > 0.3


def test_words_that_decide_nothing_cannot_be_told(view, limits):
    mute = trace_agrees(view.with_columns(trace=pl.lit("Much can be said of it.")), limits)
    assert {one.verdict for one in mute} == {Verdict.CANNOT_TELL}
    assert {one.verdict for one in trace_agrees(view.head(0), limits)} == {Verdict.CANNOT_TELL}


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (lambda rows: rows.filter(pl.col("kind").ne_missing("opinion")), "share of the rarest kind of information"),
        (lambda rows: rows.filter(~(pl.col("size") <= 0.1) | pl.col("noise")), "share of small updates"),
        (lambda rows: rows.filter(~(pl.col("size") >= 0.4)), "share of large updates"),
        (
            lambda rows: rows.filter((pl.col("sign") != -pl.col("metric_sign")) | (pl.col("sign") == 0)),
            "rows in which metric and YES move apart",
        ),
    ],
)
def test_each_missing_case_fails_by_name(view, limits, spoil, name):
    found = by_name(coverage(spoil(view), limits))
    assert found[name].verdict is Verdict.FAIL
    kinds = "share of the rarest kind of information"  # opinions are small updates only: without these they go too
    assert {one.name for one in failures(found.values())} <= {name, kinds}


def test_malformed_rows_are_counted_and_can_be_asked_for(view, limits):
    asked = limits.model_copy(update={"min_malformed_rows": 8})
    assert overall(coverage(view, asked)) is Verdict.PASS
    failed = failures(coverage(view.filter(~pl.col("malformed")), asked))
    assert [one.name for one in failed] == ["malformed rows"]


def test_an_empty_table_covers_nothing(view, limits):
    assert Verdict.PASS not in {one.verdict for one in coverage(view.head(0), limits) if one.comparison != "report"}


@pytest.mark.parametrize("label", ["relevance", "direction", "magnitude", "source_credibility", "novelty"])
def test_a_label_that_hardly_varies_fails_by_name(view, limits, label):
    name = f"share of the most frequent value of {label}"
    assert by_name(spread_of_labels(view, limits))[name].verdict is Verdict.PASS
    for share in (1.0, 0.5):
        mask = pl.int_range(pl.len()) < share * pl.len()
        spoilt = view.with_columns(pl.when(mask).then(pl.lit(0.5)).otherwise(f"label_{label}").alias(f"label_{label}"))
        found = by_name(spread_of_labels(spoilt, limits))
        assert [one.name for one in failures(found.values())] == [name]
        assert found[name].verdict is Verdict.FAIL and "signal rows have 0.5" in found[name].detail
    told = spread_of_labels(view.head(0), limits)
    assert {one.verdict for one in told} == {Verdict.CANNOT_TELL} and len(told) == 5


def test_the_spread_of_labels_is_part_of_the_audit(gold, limits):
    bad = failures(audit_rows(gold.with_columns(novelty=pl.when(pl.col("error_code").is_null()).then(0.5)), limits))
    assert "share of the most frequent value of novelty" in {one.name for one in bad}
