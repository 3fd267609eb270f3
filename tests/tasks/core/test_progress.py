"""A beat as a line: what is done, of how much, how fast, and when it ends; also where the total says nothing."""

from __future__ import annotations

import time

import pytest

from tasks.core.progress import Rate, duration, file_growth, named, progress_line, summed

PROBE = {"doing": "forgetting probe, base model", "unit": "tokens", "at_most": True}


@pytest.mark.parametrize(
    ("beat", "per_s", "line"),
    [
        (
            (3120, 24576, PROBE),
            52.0,
            "forgetting probe, base model: 3,120 of at most 24,576 tokens, 52.0/s, at most 6 min 53 s left",
        ),
        ((3120, 24576, PROBE), 0.0, "forgetting probe, base model: 3,120 of at most 24,576 tokens"),
        ((3, 12, {"unit": "steps", "loss": 1.25}), 0.5, "3 of 12 steps, 0.5/s, 18 s left, loss 1.25"),
        ((0, 0, {}), 0.0, "0"),
        ((7, 0, {"unit": "bytes"}), 2.0, "7 bytes, 2.0/s"),
        ((12, 9, {"unit": "tokens", "at_most": True}), 3.0, "12 of at most 9 tokens, 3.0/s"),
        ((9, 9, {}), 3.0, "9 of 9, 3.0/s"),
        ((6, 12, {"tokens_per_s": 81.5, "left_s": 90}), 3.0, "6 of 12, tokens_per_s 81.5, 1 min 30 s left"),
    ],
)
def test_a_beat_is_shown_in_words(beat, per_s, line):
    assert progress_line(*beat, per_s) == line


def test_durations_are_read_at_a_glance():
    assert [duration(s) for s in (0, 59.4, 59.6, 3599, 11100)] == [
        "0 s",
        "59 s",
        "1 min 00 s",
        "59 min 59 s",
        "3 h 05 min",
    ]


def test_a_rate_begins_with_its_label_and_anew_when_the_count_falls():
    rate = Rate()
    assert rate.note(10.0, 684, {}) == (0.0, 0), "what a resume brings is no speed"
    assert rate.note(12.0, 690, {}) == (2.0, 6)
    assert rate.note(13.0, 700, {"doing": "other"}) == (0.0, 0)
    assert rate.note(14.0, 1, {"doing": "other"}) == (0.0, 0)


def test_counts_side_by_side_are_one_count_that_never_falls():
    seen = []
    together = summed(lambda *beat: seen.append(beat), "answers of two")
    first, second = named(together, "one"), named(together, "two")
    for tokens in (1, 2, 3):
        first(tokens, 10, {"unit": "tokens"})
        second(tokens, 20, {"unit": "tokens"})
    assert [done for done, *_ in seen] == [1, 2, 3, 4, 5, 6]
    assert seen[-1] == (6, 30, {"unit": "tokens", "doing": "answers of two"})


def test_the_files_of_a_folder_are_said_together_while_one_grows(tmp_path):
    sizes = []
    (tmp_path / "part" / "deep").mkdir(parents=True)
    (tmp_path / "config.json").write_bytes(b"x" * 7)
    with file_growth(tmp_path, sizes.append, every_s=0.02):
        for done in (100, 200, 300):
            (tmp_path / "part" / "deep" / "shard.incomplete").write_bytes(b"x" * done)
            time.sleep(0.2)
    assert sizes == sorted(set(sizes)) and {107, 207, 307} <= set(sizes)


def test_a_file_is_said_while_it_grows_and_not_when_it_stands_still(tmp_path):
    sizes = []
    with file_growth(tmp_path / "out", sizes.append, every_s=0.02), (tmp_path / "out").open("wb", buffering=0) as file:
        time.sleep(0.2)
        for _ in range(3):
            file.write(b"x" * 100)
            time.sleep(0.2)
        said = len(sizes)
        time.sleep(0.3)
        assert len(sizes) == said
    assert sizes == sorted(set(sizes)) and {100, 200, 300} <= set(sizes)
