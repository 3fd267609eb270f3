"""generate_teacher behind an endpoint: what is asked, asked again, refused, resumed, and what damage its checks see."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from data_contracts.prompting.prompt import load_prompt
from data_contracts.proofkit.house_rules import TASKS
from data_contracts.verdict import failures
from tasks.core.artifact import Store
from tasks.core.errors import ArtifactError, ConfigError, TransientError
from tasks.core.hardware import UsedSeconds
from tasks.core.stage import Run, build
from tasks.core.stage_process import execute
from tasks.formats.jsonl import as_lines
from tasks.generate_teacher import STAGE, generate_teacher, verify_answers
from tasks.recipes.proofkit import recipe as proofkit
from tests.fixtures.chat_server import ChatServer, Reply
from tests.fixtures.teaching import endpoint_config, good_teacher, job_in, make_dataset, rows_of, script, user_text
from tests.fixtures.tiny_chain import failed, publish_folder


@pytest.fixture
def dataset(tmp_path) -> Path:
    return make_dataset(tmp_path / "dataset")


@pytest.fixture
def server(dataset):
    with ChatServer(good_teacher(dataset)) as one:
        yield one


def test_every_prompt_has_one_answer_in_the_order_of_the_rows(tmp_path, dataset, server):
    job = job_in(tmp_path, dataset)
    outcome = execute(STAGE, endpoint_config(server), job)
    assert {one["verdict"] for one in outcome["checks"]} == {"pass"} and len(outcome["checks"]) == 7
    answers = rows_of(job.out, "answers")
    assert [one["row"] for one in answers] == list(range(1, 13))
    assert [one["finish_reason"] for one in answers] == ["stop"] * 12 and {one["attempts"] for one in answers} == {1}
    assert rows_of(job.out, "refused") == []
    facts = outcome["facts"]
    assert (facts["engine"], facts["model"], facts["prompts"], facts["new_answers"]) == ("endpoint", "big", 12, 12)
    assert facts["completion_tokens"] == sum(one["completion_tokens"] for one in answers) > 100
    assert facts["engine_seconds"] > 0 and facts["price_usd"] is None
    assert server.requests[0].body["temperature"] == 0 and "seed" not in server.requests[0].body


def test_a_teacher_that_was_not_tuned_is_asked_in_the_rich_words(tmp_path):
    """The request is the contract's own, message by message, for a row of every task."""
    rows = proofkit.build_rows("gold", 28, 2, 1)[0]
    assert {row["task"] for row in rows} == set(TASKS)
    folder = tmp_path / "dataset"
    folder.mkdir()
    (folder / "train.jsonl").write_text(as_lines(rows), "utf-8")
    rich, trained = load_prompt("proofkit", "rich"), load_prompt("proofkit")
    known = {rich.messages(row)[-1]["content"]: row["target"] for row in rows}
    assert len(known) == len(rows)
    with ChatServer(lambda messages: known.get(messages[-1]["content"], "Not now.")) as server:
        job = replace(job_in(tmp_path, folder), recipe="proofkit")
        execute(STAGE, endpoint_config(server, prompt_set="rich"), job)
        assert [one["text"] for one in rows_of(job.out, "answers")] == [row["target"] for row in rows]
        asked = [one.body["messages"] for one in server.requests]
        again = replace(job_in(tmp_path / "trained", folder), recipe="proofkit")
        execute(STAGE, endpoint_config(server), again)
        asked_too = [one.body["messages"] for one in server.requests[len(asked) :]]
    for contract, found in ((rich, asked), (trained, asked_too)):
        assert sorted(map(json.dumps, found)) == sorted(json.dumps(contract.messages(row)) for row in rows)
    assert rich.messages(rows[0]) not in asked_too


def test_the_price_is_seconds_times_the_hardware_s_price(tmp_path, dataset, server):
    server.reply = lambda messages, good=server.reply: Reply(good(messages).text, delay_s=0.3)
    facts = generate_teacher(endpoint_config(server, hardware="h100"), job_in(tmp_path, dataset))
    assert (
        facts["price_usd"] == pytest.approx(facts["engine_seconds"] / 3600 * 3.95, abs=1e-4) and facts["price_usd"] > 0
    )
    with pytest.raises(ValidationError, match="no 'abacus'. Known: rtx-2070-super"):
        endpoint_config(server, hardware="abacus")


def test_borrowed_answers_are_counted_apart_and_paid_for(tmp_path, dataset, server):
    """Three builds that share answers: all of the first one's, then those of three rows of four."""
    server.reply = lambda messages, good=server.reply: Reply(good(messages).text, delay_s=0.2)
    first, config = job_in(tmp_path, dataset), endpoint_config(server, hardware="h100")
    paid = generate_teacher(config, first)
    assert (paid["new_answers"], paid["borrowed_answers"]) == (12, 0) and paid["engine_seconds"] > 0.6

    def build_beside(name: str) -> dict:
        job = replace(first, work=first.work.with_name(name))
        job.work.mkdir()
        return generate_teacher(config, job)

    second = build_beside("second")
    assert (second["new_answers"], second["borrowed_answers"], len(server.requests)) == (0, 12, 12)
    own_s = UsedSeconds(tmp_path / "work" / "second" / "used-seconds.jsonl").total()
    assert second["engine_seconds"] == pytest.approx(paid["engine_seconds"] + own_s, abs=0.01)
    assert second["price_usd"] >= paid["price_usd"] > 0
    assert second["completion_tokens"] == paid["completion_tokens"]

    rows = rows_of(dataset)[:4]
    good = good_teacher(dataset)([{"content": user_text(rows[0])}])
    server.reply = lambda _messages: good
    (dataset / "train.jsonl").write_text(as_lines([{**rows[0], "headline": "News report: rents rose"}, *rows[1:]]))
    third = build_beside("third")
    assert (third["new_answers"], third["borrowed_answers"], len(server.requests)) == (1, 3, 13)
    own_s = UsedSeconds(tmp_path / "work" / "third" / "used-seconds.jsonl").total()
    assert third["engine_seconds"] == pytest.approx(paid["engine_seconds"] * 3 / 12 + own_s, abs=0.01)


def test_what_borrowed_answers_took_may_be_unknown_and_is_then_not_told(tmp_path, dataset, server):
    first, config = job_in(tmp_path, dataset), endpoint_config(server, hardware="h100")
    generate_teacher(config, first)
    (first.work / "used-seconds.jsonl").unlink()
    job = replace(first, work=first.work.with_name("second"))
    job.work.mkdir()
    facts = generate_teacher(config, job)
    assert (facts["borrowed_answers"], facts["engine_seconds"], facts["price_usd"]) == (12, None, None)


def test_a_shard_that_was_refused_and_then_let_through_costs_what_its_answers_took(tmp_path, dataset, server):
    server.reply = lambda _messages: replace(USELESS["refusal"], delay_s=0.2)
    store = Store(tmp_path / "store")
    run = Run(name="t", recipe="signals", store=str(store.root))
    inputs = {"dataset": publish_folder(store, "dataset", dataset)}
    with pytest.raises(ArtifactError, match="share of useless answers: 1"):
        build(STAGE, run, endpoint_config(server, hardware="h100"), inputs)
    artifact = build(STAGE, run, endpoint_config(server, hardware="h100", max_refused_fraction=1), inputs)
    facts = json.loads(store.manifest_path(artifact).read_text("utf-8"))["facts"]
    assert len(server.requests) == 12 and (facts["new_answers"], facts["borrowed_answers"]) == (0, 0), (
        "its own log: the limit is no part of the work key"
    )
    assert facts["engine_seconds"] > 0.6 and facts["price_usd"] > 0


def test_sampled_answers_are_drawn_with_another_seed_for_each_prompt(tmp_path, dataset, server):
    generate_teacher(endpoint_config(server, temperature=0.7), job_in(tmp_path, dataset))
    seeds = {one.prompt: one.body["seed"] for one in server.requests}
    assert len(set(seeds.values())) == 12 and {one.body["temperature"] for one in server.requests} == {0.7}
    before = len(server.requests)
    generate_teacher(endpoint_config(server, temperature=0.7), job_in(tmp_path / "again", dataset))
    assert {one.prompt: one.body["seed"] for one in server.requests[before:]} == seeds


MORE_ROOM = {
    "truncated": Reply("<think>\nIt begins", finish_reason="length"),
    "spent on thoughts in a channel": Reply(None, reasoning="hm " * 40, finish_reason="length"),
    "spent on thoughts, ended well": Reply("", reasoning="hm " * 40),
}


@pytest.mark.parametrize("kind", MORE_ROOM)
def test_an_answer_without_room_is_asked_again_with_twice_as_much(tmp_path, dataset, server, kind):
    row = rows_of(dataset)[3]
    script(server, row, MORE_ROOM[kind], good_teacher(dataset)([{"content": user_text(row)}]))
    job = job_in(tmp_path, dataset)
    outcome = execute(STAGE, endpoint_config(server), job)
    first, second = server.seen(re.escape(user_text(row)))
    assert (first.body["max_tokens"], second.body["max_tokens"]) == (64, 128)
    assert first.body["messages"] == second.body["messages"]
    assert outcome["facts"]["asked_again"] == 1 and outcome["facts"]["refused"] == {}
    assert rows_of(job.out, "answers")[3]["attempts"] == 2


USELESS = {
    "truncated": MORE_ROOM["truncated"],
    "empty": MORE_ROOM["spent on thoughts in a channel"],
    "refusal": Reply("I'm sorry, but I can't help with that."),
    "leaked marker": Reply('analysisWe need JSON.assistantfinal{"relevance": 0.9}'),
}


@pytest.mark.parametrize("kind", USELESS)
def test_what_stays_useless_is_kept_and_named(tmp_path, dataset, server, kind):
    script(server, rows_of(dataset)[3], USELESS[kind])
    job = job_in(tmp_path, dataset)
    outcome = execute(STAGE, endpoint_config(server, attempts=3), job)
    assert outcome["facts"]["refused"] == {kind: 1}
    (refused,) = rows_of(job.out, "refused")
    assert refused["row"] == 4 and refused["reason"].startswith(f"{kind}: ")
    asked = 3 if kind in ("truncated", "empty") else 1
    assert rows_of(job.out, "answers")[3]["attempts"] == asked
    assert len(server.requests) == 11 + asked


def test_mostly_useless_answers_stop_the_run_and_are_kept(tmp_path, dataset, server):
    server.reply = lambda _messages: USELESS["refusal"]
    job = job_in(tmp_path, dataset)
    with pytest.raises(
        ArtifactError, match=r"share of useless answers: 1 \(expected <= 0.5\). {'refusal': 12}, e.g. refusal"
    ):
        execute(STAGE, endpoint_config(server), job)
    generate_teacher(endpoint_config(server), job)
    assert len(server.requests) == 12


def test_faults_of_the_network_cost_time_and_no_answer(tmp_path, dataset, server):
    later = {"Retry-After": "0.1"}
    faults = [
        Reply(status=429, headers=later),
        Reply(status=500, headers=later),
        Reply(cut_to=60),
        Reply(reset=True),
        Reply(drip_s=0.3),
        Reply(delay_s=2),
    ]
    good = good_teacher(dataset)
    for row, fault in zip(rows_of(dataset), faults, strict=False):
        script(server, row, fault, good([{"content": user_text(row)}]))
    config = endpoint_config(server, endpoint={"timeout_s": 1})
    assert execute(STAGE, config, job_in(tmp_path, dataset))["facts"]["refused"] == {}
    assert len(server.requests) == 12 + len(faults)


def test_an_endpoint_that_stays_down_is_told_and_what_came_is_kept(tmp_path, dataset, server):
    script(server, rows_of(dataset)[11], Reply(status=503, headers={"Retry-After": "0"}))
    config, job = endpoint_config(server, endpoint={"concurrency": 1, "retries": 1}), job_in(tmp_path, dataset)
    with pytest.raises(TransientError, match="gave no answer in 2 tries"):
        generate_teacher(config, job)
    assert len(server.requests) == 13
    server._scripts.clear()
    generate_teacher(config, job)
    assert len(server.requests) == 14


# --- shards


def test_shards_cover_the_rows_once_and_a_finished_one_is_not_asked_again(tmp_path, dataset, server):
    shards = endpoint_config(server, shard_rows=5).sharded(dataset)
    assert [(one.shard, one.shards) for one in shards] == [(0, 3), (1, 3), (2, 3)]
    store = Store(tmp_path / "store")
    run = Run(name="t", recipe="signals", store=str(store.root))
    inputs = {"dataset": publish_folder(store, "dataset", dataset)}
    made = [build(STAGE, run, one, inputs) for one in shards]
    rows = [one["row"] for artifact in made for one in rows_of(store.folder(artifact), "answers")]
    assert rows == list(range(1, 13)) and len({one.digest for one in made}) == 3
    assert len(server.requests) == 12
    again = build(STAGE, run, shards[1], inputs)
    assert again.digest == made[1].digest and len(server.requests) == 12


def test_another_division_or_another_row_asks_only_what_is_new(tmp_path, dataset, server):
    store = Store(tmp_path / "store")
    run = Run(name="t", recipe="signals", store=str(store.root))
    for one in endpoint_config(server, shard_rows=5).sharded(dataset):
        build(STAGE, run, one, {"dataset": publish_folder(store, "dataset", dataset)})
    rows = rows_of(dataset)
    server.reply = lambda _messages: Reply("<think>\nNew.\n</think>\n\n{}")
    (dataset / "train.jsonl").write_text(
        as_lines([{**rows[0], "headline": "News report: rents rose, at last"}, *rows[1:]])
    )
    for one in endpoint_config(server, shard_rows=4).sharded(dataset):
        build(STAGE, run, one, {"dataset": publish_folder(store, "dataset", dataset)})
    assert len(server.requests) == 13


def test_shards_of_another_dataset_are_refused(tmp_path, dataset, server):
    config = endpoint_config(server, shard_rows=5).for_shard(0, 2)
    with pytest.raises(ConfigError, match="12 rows in shards of 5 are 3 shards, the config says 2"):
        generate_teacher(config, job_in(tmp_path, dataset))
    with pytest.raises(ValidationError, match="shard 2 is not below shards, 2"):
        endpoint_config(server, shard=2, shards=2)
    assert server.requests == []


# --- damage


def edit(path: Path, change) -> None:
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    path.write_text(as_lines(change(lines)), "utf-8")


@pytest.mark.parametrize(
    ("file", "change", "caught"),
    [
        ("out/answers.jsonl", lambda lines: lines[:-1], "prompts of the shard without exactly one answer"),
        ("out/answers.jsonl", lambda lines: [*lines, lines[0]], "prompts of the shard without exactly one answer"),
        ("out/answers.jsonl", lambda lines: [{**lines[0], "row": 99}, *lines[1:]], "without exactly one answer"),
        ("out/answers.jsonl", lambda lines: [{**lines[0], "text": "edited"}, *lines[1:]], "differ from what came"),
        ("dataset/train.jsonl", lambda rows: [{**rows[0], "question": "Will it?"}, *rows[1:]], None),
        ("out/refused.jsonl", lambda _lines: [], "useless answers that refused.jsonl does not name"),
        (
            "out/refused.jsonl",
            lambda lines: [{**lines[0], "reason": "other: x"}],
            "refused.jsonl does not name, or names",
        ),
        (
            "work/key/answers-0-by-1000.jsonl",
            lambda lines: [*lines, lines[0]],
            "prompts that were asked more than once",
        ),
    ],
)
def test_damage_is_caught(tmp_path, dataset, server, file, change, caught):
    script(server, rows_of(dataset)[3], USELESS["refusal"])
    config, job = endpoint_config(server), job_in(tmp_path, dataset)
    generate_teacher(config, job)
    assert not failures(verify_answers(config, job))
    edit(tmp_path / file, change)
    if caught is None:  # a row that changed since is asked of the log, which has no answer
        with pytest.raises(ArtifactError, match="1 of 12 prompts have no answer"):
            verify_answers(config, job)
    else:
        found = failed(verify_answers(config, job))
        assert any(caught in name for name in found), found


def test_answers_of_other_prompts_are_caught(tmp_path, dataset, server):
    config, job = endpoint_config(server), job_in(tmp_path, dataset)
    generate_teacher(config, job)
    edit(job.out / "answers.jsonl", lambda lines: [{**lines[0], "prompt_digest": "0" * 64}, *lines[1:]])
    assert "answers to prompts that the rows do not give" in failed(verify_answers(config, job))
