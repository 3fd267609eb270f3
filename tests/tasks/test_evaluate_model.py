"""evaluate_model: the evaluation itself is checked; gates fail where they must; unscored is not zero."""

from __future__ import annotations

import hashlib
import json

import pytest

from data_contracts.gates import load_gates
from data_contracts.verdict import Verdict, failures, overall
from tasks.core.stage import Job
from tasks.evaluate_model import EvaluateConfig, _judge, verify_evaluation
from tasks.evaluation.gating import beside_teacher, gates_that_can_tell
from tasks.evaluation.local_models import Answers
from tasks.evaluation.survey import Survey
from tasks.formats.jsonl import read_lines
from tasks.measures.bootstrap import difference_interval, score_of
from tasks.recipes.signals import recipe as signals

MODELS = ("ceiling", "base", "adapter", "merged", "f16")
DIGESTS = {"base": "b" * 64, "adapter": "a" * 64, "merged": "m" * 64}


@pytest.fixture
def job(tmp_path):
    """An evaluation that is sound: five models, twelve rows, every digest right."""
    rows, gguf, out = (tmp_path / name for name in ("rows", "gguf", "out"))
    for folder in (rows, gguf, out):
        folder.mkdir()
    heldout = signals.build_rows("nano", 1, 12, 0)[1]
    (rows / "heldout.jsonl").write_text("".join(json.dumps(row) + "\n" for row in heldout))
    (gguf / "model-f16.gguf").write_bytes(b"GGUF")
    digests = {**DIGESTS, "ceiling": None, "f16": hashlib.sha256(b"GGUF").hexdigest()}
    scores = {"valid_json_fraction": {"value": 1.0, "low": 1.0, "high": 1.0, "n": 12}}
    board = [{"model": name, "file_digest": digests[name], "scores": scores} for name in MODELS]
    gates = [one.model_dump(mode="json") for one in judge_of(heldout)]
    write(out / "scores.json", board)
    write(out / "verdict.json", {"merged": gates, "f16": gates})
    mine = {name: {"valid_json_fraction": 1.0} for name in MODELS}
    asked = heldout + signals.reference_rows()
    lines = [{"row": row, "answers": dict.fromkeys(MODELS, "x"), "scores": mine} for row in asked]
    (out / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Job("signals", out, {"rows": rows, "gguf": gguf}, digests=DIGESTS)


def write(path, value) -> None:
    path.write_text(json.dumps(value))


def judge_of(rows, texts=None, base=None, again=None):
    """The gates of one model that answers `texts` (the labels unless given) beside a base."""

    def scored(answers):
        per_row = [signals.score(row, signals.parse_output(text)) for row, text in zip(rows, answers, strict=True)]
        return {name: [one[name] for one in per_row] for name in per_row[0]}

    right = [signals.completion(row) for row in rows]
    texts = right if texts is None else texts
    scores = {"f16": scored(texts), "base": scored(base or ["nothing"] * len(rows)), "merged": scored(right)}
    again = texts[:32] if again is None else again
    one = Answers("f16", texts, again)
    return _judge(one, scores, load_gates("signals"), Survey.of(signals, rows, 0).noise_floor(one))


def names_of(job: Job) -> str:
    return "; ".join(one.name for one in failures(verify_evaluation(EvaluateConfig(), job)))


def test_a_sound_evaluation_passes(job):
    assert names_of(job) == ""


@pytest.mark.parametrize(
    ("file", "change", "caught"),
    [
        ("scores.json", lambda b: [{**b[0]}, *[{**r, "file_digest": "0" * 64} for r in b[1:]]], "digest"),
        (
            "scores.json",
            lambda b: [{**b[0], "scores": {"valid_json_fraction": {"value": 0.9}}}, *b[1:]],
            "ceiling",
        ),
        ("verdict.json", lambda v: {"merged": v["merged"]}, "no gate judged"),
    ],
)
def test_damage_is_caught(job, file, change, caught):
    path = job.out / file
    write(path, change(json.loads(path.read_text())))
    assert caught in names_of(job)


def test_a_row_that_one_model_did_not_answer_is_caught(job):
    path = job.out / "answers.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    del lines[3]["answers"]["f16"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "answered once" in names_of(job)


def test_a_score_that_its_rows_do_not_give_is_caught(job):
    path = job.out / "answers.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[3]["scores"]["f16"] = {"valid_json_fraction": 0.0}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (told,) = failures(verify_evaluation(EvaluateConfig(), job))
    assert "mean of their rows" in told.name and told.detail == "f16 valid_json_fraction"


def test_a_gguf_that_changed_after_it_was_scored_is_caught(job):
    (job.inputs["gguf"] / "model-f16.gguf").write_bytes(b"GGUG")
    assert "digest" in names_of(job)


@pytest.fixture(scope="module")
def rows():
    return signals.build_rows("nano", 1, 210, 0)[1]


def test_right_answers_pass_every_gate(rows):
    assert overall(judge_of(rows)) is Verdict.PASS


def test_malformed_inputs_must_be_refused_and_good_ones_must_not(rows):
    malformed = [row for row in signals.build_rows("gold", 1, 51, 0)[1] if signals.malformed(row)] * 5
    mixed = [*rows, *malformed]
    assert len(malformed) >= 30 and overall(judge_of(mixed)) is Verdict.PASS
    right = [signals.completion(row) for row in mixed]
    assessed = [*right[: len(rows)], *(right[0] for _ in malformed)]
    assert {one.name for one in failures(judge_of(mixed, assessed))} == {"error_schema_fraction"}
    one_in_ten = [right[-1] if i % 10 == 0 else text for i, text in enumerate(right)]
    assert "refused_good_input_fraction" in {one.name for one in failures(judge_of(mixed, one_in_ten))}
    told = {one.name: one.measured for one in judge_of(rows)}
    assert told["error_schema_fraction"] == "not asked"
    few = {one.name: one for one in failures(judge_of([*rows, *malformed[:7]]))}
    assert few.keys() == {"error_schema_fraction"}
    assert few["error_schema_fraction"].verdict is Verdict.CANNOT_TELL


def test_gates_that_rows_are_too_few_for_are_told_before_any_model_is(rows):
    gates = load_gates("signals")
    assert gates_that_can_tell(gates, signals, rows).sentence() == "gates that the held-out rows can tell: 4 of 4."
    few = gates_that_can_tell(gates, signals, [row for row in rows if not signals.disagrees(row)] * 3)
    assert few.measured == "3 of 4" and "disagreeing_sign_accuracy_fraction: 0 of 30" in few.detail
    assert gates_that_can_tell(gates, signals, rows[:51]).measured == "0 of 4"


def test_a_sign_that_only_a_few_rows_can_show_cannot_be_told(rows):
    """Two hundred rows, of which 29 show the flip: all 29 right prove nothing yet."""
    showing = [row for row in rows if signals.disagrees(row)]
    few = [*(row for row in rows if not signals.disagrees(row)), *showing[:29]]
    few += few[: 210 - len(few)]
    (found,) = (one for one in judge_of(few) if one.name == "disagreeing_sign_accuracy_fraction")
    assert len(few) >= 200 and (found.verdict, found.measured) == (Verdict.CANNOT_TELL, 1.0)
    assert "29 held-out rows speak of it; 30 are needed" in found.detail


def test_the_sign_flip_fails_its_gate(rows):
    flipped = [
        signals.completion({**row, "direction": abs(row["direction"]) * row["metric_direction"]}) for row in rows
    ]
    failed = {one.name for one in failures(judge_of(rows, flipped))}
    assert "disagreeing_sign_accuracy_fraction" in failed
    assert "quantised_sign_accuracy_drop_fraction" not in failed  # it is compared with itself here


def test_a_model_equal_to_its_base_is_not_better(rows):
    right = [signals.completion(row) for row in rows]
    failed = {one.name for one in failures(judge_of(rows, right, base=right))}
    assert failed == {"tuned_over_base_sign_accuracy_lower_bound"}


def test_a_gain_within_the_noise_of_asking_again_is_no_gain(rows):
    """A tenth of the signs was wrong in the base; when asked again, the tuned model changes a quarter of its own."""

    def flip(row):
        return signals.completion({**row, "direction": -row["direction"]})

    right = [signals.completion(row) for row in rows]
    base = [flip(row) if i % 10 == 0 else text for i, (row, text) in enumerate(zip(rows, right, strict=True))]
    again = [flip(row) if i % 4 == 0 else text for i, (row, text) in enumerate(zip(rows, right, strict=True))][:64]
    name = "tuned_over_base_sign_accuracy_lower_bound"
    assert name not in {one.name for one in failures(judge_of(rows, right, base=base))}
    assert name in {one.name for one in failures(judge_of(rows, right, base=base, again=again))}
    untold = {one.name: one.verdict for one in judge_of(rows, right, base=base, again=[])}
    assert untold[name] is Verdict.CANNOT_TELL


def test_a_leaked_channel_marker_fails(rows):
    leaked = [f"final{signals.completion(row)}" if i == 7 else signals.completion(row) for i, row in enumerate(rows)]
    leaked[8] = "<|channel|>analysis" + leaked[8]
    assert "answers with a leaked chat or channel marker" in {one.name for one in failures(judge_of(rows, leaked))}


def test_too_few_rows_cannot_tell(rows):
    assert overall(judge_of(rows[:50])) is not Verdict.PASS


def test_answers_of_any_characters_are_written_and_read_back(rows, tmp_path):
    """A line separator of Unicode ends no line, and half a surrogate pair, which an endpoint may send, ends no run."""
    texts = ["one\u2028two\x85three", "half \ud83d of a pair", *(["nothing"] * 10)]
    survey = Survey.of(signals, rows[:3], 0)
    survey.write_answers(tmp_path, [Answers("f16", texts[: len(survey.asked)])])
    read = read_lines(tmp_path / "answers.jsonl")
    assert [line["answers"]["f16"] for line in read] == texts[: len(survey.asked)]
    assert [line["scores"]["f16"]["valid_json_fraction"] for line in read][:3] == [0.0] * 3


def test_no_row_that_says_something_is_unscored_not_zero():
    assert score_of([None, None], 0.95) == {"value": None, "low": None, "high": None, "n": 0}
    assert difference_interval([None], [1.0], 0.95) is None


def test_intervals_hold_the_mean_and_shrink_with_rows():
    few, many = (score_of([0.0, 1.0] * n, 0.95) for n in (10, 1000))
    assert few["low"] < many["low"] < 0.5 < many["high"] < few["high"]
    assert difference_interval([1.0] * 50, [0.0] * 50, 0.95) == (1.0, 1.0, 1.0)


def below(mine, teacher, *, rows_needed=1, best="highest"):
    """The check of a student beside its teacher, in a recipe that ranks by `x`."""
    gates = load_gates("signals")
    ranking = [gates.ranking[0].model_copy(update={"metric": "x", "best": best})]
    return beside_teacher(
        {"x": mine},
        {"x": teacher},
        gates.model_copy(update={"ranking": ranking, "min_heldout_rows": rows_needed}),
        0.05,
    )


@pytest.mark.parametrize(
    ("wrong", "verdict"), [(0, Verdict.PASS), (5, Verdict.PASS), (6, Verdict.FAIL), (100, Verdict.FAIL)]
)
def test_a_student_stays_within_five_points_of_its_teacher(wrong, verdict):
    found = below([0.0] * wrong + [1.0] * (100 - wrong), [1.0] * 100)
    assert found.verdict is verdict and found.measured == wrong / 100


def test_a_student_above_its_teacher_passes_and_says_so():
    assert below([1.0] * 10, [0.0] * 10).measured == -1.0


def test_where_less_is_better_the_teacher_is_the_lower_one():
    assert below([0.1] * 10, [0.0] * 10, best="lowest").verdict is Verdict.FAIL
    assert below([0.0] * 10, [0.1] * 10, best="lowest").verdict is Verdict.PASS


def test_beside_a_teacher_few_rows_or_no_ranking_cannot_tell():
    assert below([1.0] * 10, [1.0] * 10, rows_needed=11).verdict is Verdict.CANNOT_TELL
    gates = load_gates("signals").model_copy(update={"ranking": []})
    assert beside_teacher({"x": [1.0]}, {"x": [1.0]}, gates, 0.05).verdict is Verdict.CANNOT_TELL


def test_a_teacher_is_a_yardstick_whose_files_are_held_to_their_digest(job):
    """It is on the board, nothing judges it, and a board that names another file of it is refused."""
    board = json.loads((job.out / "scores.json").read_text())
    board.insert(1, {**board[1], "model": "teacher", "file_digest": "t" * 64})
    write(job.out / "scores.json", board)
    lines = [json.loads(line) for line in (job.out / "answers.jsonl").read_text().splitlines()]
    for line in lines:
        line["answers"]["teacher"], line["scores"]["teacher"] = "x", line["scores"]["base"]
    (job.out / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    job.digests = {**DIGESTS, "teacher": "t" * 64}
    assert not failures(verify_evaluation(EvaluateConfig(), job))
    job.digests = {**DIGESTS, "teacher": "u" * 64}
    (bad,) = failures(verify_evaluation(EvaluateConfig(), job))
    assert bad.name == "scored files whose digest is not the one listed" and bad.detail == "teacher"
