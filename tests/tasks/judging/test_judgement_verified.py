"""The verification of a judgement: each thing that it guards is broken once, on disk or in the code, and is caught."""

from __future__ import annotations

import json

import pytest

from data_contracts.verdict import failures
from tasks.core.errors import ArtifactError
from tasks.core.stage_process import execute
from tasks.judge_answers import STAGE, JudgeConfig, judge_answers, verify_judgement
from tasks.judging.verdicts import Questions
from tests.fixtures import judge_panel as world
from tests.fixtures.chat_server import ChatServer, Reply

ANSWERS = {name: [world.letter(name, n, q) for n in range(4)] for name, q in (("student", 4), ("base", 2))}


@pytest.fixture
def made(tmp_path, monkeypatch):
    """(settings, job) of a sound judgement: two judges, one of which once said nothing of use."""
    world.use_letters(monkeypatch)
    with ChatServer(world.taste()) as one, ChatServer(world.taste()) as other:
        other.script("part 1", Reply("no idea"))
        judges = [
            {"name": name, "family": name, "base_url": server.url, "model": "m", "retries": 0}
            for name, server in (("gpt", one), ("qwen", other))
        ]
        settings = JudgeConfig(judges=judges, compared_pairs=2)
        job = world.job(tmp_path, direct=world.evaluation(tmp_path / "ev", ANSWERS))
        judge_answers(settings, job)
        yield settings, job


def caught(made) -> str:
    return "; ".join(one.name for one in failures(verify_judgement(*made)))


def edit_lines(job, change) -> None:
    path = job.out / "verdicts.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in change(lines)))


def first(lines, **wanted) -> dict:
    return next(one for one in lines if wanted.items() <= one.items())


def test_a_sound_judgement_passes(made):
    assert caught(made) == ""


def raised(lines):
    one = first(lines, kind="answer", judge="gpt")
    one["levels"] = dict.fromkeys(world.CRITERIA, 5 if one["levels"]["integrity"] != 5 else 1)
    return lines


def made_up(lines):
    one = first(lines, kind="answer", judge="qwen", levels=None)
    return [
        line if line is not one else {**line, "levels": dict.fromkeys(world.CRITERIA, 1), "unscored": ""}
        for line in lines
    ]


def silenced(lines):
    one = first(lines, kind="answer", judge="gpt")
    one |= {"levels": None, "unscored": "no verdict: it did not suit"}
    return lines


def scored_by_a_stranger(lines):
    first(lines, kind="answer", judge="gpt")["judge"] = "stranger"
    return lines


def with_field(**values):
    def change(lines):
        first(lines, kind="answer", judge="qwen", levels=None).update(values)
        return lines

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (raised, "do not follow from the judge's own words"),
        (made_up, "do not follow from the judge's own words"),
        (silenced, "do not follow from the judge's own words"),
        (with_field(unscored=""), "unscored without a reason"),
        (with_field(levels={"integrity": 90}), "levels off the rubric"),
        (with_field(asked="0" * 64), "beyond those of rubric, task and answer"),
        (with_field(judge="stranger"), "judges that are not on the panel"),
        (scored_by_a_stranger, "judges that are not on the panel"),
        (lambda lines: lines[1:], "never asked"),
        (lambda lines: [*lines, lines[0]], "beyond those of rubric, task and answer"),
    ],
)
def test_verdicts_that_were_changed_are_caught(made, change, told):
    edit_lines(made[1], change)
    assert told in caught(made)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda board: board["rows"][0]["final"].update(value=99.0), "the formula does not give"),
        (lambda board: board["rows"][0]["final"].update(value=99.0), "board computed again"),
        (lambda board: board["rows"][1].update(rank=1), "board computed again"),
        (
            lambda board: board["findings"].append({"kind": "above", "sentence": "x", "models": []}),
            "board computed again",
        ),
        (lambda board: board["rows"].pop(), "models on the board"),
    ],
)
def test_a_board_that_was_changed_is_caught(made, change, told):
    path = made[1].out / "judgement.json"
    board = json.loads(path.read_text())
    change(board)
    path.write_text(json.dumps(board))
    assert told in caught(made)


def test_a_page_or_picture_that_is_none_is_caught(made):
    out = made[1].out
    page = (out / "answers.html").read_text()
    (out / "answers.html").write_text(
        page.replace('class="sample"', 'class="other"', 1) + '<img src="https://x/y.png">'
    )
    (out / "judgement.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    found = caught(made)
    assert all(name in found for name in ("prompts on the page", "asks a server for", "is a picture"))


def test_a_style_that_asks_a_server_is_caught(made):
    path = made[1].out / "answers.html"
    path.write_text(path.read_text().replace("</style>", "@import 'https://x/y.css';</style>", 1))
    assert "asks a server for" in caught(made)


def test_a_name_that_slips_into_a_question_is_caught(made, tmp_path, monkeypatch):
    """Sabotage: the question names the model. Only what is asked changes, not what is checked."""
    settings, job = made
    honest = Questions.of

    def named(self, task, answer):
        system, user = honest(self, task, answer)
        who = "student" if "words" in answer else "base"
        return system, {**user, "content": f"{user['content']}\nThis is the answer of {who}."}

    again = world.job(tmp_path, direct=job.inputs["direct"])
    with monkeypatch.context() as patch:
        patch.setattr(Questions, "of", named)
        judge_answers(settings, again)
    assert "beyond those of rubric, task and answer" in caught((settings, again))


def test_a_stage_whose_verification_fails_publishes_nothing(made, tmp_path, monkeypatch):
    settings, job = made
    from tasks import judge_answers as module

    monkeypatch.setattr(module, "render_answers", lambda *_: "<html></html>")
    with pytest.raises(ArtifactError, match="prompts on the page of answers: 0"):
        execute(STAGE, settings, world.job(tmp_path, direct=job.inputs["direct"]))
