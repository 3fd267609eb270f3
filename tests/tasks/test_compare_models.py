"""compare_models on tiny models: every kind of source in one list, the board it gives, and each check seen to fail."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from data_contracts.prompting.prompt import load_prompt
from data_contracts.verdict import failures
from tasks.compare_models import STAGE, CompareConfig, verify_comparison
from tasks.comparison.answers import local_model
from tasks.comparison.checks import ANSWERS, BOARD, CHART, TABLE
from tasks.comparison.model_entry import ModelEntry
from tasks.comparison.preflight import network_problems
from tasks.core.errors import ConfigError, ContractError
from tasks.core.stage import Job
from tasks.core.stage_process import execute
from tasks.gguf_export.convert import convert
from tasks.prompts.prompt_digest import contract_digest
from tasks.recipes.proofkit import recipe as proofkit
from tests.fixtures.chat_server import ChatServer
from tests.fixtures.compared import heldout, metric_reader, oracle, write_rows

ROWS = heldout(24)
KNOWN = {"known_by": "a" * 64}
ASKING = {"max_new_tokens": 8, "repeated_rows": 12, "metamorphic_rows": 2, "distance_rows": 2}


def settings(folder: Path, models: list[dict], **changes) -> CompareConfig:
    rows = write_rows(folder / "rows.jsonl", ROWS)
    return CompareConfig(models=models, **{"rows_file": rows, **ASKING, **changes})


def job_in(folder: Path) -> Job:
    job = Job("signals", folder / "out", work=folder / "work")
    for path in (job.out, job.work):
        path.mkdir(parents=True, exist_ok=True)
    return job


def board_in(job: Job) -> dict:
    return json.loads((job.out / BOARD).read_text("utf-8"))


@pytest.fixture(scope="module")
def gguf(tiny_merged, tmp_path_factory) -> Path:
    """The tiny merge as a GGUF in a folder like a release's, its model beside it."""
    release = tmp_path_factory.mktemp("compared") / "release"
    shutil.copytree(tiny_merged.out, release / "model")
    (release / "gguf").mkdir()
    digest = contract_digest(load_prompt("signals"), release / "model")
    convert(
        release / "model", release / "gguf" / "tiny-f16.gguf", name="tiny", prompt_digest=digest, tick=lambda _: None
    )
    return release / "gguf" / "tiny-f16.gguf"


@pytest.fixture(scope="module")
def compared(tiny_base, tiny_adapter, tiny_merged, gguf, tmp_path_factory):
    """One comparison of every kind of source but the Hub: (config, job, what the server was asked)."""
    folder = tmp_path_factory.mktemp("comparison")
    with ChatServer(oracle(ROWS, 2)) as good, ChatServer(oracle(ROWS, 2, metric_reader)) as wrong:
        models = [
            {"name": "base", "folder": str(tiny_base), "role": "base"},
            {"name": "tuned", "folder": str(tiny_base), "adapter": str(tiny_adapter.out)},
            {"name": "merged", "folder": str(tiny_merged.out)},
            {"name": "f16", "gguf": str(gguf)},
            {"name": "right", "endpoint": {"base_url": good.url, "model": "r"}},
            {"name": "frontier", "endpoint": {"base_url": good.url, "model": "f"}, "role": "ceiling"},
            {"name": "flipped", "endpoint": {"base_url": wrong.url, "model": "w"}},
        ]
        config = settings(folder, models, distance_to="tuned", endpoint_answers={"right": "a" * 64})
        job = job_in(folder)
        execute(STAGE, config, job)
        yield config, job, good


@pytest.fixture
def copy(compared, tmp_path):
    """The same, free to be broken."""
    config, job, _ = compared
    return config, replace(job, out=Path(shutil.copytree(job.out, tmp_path / "out")))


def test_ranks_follow_what_can_be_told_apart(compared):
    models = {row["model"]: row for row in board_in(compared[1])["models"]}
    assert list(models)[:4] == ["ceiling", "frontier", "right", "flipped"]
    assert (models["ceiling"]["rank"], models["frontier"]["rank"]) == (None, None)
    ranks = {name: row["rank"] for name, row in models.items() if row["role"] != "ceiling"}
    # The metric's reader is right where metric and YES agree; the random models, on no row at all.
    assert ranks == {"right": 1, "flipped": 2, "base": 3, "tuned": 3, "merged": 3, "f16": 3}
    scores = {name: row["scores"]["disagreeing_sign_accuracy_fraction"]["value"] for name, row in models.items()}
    assert (scores["right"], scores["flipped"], scores["ceiling"]) == (1, 0, 1)


def test_neighbours_say_by_what_they_differ(compared):
    board = board_in(compared[1])
    first = board["neighbours"][0]
    assert (first["first"], first["second"], first["reading"]) == ("right", "flipped", "differ")
    assert first["metric"] == board["ranking"][0]["metric"] == "disagreeing_sign_accuracy_fraction"
    assert first["rows_apart"] >= board["fewest_rows_apart"] == 6 and first["low"] > 0
    assert {one["reading"] for one in board["neighbours"][2:]} == {"all but tied"}
    assert len(board["pairs"]) == 15
    said = " ".join(board["notes"])
    assert "24 rows are fewer than the 200" in said
    assert "share rank 3" in said and "Beside base: right, flipped are better" in said
    assert f"its answer to one question stands for it, {'a' * 12}" in said


def test_distances_find_the_twins_that_scores_cannot(compared):
    """All four random models score 0; the merge is the adapter but for rounding, the base is not."""
    models = {row["model"]: row for row in board_in(compared[1])["models"]}
    kl = {name: (row.get("distance") or {}).get("mean_kl_nats") for name, row in models.items()}
    assert kl["tuned"] == 0 and models["tuned"]["same_answers_fraction"] == 1
    assert 0 < kl["merged"] < kl["base"] / 20 and 0 < kl["f16"] < kl["base"] / 20
    assert models["merged"]["distance"]["top1_fraction"] > models["base"]["distance"]["top1_fraction"]
    assert models["merged"]["distance"]["answer_loss_nats"] < models["base"]["distance"]["answer_loss_nats"]
    assert models["right"]["distance"]["why_not"] == "not a model on this disk"


def test_every_digest_is_of_what_was_scored(compared, gguf, tiny_base):
    import hashlib

    models = {row["model"]: row for row in board_in(compared[1])["models"]}
    assert models["f16"]["file_digest"] == hashlib.sha256(gguf.read_bytes()).hexdigest()
    assert models["f16"]["facts"]["prompt_contract"] == contract_digest(load_prompt("signals"), tiny_base)
    digests = [row["file_digest"] for row in models.values() if row["file_digest"]]
    assert len(set(digests)) == 4
    assert models["right"]["file_digest"] is None
    assert not list(compared[1].work.glob("logits/*")), "the reference's logits are given back"


def test_the_table_and_the_picture_show_every_model(compared):
    from PIL import Image

    _, job, _ = compared
    table = (job.out / TABLE).read_text("utf-8")
    for row in board_in(job)["models"]:
        assert f"| {row['model']} |" in table
    assert "✓ differ" in table and "= all but tied" in table and "| yardstick |" in table
    with Image.open(job.out / CHART) as picture:
        assert picture.width > 800 and picture.height > 400


def test_an_endpoint_is_asked_each_row_once_and_some_twice_and_no_more_on_a_second_run(compared):
    config, job, good = compared
    prompts = [one.body["messages"][-1]["content"] for one in good.seen() if one.body["model"] == "r"]
    asked = 24 + 3 + 6
    assert len(prompts) == asked + ASKING["repeated_rows"] and len(set(prompts)) == asked
    assert all(one.body["temperature"] == 0 for one in good.seen())
    before = len(good.seen())
    only = [one for one in config.models if one.name == "right"]
    again = config.model_copy(update={"models": only, "distance_to": None})
    shutil.rmtree(job.work.parent / "again", ignore_errors=True)
    execute(STAGE, again, replace(job, out=_empty(job.work.parent / "again")))
    assert len(good.seen()) == before, "answers in the log are not paid for twice"
    other = again.model_copy(update={"endpoint_answers": {"right": "b" * 64}})
    execute(STAGE, other, replace(job, out=_empty(job.work.parent / "other")))
    assert len(good.seen()) == before + asked + 12, "another model at the same address is asked anew"


def _empty(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def edit_board(job: Job, change) -> None:
    board = board_in(job)
    change(board, {row["model"]: row for row in board["models"]})
    (job.out / BOARD).write_text(json.dumps(board), "utf-8")


def edit_answers(job: Job, change) -> None:
    path = job.out / ANSWERS
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    change(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")


SABOTAGE = {
    "an answer is missing": (
        lambda job: edit_answers(job, lambda some: some[3]["answers"].pop("f16")),
        "answered once",
    ),
    "a digest is another's": (
        lambda job: edit_board(job, lambda _b, m: m["merged"].update(file_digest=m["base"]["file_digest"])),
        "digest is not the one listed",
    ),
    "the labels do not parse": (
        lambda job: edit_board(job, lambda _b, m: m["ceiling"]["scores"]["valid_json_fraction"].update(value=0.9)),
        "(ceiling)",
    ),
    "a rank was bettered": (
        lambda job: edit_board(job, lambda _b, m: m["flipped"].update(rank=1)),
        "do not give again",
    ),
    "a score was bettered": (
        lambda job: edit_board(job, lambda _b, m: m["base"]["scores"]["sign_accuracy_fraction"].update(value=0.9)),
        "do not give again",
    ),
    "answers were swapped": (
        lambda job: edit_answers(
            job, lambda some: [one["answers"].update(flipped=one["answers"]["right"]) for one in some]
        ),
        "do not give again",
    ),
    "the table lost a row": (
        lambda job: (job.out / TABLE).write_text(
            (job.out / TABLE).read_text("utf-8").replace("| f16 |", "| f17 |"), "utf-8"
        ),
        "models that the table names",
    ),
    "the picture is cut": (
        lambda job: (job.out / CHART).write_bytes((job.out / CHART).read_bytes()[:300]),
        "in the chart",
    ),
    "the picture is white": (lambda job: _white(job.out / CHART), "in the chart"),
}


def _white(path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (900, 500), "white").save(path)


@pytest.mark.parametrize("what", SABOTAGE)
def test_damage_is_caught(copy, what):
    config, job = copy
    assert not failures(verify_comparison(config, job))
    spoil, caught = SABOTAGE[what]
    spoil(job)
    assert any(caught in one.name for one in failures(verify_comparison(config, job))), what


def test_a_file_that_changed_after_it_was_scored_is_caught(compared, tmp_path, gguf):
    config, job, _ = compared
    other = Path(shutil.copy(gguf, tmp_path / "other.gguf"))
    other.write_bytes(other.read_bytes() + b"\0")
    entry = config.models[3].model_copy(update={"gguf": str(other)})
    models = [entry if one.name == "f16" else one for one in config.models]
    found = failures(verify_comparison(config.model_copy(update={"models": models}), job))
    assert [one.name for one in found] == ["scored files whose digest is not the one listed"]


def test_each_entry_is_asked_in_the_words_of_its_own_prompt_set(tmp_path):
    """A large model that was not tuned gets the rich words of every task; the tuned one those it was trained on."""
    rows = proofkit.build_rows("gold", 1, 15, 1)[1]
    words = {name: load_prompt("proofkit", name) for name in ("rich", "trained")}
    known = {words[name].messages(row)[-1]["content"]: row["target"] for name in words for row in rows}
    with ChatServer(lambda messages: known.get(messages[-1]["content"], "Not now.")) as server:
        models = [
            {"name": "frontier", "endpoint": {"base_url": server.url, "model": "rich"}, "prompt_set": "rich"},
            {"name": "tuned", "endpoint": {"base_url": server.url, "model": "trained"}},
        ]
        asking = {**ASKING, "repeated_rows": 1, "metamorphic_rows": 0}
        config = CompareConfig(models=models, rows_file=write_rows(tmp_path / "rows.jsonl", rows), **asking)
        job = replace(job_in(tmp_path), recipe="proofkit")
        assert network_problems(config.models, "proofkit", rows[0], 8)[0] == []
        tried = [one.body["messages"] for one in server.requests]
        execute(STAGE, config, job)
    assert tried == [words[name].messages(rows[0]) for name in ("rich", "trained")]
    asked = {name: [one.body["messages"] for one in server.seen() if one.body["model"] == name] for name in words}
    for row in rows:
        rich, trained = (words[name].messages(row) for name in ("rich", "trained"))
        assert rich in asked["rich"] and trained in asked["trained"]
        assert rich not in asked["trained"] and trained not in asked["rich"] and rich != trained
    models = {row["model"]: row for row in board_in(job)["models"]}
    assert (models["frontier"]["prompt_set"], models["tuned"]["prompt_set"]) == ("rich", "trained")
    assert (job.out / TABLE).read_text("utf-8").count("rich prompt") == 1


@pytest.mark.parametrize("name", ["rich", "trained"])
def test_a_model_on_this_disk_is_asked_in_them_too(tmp_path, tiny_base, name):
    entry = ModelEntry(name="m", folder=str(tiny_base), prompt_set=name)
    assert local_model(entry, replace(job_in(tmp_path), recipe="proofkit")).contract == load_prompt("proofkit", name)


def test_broken_rows_are_told_with_file_row_and_column(tmp_path, tiny_base):
    config = settings(tmp_path, [{"name": "base", "folder": str(tiny_base)}])
    rows = [{**row, "magnitude": 7.0} if i == 4 else row for i, row in enumerate(ROWS)]
    write_rows(Path(config.rows_file), rows)
    with pytest.raises(ContractError, match=r"rows\.jsonl breaks the row contract[\s\S]*magnitude[\s\S]*e\.g\. 5"):
        execute(STAGE, config, job_in(tmp_path))


def test_a_ranking_by_what_nothing_measures_is_refused(tmp_path, tiny_base, monkeypatch):
    from data_contracts.gates import RankedBy, load_gates

    gates = load_gates("signals").model_copy(update={"ranking": [RankedBy(metric="sign_acuracy_fraction")]})
    monkeypatch.setattr("tasks.compare_models.load_gates", lambda _recipe: gates)
    with pytest.raises(ConfigError, match="nothing measures sign_acuracy_fraction. Known: valid_json_fraction"):
        execute(STAGE, settings(tmp_path, [{"name": "base", "folder": str(tiny_base)}]), job_in(tmp_path))


WRONG = [
    ({"name": "a"}, "give exactly one of hub, folder, gguf, run, endpoint; found none"),
    ({"name": "a", "hub": "x/y", "gguf": "z.gguf"}, "found hub, gguf"),
    ({"name": "a", "gguf": "z.gguf", "adapter": "b"}, "adapter belongs to folder"),
    ({"name": "a", "run": "signals-nano"}, "run needs part"),
    ({"name": "ceiling", "hub": "x/y"}, "ceiling is the row of the labels"),
    ({"name": "A b", "hub": "x/y"}, "should match pattern"),
    (
        {"name": "a", "endpoint": {"base_url": "http://h/v1", "model": "m", "api_key_env": "HOME"}},
        "must hold API_KEY or TOKEN",
    ),
]


@pytest.mark.parametrize(("entry", "said"), WRONG)
def test_an_impossible_entry_is_refused(tmp_path, entry, said):
    with pytest.raises(ValidationError, match=said):
        settings(tmp_path, [entry])


def test_an_impossible_list_is_refused_with_every_reason(tmp_path):
    twice = [{"name": "a", "hub": "x/y", "role": "base"}] * 2
    with pytest.raises(ValidationError) as caught:
        settings(tmp_path, twice, rows_run="signals-nano", distance_to="b")
    for said in ("a stand(s) more than once", "only one model can have", "not both", "distance_to names no model"):
        assert said in str(caught.value)


def test_a_password_in_an_address_is_not_repeated(tmp_path):
    entry = {"name": "a", "endpoint": {"base_url": "http://me:hunter2@h/v1", "model": "m"}}
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, [entry])
    assert "hunter2" not in str(caught.value) and "holds a user, password" in str(caught.value)
