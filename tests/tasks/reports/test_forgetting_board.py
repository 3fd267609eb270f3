"""The board of a forgetting probe: every answer, what was noted about it, and no markup of a model."""

from __future__ import annotations

import json

from data_contracts.verdict import check, report
from tasks.recipes.signals import nano_rows, recipe
from tasks.reports.forgetting_board import render_forgetting

CHECKS = [
    check("fraction cut off", 0.5, "<=", 0.1, detail="0 of 2 before, 1 of 2 after", fix="raise train.epochs"),
    report("held-out prompts probed", 2),
]


def page(tmp_path, recipe_name="signals") -> str:
    rows = nano_rows.nano_rows(2, 2, 42)[1]
    lines = [
        {
            "row": rows[0],
            "before": "BEFORE",
            "after": "<script>alert(1)</script>",
            "before_notes": [],
            "after_notes": [],
        },
        {"row": rows[1], "before": "", "after": "no no no", "before_notes": [], "after_notes": ["cut off"]},
    ]
    path = tmp_path / "forgetting.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return render_forgetting(recipe_name, path, CHECKS)


def test_the_board_shows_the_prompt_gold_and_both_answers_with_what_was_noted(tmp_path):
    text, row = page(tmp_path), nano_rows.nano_rows(2, 2, 42)[1][0]
    for shown in (row["headline"], "BEFORE", "(empty answer)", "no no no", "! cut off", "about\n1 answers"):
        assert shown.replace("'", "&#39;") in text, shown
    gold = recipe.completion(row).split("</think>")[0].removeprefix("<think>").strip()
    assert gold.replace("'", "&#39;") in text
    assert "✗ fail" in text and "≤ 0.1" in text and "raise train.epochs" in text


def test_markup_of_a_model_stays_words_and_no_server_is_asked(tmp_path):
    text = page(tmp_path)
    assert "<script" not in text and "&lt;script&gt;" in text
    assert "http://" not in text and "https://" not in text
