"""The model card is read back by the Hub's own client; the tables and the graph hold every model, check and input."""

from __future__ import annotations

import hashlib
import io
import json
import re

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from pydantic import ValidationError
from rich.console import Console

from data_contracts.verdict import check
from tasks.reports.card import render_card
from tasks.reports.data import Score
from tasks.reports.leaderboard import (
    leaderboard_json,
    leaderboard_markdown,
    leaderboard_table,
    lineage_mermaid,
    verification_markdown,
)


def test_card_is_read_back_by_the_hub_client(tmp_path, sample_release, stages):
    (tmp_path / "README.md").write_text(render_card(sample_release()), encoding="utf-8")
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.license == "apache-2.0" and card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "text-generation" and "prediction-markets" in card.data.tags
    read = {one.metric_type: (one.metric_value, one.metric_args["rows"]) for one in card.data.eval_results}
    merged = sample_release().leaderboard[2].scores
    assert read == {name: (score.value, score.n) for name, score in merged.items()}
    name, again = model_index_to_eval_results(card.data.to_dict()["model-index"])
    assert name == "signals-nano" and again == card.data.eval_results
    assert all(one.stage in card.text and one.artifact_digest in card.text for one in stages)


def test_card_says_what_was_not_proven(failing_release):
    text = render_card(failing_release())
    proven = text.partition("## What was proven")[2].partition("## What was not proven")[0]
    not_proven = text.partition("## What was not proven")[2].partition("## How to use it")[0]
    assert "**Verdict: fail.**" in text and "Verdict: pass" not in text
    assert "q8_0 mean KL" not in proven and "q8_0 mean KL: 0.0041 nats (expected &lt;= 0.001)" in not_proven
    assert "judge agreement: not measured" in not_proven and "No human has judged" in not_proven


def test_card_leaves_an_unscored_metric_out_of_the_model_index(tmp_path, sample_release):
    board = sample_release().leaderboard
    board[2] = board[2].model_copy(update={"scores": board[2].scores | {"valid_json": Score(value=None, n=0)}})
    (tmp_path / "README.md").write_text(render_card(sample_release(leaderboard=board)), encoding="utf-8")
    results = ModelCard.load(tmp_path / "README.md").data.eval_results
    assert [one.metric_type for one in results] == ["sign_right", "sign_right_where_metric_disagrees"]


def test_card_has_no_live_markup_and_refuses_unknown_keys(sample_release, hostile):
    text = render_card(sample_release(not_proven=[hostile, "![x](y) | `z`"]))
    outside = re.sub(r"```.*?```", "", text, flags=re.S)
    assert "<script>" not in outside and "![x](y)" not in outside
    with pytest.raises(ValidationError, match="licence"):
        render_card(sample_release(config={"card": {"licence": "mit"}}))


def test_tables_hold_every_model_and_every_check(sample_release, failing_release):
    release = sample_release()
    shown = _terminal(leaderboard_table(release))
    for row in release.leaderboard:
        assert row.model in shown
    assert "cannot tell" in _terminal(leaderboard_table(failing_release()))
    for value in ("97.9 %", "3.1 %", "6.21", "6,034", "2.1 MB"):
        assert value in shown and value in leaderboard_markdown(release)
    assert (
        json.loads(json.dumps(leaderboard_json(release)))["rows"][3]["file_digest"]
        == hashlib.sha256(b"filef16").hexdigest()
    )
    checks = verification_markdown(failing_release()).splitlines()
    assert "✗ fail" in checks[2] and "? cannot tell" in checks[3]
    assert len(checks) == 2 + len(failing_release().checks)


def test_a_bar_in_a_name_stays_in_its_cell(sample_release, stages):
    stages = [stages[0].model_copy(update={"checks": [check("a | b <i>", 1, "==", 1)]})]
    line = verification_markdown(sample_release(stages=stages)).splitlines()[2]
    assert len(re.findall(r"(?<!\\)\|", line)) == 7 and "<i>" not in line


def test_mermaid_has_every_edge_and_marks_what_failed(failing_release):
    release = failing_release()
    text = lineage_mermaid(release)
    assert text.startswith("flowchart TD\n")
    ids = dict(re.findall(r'^  (s\d+)\["([\w.]+)<br/>', text, flags=re.M))
    edges = {(ids[a], ids[b]) for a, b in re.findall(r"^  (s\d+) -->(?:\|[^|]*\|)? (s\d+)$", text, flags=re.M)}
    assert edges == {(source, target) for source, target, _ in release.edges} and len(edges) == 16
    failed = next(name for name, stage in ids.items() if stage == "export_gguf.q8_0")
    assert f"  class {failed} fail" in text
    assert '"' not in re.sub(r'\["[^"]*"\]|\|"[^"]*"\|', "", text)


def test_release_cannot_be_better_than_its_checks(sample_release, failing_release, stages):
    with pytest.raises(ValidationError, match="verdict is pass, but 2 of 17 checks did not pass"):
        sample_release(stages=failing_release().stages)
    with pytest.raises(ValidationError, match="named more than once: prepare_base"):
        sample_release(stages=[stages[0], *stages])
    with pytest.raises(ValidationError):
        Score(value=float("nan"), n=1)


def _terminal(table) -> str:
    out = io.StringIO()
    Console(file=out, width=200, color_system=None).print(table)
    return out.getvalue()
