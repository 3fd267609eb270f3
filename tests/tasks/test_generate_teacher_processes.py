"""generate_teacher as it runs: whatever is killed when, each prompt is answered once; and the engines of this machine."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from data_contracts.verdict import failures
from tasks.clients.vllm_settings import DEFAULT_PYTHON, interpreter_problem
from tasks.core.artifact import Artifact, Store
from tasks.core.stage import Run, build
from tasks.core.stage_process import execute
from tasks.generate_teacher import STAGE, GenerateConfig, verify_answers
from tests.fixtures.chat_server import ChatServer, Reply
from tests.fixtures.teaching import endpoint_config, good_teacher, job_in, make_dataset, rows_of
from tests.fixtures.tiny_chain import publish_folder
from tests.fixtures.tiny_model import make_tiny_model

ROOT = Path(__file__).resolve().parents[2]
needs_vllm = pytest.mark.skipif(bool(interpreter_problem(DEFAULT_PYTHON)), reason=interpreter_problem(DEFAULT_PYTHON))
MAX_KILLS = 12
ENDPOINT_CHILD = """
import sys
from pathlib import Path
from tasks.core.stage import Job
from tasks.core.stage_process import execute
from tasks.generate_teacher import STAGE, GenerateConfig
config, folder = GenerateConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2])
execute(STAGE, config, Job("signals", folder / "out", inputs={"dataset": folder / "dataset"}, work=folder / "work" / "key"))
"""
BUILDER = """
import json, sys
from tasks.core.artifact import Artifact
from tasks.core.stage import Run, build
from tasks.generate_teacher import STAGE, GenerateConfig
spec = json.loads(sys.argv[1])
inputs = {name: Artifact(**one) for name, one in spec["inputs"].items()}
print(build(STAGE, Run(**spec["run"]), GenerateConfig(**spec["config"]), inputs).model_dump_json())
"""


def _command(process: psutil.Process) -> str:
    """Its command line; empty once it has ended, which a child may do at any moment."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def lines_in(log: Path) -> list[str]:
    """What was asked, of the whole lines of an answer log."""
    if not log.is_file():
        return []
    return [json.loads(line)["asked"] for line in log.read_bytes().split(b"\n")[:-1]]


def test_kill_9_at_random_moments_loses_no_answer_and_repeats_none(tmp_path):
    dataset = make_dataset(tmp_path / "dataset")
    good, moments, kills = good_teacher(dataset), random.Random(5), 0
    job = job_in(tmp_path, dataset)
    log = job.work / "answers-0-by-1000.jsonl"
    with ChatServer(lambda messages: Reply(good(messages).text, delay_s=0.03)) as server:
        config = endpoint_config(server, endpoint={"concurrency": 2})
        argv = [sys.executable, "-c", ENDPOINT_CHILD, config.model_dump_json(), str(tmp_path)]
        for _ in range(MAX_KILLS):
            before, held = len(server.requests), lines_in(log)
            child = subprocess.Popen(argv, cwd=ROOT)
            wanted = moments.randrange(1, 5)
            while child.poll() is None and len(server.requests) < before + wanted:
                time.sleep(0.001)
            time.sleep(moments.uniform(0, 0.05))
            child.kill()
            if child.wait() == 0:
                break
            assert child.returncode == -signal.SIGKILL and lines_in(log)[: len(held)] == held
            kills += 1
        assert child.returncode == 0 and kills >= 2
        assert len(server.requests) <= 12 + kills * 2
        assert not failures(verify_answers(config, job))
    assert len(lines_in(log)) == len(set(lines_in(log))) == 12
    assert [one["row"] for one in rows_of(job.out, "answers")] == list(range(1, 13))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("teacher") / "model", hidden_size=256, context_tokens=1024)


def shop(tmp_path: Path, model: Path, rows: int) -> tuple[Store, Run, dict[str, Artifact]]:
    store = Store(tmp_path / "store")
    dataset = make_dataset(tmp_path / "dataset", rows)
    inputs = {
        "dataset": publish_folder(store, "dataset", dataset),
        "teacher": publish_folder(store, "merged-model", model),
    }
    return store, Run(name="t", recipe="signals", store=str(store.root)), inputs


def settings(**changes) -> GenerateConfig:
    """A random model writes nothing of use, which is no part of these tests."""
    return GenerateConfig(**({"max_new_tokens": 24, "attempts": 1, "max_refused_fraction": 1.0} | changes))


@needs_vllm
def test_kill_9_of_worker_child_and_builder_under_vllm(tmp_path, model):
    """Three kinds of process die while answers come; the fourth start finishes, with the answers of an undisturbed run."""
    store, run, inputs = shop(tmp_path, model, 48)
    config = settings(max_new_tokens=160, vllm={"max_sequences": 4})
    spec = {
        "run": run.model_dump(),
        "config": config.model_dump(mode="json"),
        "inputs": {name: one.model_dump() for name, one in inputs.items()},
    }
    held: list[str] = []
    for victim in ("vllm_worker.py", "-m tasks.generate_teacher", "builder", ""):
        builder = subprocess.Popen(
            [sys.executable, "-c", BUILDER, json.dumps(spec)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        if victim:
            log = grown_log(store, builder, len(held))
            processes = [psutil.Process(builder.pid), *psutil.Process(builder.pid).children(recursive=True)]
            victims = processes[:1] if victim == "builder" else [p for p in processes if victim in _command(p)]
            assert len(victims) == 1, victim
            os.kill(victims[0].pid, signal.SIGKILL)
            builder.wait(60)
            psutil.wait_procs(processes, timeout=20)
            assert not [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
            assert lines_in(log)[: len(held)] == held and len(lines_in(log)) > len(held)
            held = lines_in(log)
    artifact = Artifact.model_validate_json(builder.communicate()[0])
    assert builder.returncode == 0
    asked = lines_in(log)
    assert len(asked) == len(set(asked)) == 48 and asked[: len(held)] == held
    facts = store.manifest(artifact)["facts"]
    assert facts["prompts"] == 48 and facts["new_answers"] == 48 - len(held)
    undisturbed = build(
        STAGE, run.model_copy(update={"store": str(tmp_path / "other")}), config, elsewhere(tmp_path, store, inputs)
    )
    assert undisturbed.digest == artifact.digest


def grown_log(store: Store, builder: subprocess.Popen, held: int) -> Path:
    """The answer log, as soon as it has more lines than were held."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert builder.poll() is None, "it ended before it could be killed"
        for log in store.root.glob("work/generate_teacher/*/answers-0-by-1000.jsonl"):
            if len(lines_in(log)) > held:
                return log
        time.sleep(0.002)
    raise AssertionError("no further answer came")


def elsewhere(tmp_path: Path, store: Store, inputs: dict[str, Artifact]) -> dict[str, Artifact]:
    """The same inputs in another store, which has no answers yet."""
    other = Store(tmp_path / "other")
    return {
        name: publish_folder(other, one.kind, without_manifests(tmp_path, store, one)) for name, one in inputs.items()
    }


def without_manifests(tmp_path: Path, store: Store, one: Artifact) -> Path:
    import shutil

    copy = tmp_path / f"copy-{one.kind}"
    shutil.copytree(store.folder(one), copy, ignore=shutil.ignore_patterns("manifests"))
    return copy


@needs_vllm
def test_the_engines_of_this_machine_give_the_same_answers(tmp_path, model):
    """vLLM, transformers and llama.cpp (16-bit weights there): greedy, the same texts from the same prompts."""
    from tasks.gguf_export.convert import convert

    gguf = tmp_path / "tiny.gguf"
    convert(model, gguf, name="tiny", prompt_digest="0", tick=lambda _: None)
    dataset = make_dataset(tmp_path / "dataset", 8)
    found = {}
    for engine in ("vllm", "transformers", "llama_cpp"):
        path = str(gguf if engine == "llama_cpp" else model)
        job = job_in(tmp_path / engine, dataset)
        outcome = execute(STAGE, settings(engine=engine, model=path), job)
        assert outcome["facts"]["prompts"] == 8 and outcome["facts"]["completion_tokens"] > 100
        found[engine] = [
            (one["text"], one["finish_reason"], one["prompt_tokens"]) for one in rows_of(job.out, "answers")
        ]
    assert found["vllm"] == found["transformers"]
    same = sum(one == other for one, other in zip(found["vllm"], found["llama_cpp"], strict=True))
    assert same >= 7, "bfloat16 weights round alike; a near tie may fall otherwise in another engine"


def test_a_model_of_the_user_s_counts_by_its_content(tmp_path, model):
    run = Run(name="t", recipe="signals", store=str(tmp_path))
    config = settings(engine="transformers", model=str(model))
    before = STAGE.key_parts(run, config, {}).work
    (model / "note.txt").write_text("new")
    try:
        assert STAGE.key_parts(run, config, {}).work["outside"] != before["outside"]
    finally:
        (model / "note.txt").unlink()
    assert "transformers" in before["stack"] and "tasks.clients.response_log" in before["code"]
    assert before["texts"].keys() == {"tasks/clients/vllm_worker.py"}
