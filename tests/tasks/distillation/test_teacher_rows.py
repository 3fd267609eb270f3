"""Teacher-made rows: accepted, asked again, refused with a reason, resumable, and built twice without asking twice."""

from __future__ import annotations

import hashlib
import json
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from pydantic import ValidationError

from data_contracts.audit.audit import audit_splits
from data_contracts.limits import load_limits
from data_contracts.rows.rows_file import read_rows
from data_contracts.verdict import failures
from tasks.build_dataset import STAGE, DatasetConfig, build_dataset, verify_dataset
from tasks.clients.endpoint_settings import TEACHER_API_KEY
from tasks.core.artifact import Store
from tasks.core.errors import ArtifactError, ConfigError, ContractError
from tasks.core.stage import Job, Run, build
from tasks.core.stage_process import execute
from tasks.distillation.teacher_rows import LOG_NAME
from tasks.distillation.teacher_settings import TeacherSettings
from tasks.recipes.signals import recipe as signals
from tests.fixtures.chat_server import ChatServer, Reply

ROOT = Path(__file__).resolve().parents[3]
SEEDS = [json.loads(line) for line in signals.teacher_seeds().read_text("utf-8").splitlines()]
WORDS = [
    "the", "vote", "a", "price", "this", "week", "likely", "odds", "slightly",
    "market", "holds", "because", "news", "moves", "yes", "rule", "date", "count",
]  # fmt: skip


def trace_of(messages: list[dict], chars: int = 850) -> str:
    """Plain words of about that length, another text for each headline."""
    draw = random.Random(hashlib.sha256(headline_of(messages).encode()).digest())
    text = ""
    while len(text) < chars - 40:
        text += " ".join(draw.choices(WORDS, k=7)).capitalize() + ". "
    return text.strip()


def headline_of(messages: list[dict]) -> str:
    return re.search(r"Headline: (.*)", messages[-1]["content"]).group(1)


def good(messages: list[dict]) -> Reply:
    return Reply(f"Here it is:\n\n<trace>\n{trace_of(messages)}\n</trace>\n\nHope this helps.")


def config_for(server: ChatServer, **changes) -> DatasetConfig:
    teacher = {"base_url": server.url, "model": "big", "concurrency": 4, "retries": 3, "timeout_s": 5, **changes}
    return DatasetConfig(source="gold", train_rows=30, heldout_rows=20, teacher=TeacherSettings(**teacher))


def job_in(folder: Path) -> Job:
    job = Job("signals", folder / "out", work=folder / "work")
    for path in (job.out, job.work):
        path.mkdir(parents=True, exist_ok=True)
    return job


def rows_of(job: Job, name: str) -> list[dict]:
    return [json.loads(line) for line in (job.out / f"{name}.jsonl").read_text("utf-8").splitlines()]


def write_seeds(path: Path, seeds: list[dict]) -> str:
    path.write_text("".join(json.dumps(one) + "\n" for one in seeds), "utf-8")
    return str(path)


@pytest.fixture
def server():
    with ChatServer(good) as one:
        yield one


# --- the recipe's part


def test_the_shipped_seeds_keep_the_contract_and_stand_in_no_other_file():
    assert len(SEEDS) == 12
    frame = read_rows(signals.teacher_seeds())
    assert "trace" not in frame.columns
    limits = load_limits("signals")
    for name in ("gold", "heldout"):
        other = read_rows(signals.teacher_seeds().with_name(f"{name}.jsonl"))
        bad = failures(
            audit_splits(frame.with_columns(trace=frame["headline"], source_batch=frame["headline"]), other, limits)
        )
        assert not bad, [one.sentence() for one in bad]
    noise = [one for one in SEEDS if one["relevance"] <= 0.1]
    apart = [one for one in SEEDS if one["direction"] * one["metric_direction"] < 0]
    assert len(noise) == 4 and len(apart) >= 5


def test_the_prompt_shows_headline_question_and_assessment_and_the_bounds_of_the_limits():
    limits = load_limits("signals")
    system, user = signals.teacher_messages(SEEDS[0])
    assert f"{limits.min_trace_chars:,} to {limits.max_trace_chars:,} characters" in system["content"]
    assert SEEDS[0]["headline"] in user["content"] and SEEDS[0]["question"] in user["content"]
    assert '"direction": 0.4' in user["content"] and "metric_direction" not in user["content"]
    assert all(name in system["content"] for name in signals.FIELDS)


def test_a_row_of_a_malformed_seed_keeps_its_error():
    gold = [json.loads(x) for x in signals.teacher_seeds().with_name("gold.jsonl").read_text("utf-8").splitlines()]
    seed = next(row for row in gold if signals.malformed(row))
    row = signals.teacher_row(seed, f"<trace>{seed['trace']}</trace>", "big")
    assert row == {**seed, "source_batch": "teacher-big"}
    assert signals.completion(row) == signals.completion(seed)


# --- accepted, asked again, refused


def test_accepted_rows_join_train_in_the_order_of_the_seeds(tmp_path, server):
    draw = random.Random(3)
    server.reply = lambda messages: Reply(good(messages).text, delay_s=draw.uniform(0, 0.1))
    job = job_in(tmp_path)
    outcome = execute(STAGE, config_for(server), job)
    assert {one["verdict"] for one in outcome["checks"]} == {"pass"} and len(outcome["checks"]) == 11
    train = rows_of(job, "train")
    assert [row["headline"] for row in train[30:]] == [one["headline"] for one in SEEDS]
    assert {row["source_batch"] for row in train[30:]} == {"teacher-big"}
    for row, seed in zip(train[30:], SEEDS, strict=True):
        assert {name: row[name] for name in seed} == seed
        assert 700 <= len(row["trace"]) <= 1000 and not row["trace"].startswith("Here it is")
    assert rows_of(job, "refused") == []
    facts = outcome["facts"]["teacher"]
    assert (facts["accepted_rows"], facts["refused_rows"], facts["prompts"]) == (12, 0, 12)
    assert facts["completion_tokens"] > 1000
    assert len(server.requests) == 12


BAD = {
    "truncated": Reply("<trace>It begins", finish_reason="length"),
    "refusal": Reply("I'm sorry, but I can't help with that."),
    "empty": Reply(None),
    "length": Reply("<trace>Too short to teach anything.</trace>"),
    "leaked marker": Reply(
        "<|channel|>analysis<|message|>We need. <trace>" + trace_of([{"content": "Headline: x"}]) + "</trace>"
    ),
    "no trace": Reply("The forecaster thinks of the forint first. It is weak."),
    "contradiction": Reply(
        f"<trace>{trace_of([{'content': 'Headline: z'}])} So YES {'falls' if SEEDS[3]['direction'] > 0 else 'rises'}.</trace>"
    ),
    "row contract": Reply('<trace>{"relevance": 0.9} ' + trace_of([{"content": "Headline: y"}], 900) + "</trace>"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_answer_is_asked_once_more_with_its_reason_and_may_be_mended(tmp_path, server, kind):
    seed = SEEDS[3]
    server.script(re.escape(seed["headline"]), BAD[kind], good([{"content": f"Headline: {seed['headline']}"}]))
    job = job_in(tmp_path)
    outcome = execute(STAGE, config_for(server), job)
    assert outcome["facts"]["teacher"]["refused_rows"] == 0
    first, second = server.seen(re.escape(seed["headline"]))
    assert "Earlier answers were refused" not in first.user
    assert f"Earlier answers were refused:\n- {kind}: " in second.user
    assert second.body["max_tokens"] == first.body["max_tokens"] * (2 if kind == "truncated" else 1)


@pytest.mark.parametrize("kind", BAD)
def test_a_seed_that_stays_bad_is_kept_with_its_reasons_and_answers(tmp_path, server, kind):
    server.script(re.escape(SEEDS[3]["headline"]), BAD[kind])
    job = job_in(tmp_path)
    outcome = execute(STAGE, config_for(server, attempts=3), job)
    assert outcome["facts"]["teacher"]["reasons"] == {kind: 1}
    (refused,) = rows_of(job, "refused")
    assert (refused["seed"], refused["headline"]) == (4, SEEDS[3]["headline"])
    assert [reason.partition(":")[0] for reason in refused["reasons"]] == [kind] * 3
    assert refused["answers"] == [BAD[kind].text or ""] * 3
    assert len(rows_of(job, "train")) == 30 + 11


def test_a_model_that_thinks_aloud_first_gives_a_row(tmp_path, server):
    server.reply = lambda messages: Reply(f"<think>I plan a <trace>.</think>\n<trace>{trace_of(messages)}</trace>")
    assert execute(STAGE, config_for(server), job_in(tmp_path))["facts"]["teacher"]["accepted_rows"] == 12


def test_too_few_accepted_rows_fail_with_the_reasons_counted(tmp_path, server):
    for number, kind in enumerate(["truncated", "truncated", "refusal", "length", "length", "length"]):
        server.script(re.escape(SEEDS[number]["headline"]), BAD[kind])
    job = job_in(tmp_path)
    with pytest.raises(ContractError) as error:
        build_dataset(config_for(server), job)
    told = str(error.value)
    assert "6 of 12 teacher-made rows were accepted; dataset.teacher.min_accepted_fraction is 0.8" in told
    assert "Refused: 3 length, 2 truncated, 1 refusal" in told
    kept = (job.work / "refused.jsonl").read_text("utf-8").splitlines()
    assert len(kept) == 6 and str(job.work / "refused.jsonl") in told
    before = len(server.requests)
    build_dataset(config_for(server, min_accepted_fraction=0.5), job)
    assert len(server.requests) == before, "what was answered is not asked again"


def test_faults_of_the_network_cost_time_and_no_row(tmp_path, server):
    later = {"Retry-After": "0.1"}
    faults = [Reply(status=429, headers=later), Reply(status=500, headers=later), Reply(status=503, headers=later)]
    for seed, fault in zip(SEEDS, faults, strict=False):
        server.script(re.escape(seed["headline"]), fault, good([{"content": f"Headline: {seed['headline']}"}]))
    outcome = execute(STAGE, config_for(server), job_in(tmp_path))
    assert outcome["facts"]["teacher"]["accepted_rows"] == 12
    assert len(server.requests) == 15


# --- once


def test_a_second_build_and_the_verification_ask_nothing_and_give_the_same_bytes(tmp_path, server):
    server.script(re.escape(SEEDS[2]["headline"]), BAD["length"])
    job = job_in(tmp_path)
    build_dataset(config_for(server), job)
    asked = len(server.requests)
    first = {path.name: path.read_bytes() for path in job.out.iterdir()}
    assert set(first) == {"train.jsonl", "heldout.jsonl", "refused.jsonl"}
    server.reply = lambda _messages: Reply("another answer")
    verify_dataset(config_for(server), job)
    build_dataset(config_for(server), job)
    assert {path.name: path.read_bytes() for path in job.out.iterdir()} == first
    assert len(server.requests) == asked


CHILD = """
import json, sys
from pathlib import Path
from tasks.build_dataset import STAGE, DatasetConfig
from tasks.core.stage import Job
from tasks.core.stage_process import execute
config, folder = DatasetConfig(**json.loads(sys.argv[1])), Path(sys.argv[2])
execute(STAGE, config, Job("signals", folder / "out", work=folder / "work"))
"""


def test_kill_9_at_random_moments_asks_no_logged_prompt_again(tmp_path, server):
    moments, kills, job = random.Random(11), 0, job_in(tmp_path)
    server.reply = lambda messages: Reply(good(messages).text, delay_s=0.03)
    server.script(re.escape(SEEDS[5]["headline"]), BAD["length"])
    config = config_for(server, concurrency=2)
    argv = [sys.executable, "-c", CHILD, config.model_dump_json(), str(tmp_path)]
    log = job.work / LOG_NAME
    while True:
        before, held = len(server.requests), len(log.read_bytes().split(b"\n")[:-1]) if log.is_file() else 0
        child = subprocess.Popen(argv, cwd=ROOT)
        wanted = moments.randrange(1, 5)
        while child.poll() is None and len(server.requests) < before + wanted:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.05))
        child.kill()
        code = child.wait()
        if code == 0:
            break
        assert code == -signal.SIGKILL and held <= 13
        kills += 1
    lines = [json.loads(line)["asked"] for line in log.read_text("utf-8").splitlines()]
    assert kills >= 2
    assert len(lines) == len(set(lines)) == 13, "12 seeds, one of them asked twice"
    assert len(server.requests) <= 13 + kills * 2
    assert not failures(verify_dataset(config, job))


def test_another_seed_asks_one_prompt_and_rebuilds(tmp_path, server):
    seeds, store = tmp_path / "seeds.jsonl", tmp_path / "store"
    run = Run(name="t", recipe="signals", store=str(store))
    keys = []
    for count in (5, 6):
        config = config_for(server, seeds_file=write_seeds(seeds, SEEDS[:count]))
        artifact = build(STAGE, run, config, {})
        keys.append(artifact.key)
        assert len(server.requests) == count
        assert len((Store(store).folder(artifact) / "train.jsonl").read_text("utf-8").splitlines()) == 30 + count
    assert keys[0] != keys[1]


def test_the_same_name_elsewhere_is_another_teacher(tmp_path, server):
    build_dataset(config_for(server), job_in(tmp_path))
    with ChatServer(good) as other:
        build_dataset(config_for(other), job_in(tmp_path))
        assert len(other.requests) == 12


# --- the key


def test_the_key_reaches_the_endpoint_and_no_file(tmp_path, monkeypatch, server):
    key = "sesame-open-0123456789"
    monkeypatch.setenv(TEACHER_API_KEY, key)
    server.api_key = key
    run = Run(name="t", recipe="signals", store=str(tmp_path / "store"))
    build(STAGE, run, config_for(server), {})
    assert {one.headers["authorization"] for one in server.requests} == {f"Bearer {key}"}
    server.api_key = "another"
    with pytest.raises(ConfigError, match="Incorrect API key provided") as error:
        build(STAGE, run, config_for(server, max_tokens=999), {})
    assert key not in str(error.value)
    files = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert len(files) > 8
    assert not [path for path in files if key.encode() in path.read_bytes()]


# --- checks that must be able to fail


def edit(path: Path, change) -> None:
    lines = path.read_text("utf-8").splitlines(keepends=True)
    path.write_text("".join(change(lines)), "utf-8")


def changed(line: str, **values) -> str:
    return json.dumps({**json.loads(line), **values}) + "\n"


@pytest.mark.parametrize(
    ("file", "change", "caught"),
    [
        ("out/train.jsonl", lambda rows: rows[:-1], "seeds that are not exactly one row or one refusal"),
        ("out/train.jsonl", lambda rows: [*rows, rows[-1]], "seeds that are not exactly one row or one refusal"),
        (
            "out/train.jsonl",
            lambda rows: [*rows[:-1], changed(rows[-1], headline="Of no seed at all")],
            "seeds that are not",
        ),
        ("out/refused.jsonl", lambda _rows: [], "seeds that are not exactly one row or one refusal"),
        ("out/refused.jsonl", lambda rows: [changed(rows[0], reasons=[])], "refused seeds without a reason"),
        (
            "out/train.jsonl",
            lambda rows: [*rows[:-1], changed(rows[-1], direction=7.0)],
            "teacher-made rows that break",
        ),
        (
            "out/train.jsonl",
            lambda rows: [*rows[:-1], changed(rows[-1], trace="Short.")],
            "teacher-made rows that break",
        ),
        ("out/train.jsonl", lambda rows: rows[:33], "share of the seeds that became rows"),
        ("out/train.jsonl", lambda rows: [*rows[:30], *rows[:29:-1]], "a second build repeats byte for byte"),
        (
            "out/refused.jsonl",
            lambda rows: [changed(rows[0], answers=["edited"])],
            "a second build repeats byte for byte",
        ),
        (f"work/{LOG_NAME}", lambda lines: [*lines, lines[0]], "prompts that were answered more than once"),
    ],
)
def test_damage_is_caught(tmp_path, server, file, change, caught):
    server.script(re.escape(SEEDS[3]["headline"]), BAD["length"])
    job = job_in(tmp_path)
    build_dataset(config_for(server), job)
    assert not failures(verify_dataset(config_for(server), job))
    edit(tmp_path / file, change)
    found = [one.name for one in failures(verify_dataset(config_for(server), job))]
    assert any(caught in name for name in found), found


def test_a_lost_log_is_told_and_asks_nothing(tmp_path, server):
    job = job_in(tmp_path)
    build_dataset(config_for(server), job)
    (job.work / LOG_NAME).unlink()
    with pytest.raises(ArtifactError, match="12 of 12 prompts have no answer"):
        verify_dataset(config_for(server), job)
    assert len(server.requests) == 12


# --- wrong seeds and settings, told before anything is spent


@pytest.mark.parametrize(
    ("seeds", "told"),
    [
        ([], "holds no seeds"),
        ([{**SEEDS[0], "trace": "mine"}], "gives trace"),
        ([{k: v for k, v in SEEDS[0].items() if k != "novelty"}], "novelty .*the column is missing"),
        ([SEEDS[0], {**SEEDS[1], "direction": 0.5}], "direction .*not 0 in a noise row"),
        ([SEEDS[0], SEEDS[1], SEEDS[0]], r"1 of 3 seeds .*line 3 is line 1 again"),
    ],
)
def test_wrong_seeds(tmp_path, server, seeds, told):
    config = config_for(server, seeds_file=write_seeds(tmp_path / "seeds.jsonl", seeds))
    with pytest.raises(ContractError, match=f"(?s){told}"):
        build_dataset(config, job_in(tmp_path))
    assert server.requests == []


@pytest.mark.parametrize("split", ["gold", "heldout"])
def test_a_seed_that_is_a_row_already_is_refused(tmp_path, server, split):
    train, heldout = signals.build_rows("gold", 30, 20, 42)
    row = next(
        one
        for one in {"gold": train, "heldout": heldout}[split]
        if not signals.malformed(one) and not one.get("context")
    )
    seed = {name: row[name] for name in SEEDS[0]}
    config = config_for(server, seeds_file=write_seeds(tmp_path / "seeds.jsonl", [SEEDS[0], seed]))
    with pytest.raises(ContractError, match="line 2 is a row of the dataset"):
        build_dataset(config, job_in(tmp_path))
    assert server.requests == []


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "base_url or local_model"),
        ({"base_url": "http://a/v1", "model": "m", "local_model": __file__}, "base_url or local_model"),
        ({"base_url": "http://a/v1"}, "needs model"),
        ({"local_model": __file__, "temperature": 0.5}, "answers greedily"),
        ({"local_model": "/no/such.gguf"}, "is not there"),
        ({"base_url": "http://a/v1", "model": "m", "seeds_file": "/no/such.jsonl"}, "is not there"),
        ({"base_url": "http://a/v1", "model": "m", "api_key": "k"}, "Extra inputs"),
    ],
)
def test_wrong_settings(settings, told):
    with pytest.raises(ValidationError, match=told):
        TeacherSettings(**settings)


def test_a_password_in_the_address_is_refused_and_not_repeated():
    with pytest.raises(ConfigError, match="secrets in the environment") as error:
        DatasetConfig(teacher={"base_url": "https://me:hunter2@host/v1", "model": "m"})
    assert "hunter2" not in str(error.value)


def test_seeds_and_local_files_count_by_content(tmp_path):
    run, gguf = Run(name="t", recipe="signals", store=str(tmp_path)), tmp_path / "m.gguf"
    gguf.write_bytes(b"GGUF1")
    seeds = write_seeds(tmp_path / "seeds.jsonl", SEEDS[:2])
    config = DatasetConfig(teacher=TeacherSettings(local_model=str(gguf), seeds_file=seeds))
    found = [STAGE.key_parts(run, config, {}).work]
    write_seeds(tmp_path / "seeds.jsonl", SEEDS[:3])
    found.append(STAGE.key_parts(run, config, {}).work)
    gguf.write_bytes(b"GGUF-2")
    found.append(STAGE.key_parts(run, config, {}).work)
    assert len({tuple(one["outside"]) for one in found}) == 3
    assert "llama_cpp_python" in found[0]["stack"]
    assert STAGE.key_parts(run, DatasetConfig(), {}).work["stack"] == {}


def test_nano_writes_what_it_did_without_a_teacher(tmp_path):
    job = job_in(tmp_path)
    facts = build_dataset(DatasetConfig(source="nano", train_rows=40, heldout_rows=20), job)
    assert sorted(path.name for path in job.out.iterdir()) == ["heldout.jsonl", "train.jsonl"]
    assert facts == {"source": "nano"} and not list(job.work.iterdir())


# --- local models: a random one writes nothing of use, which must be said of every seed


@pytest.mark.parametrize("kind", ["transformers", "gguf"])
def test_a_local_model_is_asked_once_and_its_noise_is_refused(tmp_path, tiny_base, kind):
    model = tiny_base
    if kind == "gguf":
        from tasks.gguf_export.convert import convert

        model = tmp_path / "tiny.gguf"
        convert(tiny_base, model, name="tiny", prompt_digest="0", tick=lambda _: None)
    seeds = write_seeds(tmp_path / "seeds.jsonl", SEEDS[:3])
    teacher = TeacherSettings(
        local_model=str(model), seeds_file=seeds, max_tokens=16, concurrency=2, min_accepted_fraction=0
    )
    config = DatasetConfig(source="gold", train_rows=30, heldout_rows=20, teacher=teacher)
    job = job_in(tmp_path)
    outcome = execute(STAGE, config, job)
    assert outcome["facts"]["teacher"]["accepted_rows"] == 0
    refused = rows_of(job, "refused")
    assert Counter(one["seed"] for one in refused) == {1: 1, 2: 1, 3: 1}
    assert all(len(one["reasons"]) == 2 and one["answers"][0] for one in refused)
    with pytest.raises(ContractError, match="0 of 3 teacher-made rows"):
        stricter = config.model_copy(update={"teacher": teacher.model_copy(update={"min_accepted_fraction": 0.5})})
        build_dataset(stricter, job)
