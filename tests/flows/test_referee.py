"""The referee: gates first, then what the panel agrees on, then rows beyond the noise; where nothing tells, the simpler one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from data_contracts.verdict import check
from flows import referee
from tasks.recipes.proofkit import recipe as proofkit

SERVED = "q8_0"


@pytest.fixture
def folders(tmp_path):
    """Two evaluations over the same twelve rows, in which both students answer everything as the rows have it."""
    rows = proofkit.build_rows("nano", 7, 12, 1)[1] + proofkit.reference_rows()
    for name in referee.STUDENTS:
        (tmp_path / name).mkdir()
        write(tmp_path / name, [(row, proofkit.completion(row)) for row in rows])
    return {name: tmp_path / name for name in referee.STUDENTS}


def write(folder, answered, noise: float | None = 0.0) -> None:
    scored = [proofkit.score(row, proofkit.parse_output(text, row)) for row, text in answered]
    lines = [
        json.dumps({"row": row, "answers": {SERVED: text}, "scores": {SERVED: scores}})
        for (row, text), scores in zip(answered, scored, strict=True)
    ]
    (folder / "answers.jsonl").write_text("\n".join(lines) + "\n")
    floor = {} if noise is None else {"gate_pass_fraction": noise}
    (folder / "scores.json").write_text(json.dumps([{"model": SERVED, "noise_floor": floor}]))


def spoil(folder, rows: int, noise: float | None = 0.0) -> None:
    """Make the first answers useless; the reference rows, which stand last, are no held-out rows and never count."""
    lines = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    answered = [(one["row"], "no" if i < rows else one["answers"][SERVED]) for i, one in enumerate(lines)]
    write(folder, answered, noise)


def test_where_nothing_tells_them_apart_the_simpler_one_is_released(folders):
    student, why = referee.by_rows("proofkit", folders, SERVED)
    assert student == "direct" and "no difference beyond the noise" in why


@pytest.mark.parametrize(("spoiled", "released"), [("direct", "distilled"), ("distilled", "direct")])
def test_the_better_one_by_rows_is_released_with_its_number(folders, spoiled, released):
    spoil(folders[spoiled], 8)
    student, why = referee.by_rows("proofkit", folders, SERVED)
    assert student == released and "gate_pass_fraction of q8_0, distilled minus direct" in why


def test_a_difference_within_the_noise_floor_is_none(folders):
    spoil(folders["direct"], 8, noise=0.9)
    assert referee.by_rows("proofkit", folders, SERVED)[0] == "direct"


def test_without_a_noise_floor_no_student_is_called_better(folders):
    spoil(folders["direct"], 8, noise=None)
    assert referee.by_rows("proofkit", folders, SERVED)[0] == "direct"


def test_reference_rows_do_not_count(folders):
    lines = (folders["direct"] / "answers.jsonl").read_text().splitlines()
    kept = [json.loads(line) for line in lines]
    write(folders["direct"], [(one["row"], one["answers"][SERVED] if i < 12 else "no") for i, one in enumerate(kept)])
    assert "+0.0000" in referee.by_rows("proofkit", folders, SERVED)[1]


def finding(kind: str, *models: str) -> dict:
    return {"findings": [{"kind": kind, "sentence": "", "models": list(models)}]}


@pytest.mark.parametrize(
    ("board", "student"),
    [
        (finding("above", "distilled/q8_0", "base", "direct/q8_0"), "distilled"),
        (finding("ceiling", "direct/q8_0", "distilled/q8_0", "base"), "direct"),
        (finding("above", "distilled/q8_0", "base"), None),  # says nothing of the other student
        (finding("above", "distilled/f16", "direct/f16"), None),  # another file than the one that is served
        (finding("tied", "distilled/q8_0", "direct/q8_0"), None),
        (finding("split", "distilled/q8_0", "direct/q8_0"), None),
        (finding("nothing"), None),
        ({"findings": []}, None),
    ],
)
def test_only_what_the_panel_agrees_on_decides(board, student):
    assert referee.agreed(board, SERVED) == student


@dataclass
class Kept:
    """A store that holds the evaluations and a board, in place of artifacts."""

    folders: dict

    def folder(self, name):
        return self.folders[name]


@pytest.fixture
def asked(folders, tmp_path, monkeypatch):
    """choose() over the two evaluations: (students whose gates pass, released, board) -> the student, what was told."""
    told = []
    monkeypatch.setattr(referee, "Store", lambda _: Kept({**folders, "board": tmp_path}))
    monkeypatch.setattr(referee, "tell", told.append)

    def ask(passing, released="best", board=None):
        verdicts = {folders[name]: check("gates", name in passing, "==", True) for name in referee.STUDENTS}
        monkeypatch.setattr(referee, "verdict_check", verdicts.get)
        monkeypatch.setattr(referee, "read_board", lambda _: board or {"findings": []})
        config = SimpleNamespace(
            released=released, store="", recipe="proofkit", publish=SimpleNamespace(serve_quantization=SERVED)
        )
        return referee.choose(config, {name: name for name in referee.STUDENTS}, "board"), told[-1]

    return ask


def test_the_settings_go_before_everything(asked):
    assert asked(("direct",), "distilled") == ("distilled", "released: distilled, as the settings say")


def test_gates_go_before_the_panel_and_the_panel_before_the_rows(asked, folders):
    panel = finding("above", "distilled/q8_0", "direct/q8_0")
    assert asked(("direct",), board=panel)[0] == "direct"
    spoil(folders["distilled"], 8)
    student, why = asked(referee.STUDENTS, board=panel)
    assert student == "distilled" and "every judge puts it above the other" in why
    student, why = asked(referee.STUDENTS)
    assert student == "direct" and "distilled minus direct" in why


def test_where_no_student_passes_the_better_one_is_handed_to_publish_which_refuses(asked, folders):
    spoil(folders["direct"], 8)
    assert asked(())[0] == "distilled"
