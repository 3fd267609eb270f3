"""The stage as a flow runs it, over the recipes that ship: in a child process, with a key that only the environment holds."""

from __future__ import annotations

import json

import pytest

from data_contracts.prompting.rubric import load_rubric
from tasks.core.artifact import Artifact, Store
from tasks.core.stage import Run, build
from tasks.judge_answers import STAGE, JudgeConfig
from tasks.recipes.proofkit import recipe as proofkit
from tasks.recipes.signals import recipe as signals
from tests.fixtures.chat_server import ChatServer
from tests.fixtures.judge_panel import quoted

KEY = "judge-key-that-nobody-may-see-0123456789"
RUBRIC = load_rubric("signals")


def published(store: Store, rows: list[dict] | None = None, answers: dict | None = None) -> Artifact:
    """An evaluation; unless given, of twelve rows: the labels as ceiling, a model that flips every sign, a base that says
    nothing."""
    if rows is None:
        rows = signals.build_rows("nano", 1, 12, 0)[1]
        flipped = [signals.completion({**row, "direction": -(row["direction"] or 0)}) for row in rows]
        answers = {"ceiling": [signals.completion(row) for row in rows], "merged": flipped, "base": ["?"] * len(rows)}
    with store.building("evaluation") as folder:
        board = [{"model": name, "file_digest": None, "size_bytes": None} for name in answers]
        (folder / "scores.json").write_text(json.dumps(board))
        lines = [
            {"row": row, "answers": {name: texts[i] for name, texts in answers.items()}} for i, row in enumerate(rows)
        ]
        (folder / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return store.publish("evaluation", "k", folder, {"stage": "evaluate_model", "inputs": {}})


def strict(messages: list[dict]) -> str:
    """A judge of traces: yes for an answer with a trace, no without, and never sure about the size."""
    if quoted(messages, "first"):
        return '{"reason": "", "better": "equal"}'
    said = "yes" if "</think>" in quoted(messages) else "no"
    return json.dumps({"reason": "r", **dict.fromkeys(RUBRIC.names, said), "size_has_a_reason": "cannot tell"})


@pytest.fixture
def run(tmp_path) -> Run:
    return Run(name="signals-test", recipe="signals", store=str(tmp_path / "store"))


def test_a_panel_of_signals_in_a_child_process(run, monkeypatch):
    monkeypatch.setenv("PLUMBLINE_JUDGE_API_KEY", KEY)
    store = Store(run.store)
    with ChatServer(strict, api_key=KEY) as one, ChatServer(strict, api_key=KEY) as other:
        judges = [
            {"name": name, "family": name, "base_url": server.url, "model": "m", "retries": 0}
            for name, server in (("gpt", one), ("qwen", other))
        ]
        made = build(STAGE, run, JudgeConfig(judges=judges, prompts=12), {"tuned": published(store)})
    board = json.loads((store.folder(made) / "judgement.json").read_text())
    rows = {row["model"]: row for row in board["rows"]}
    assert (
        rows["merged"]["rank"] == 1 and rows["merged"]["judges_alone"] == 100.0 and rows["base"]["judges_alone"] == 0.0
    )
    assert all(row["final"]["value"] is None and row["gate_pass_rate"] is None for row in board["rows"])
    assert any("the final score is 'cannot tell'" in note for note in board["notes"])
    told = rows["merged"]["columns"]["gpt"]
    assert told["criteria"]["size_has_a_reason"] is None and told["coverage_fraction"] == pytest.approx(5 / 6, abs=1e-4)
    assert "above base for every judge" in " ".join(one["sentence"] for one in board["findings"])
    files = [path for path in store.root.rglob("*") if path.is_file()]
    assert len(files) > 10 and not [path for path in files if KEY.encode() in path.read_bytes()]
    manifest = store.manifest(made)
    assert (
        manifest["facts"]["tokens"]["gpt"]["prompt_tokens"] > 1000
        and manifest["key_parts"]["work"]["contract"]["rubric.md"] != "absent"
    )


def test_a_changed_rubric_is_another_judgement(run, monkeypatch, tmp_path):
    from tasks.core import stage as core

    config, inputs = JudgeConfig(), {"tuned": published(Store(run.store))}
    before = STAGE.key_parts(run, config, inputs).work
    contracts = tmp_path / "contracts"
    (contracts / "signals").mkdir(parents=True)
    for path in (core.CONTRACTS_FOLDER / "signals").glob("*.md"):
        (contracts / "signals" / path.name).write_text(path.read_text() + (" " if path.name == "rubric.md" else ""))
    (contracts / "signals" / "output.py").write_bytes((core.CONTRACTS_FOLDER / "signals" / "output.py").read_bytes())
    monkeypatch.setattr(core, "CONTRACTS_FOLDER", contracts)
    after = STAGE.key_parts(run, config, inputs).work
    assert {name for name in before["contract"] if before["contract"][name] != after["contract"][name]} == {"rubric.md"}


def test_a_panel_of_proofkit_gives_final_scores(tmp_path):
    """Labels, labels whose disclosure is cut off, and a base that describes the work: real gates beside two judges."""
    rows = [row for row in proofkit.build_rows("built", 1, 60, 0)[1] if row["task"] in ("draft", "post", "scenario")][
        :12
    ]
    labels = [proofkit.completion(row) for row in rows]
    short = [text[: len(text) // 2] for text in labels]
    answers = {"ceiling": labels, "merged": short, "base": ["Communication matters in every role."] * len(rows)}

    def by_length(messages: list[dict]) -> str:
        if quoted(messages, "first"):
            return '{"reason": "", "better": "equal"}'
        level = min(5, 1 + len(quoted(messages)) // 150)
        return json.dumps({"reason": "r", **dict.fromkeys(load_rubric("proofkit").names, level)})

    run, store = Run(name="p", recipe="proofkit", store=str(tmp_path / "store")), Store(tmp_path / "store")
    with ChatServer(by_length) as one, ChatServer(by_length) as other:
        judges = [
            {"name": name, "family": name, "base_url": server.url, "model": "m"}
            for name, server in (("gpt", one), ("qwen", other))
        ]
        made = build(STAGE, run, JudgeConfig(judges=judges), {"student": published(store, rows, answers)})
    board = json.loads((store.folder(made) / "judgement.json").read_text())
    found = {row["model"]: row for row in board["rows"]}
    assert found["ceiling"]["gate_pass_rate"] == 1.0 and found["ceiling"]["rank"] is None
    assert 0 < found["base"]["gate_pass_rate"] < found["merged"]["gate_pass_rate"] < 1
    assert found["merged"]["gates"]["disclosure"] < 1.0 == found["ceiling"]["gates"]["disclosure"]
    for row in found.values():
        assert row["final"]["value"] == pytest.approx(
            100 * (0.6 * row["judge_mean"] / 5 + 0.4 * row["gate_pass_rate"]), abs=0.02
        )
    assert board["findings"][0]["kind"] == "ceiling" and [found[name]["rank"] for name in ("merged", "base")] == [1, 2]
    assert any(
        "score against length of the answer" in note for note in board["notes"]
    )  # that is all these judges look at
