"""The demo, for real: one run of the whole chain from the command line, and what it left, loaded and asked.

One run serves all tests here (about five minutes on two quiet cores). The numbers are those that the issue asks for.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from data_contracts.verdict import failures
from flows.config import load_config, profile_path
from tests.fixtures import watched
from tests.fixtures.hub_case import REPO, TOKEN
from tests.fixtures.hub_server import HubServer, user_account
from tests.fixtures.processor_time import children_cpu_s
from tests.fixtures.ui_process import Started, asked, free_port, trigger, wait_for

ROOT = Path(__file__).resolve().parents[2]
FILES = ("f16", "q8_0", "q4_k_m")
STAGES = (
    "prepare_base", "build_dataset", "validate_dataset", "train_lora", "merge_adapter", "export_gguf", "evaluate_model",
    "publish_model",
)  # fmt: skip

pytestmark = pytest.mark.slow


@dataclass
class Demo:
    """Where the run worked, and what it left."""

    folder: Path

    @property
    def watched(self) -> Path:
        """Where the stages of the first run wrote what they called and opened."""
        return self.folder / "watched"

    @property
    def release(self) -> Path:
        return self.folder / "release" / "signals-nano"

    def run(self, *changes: str, check: bool = True, **variables: str) -> tuple[str, float]:
        """One run of the command line, with environment variables of its own; (what it printed, seconds)."""
        started = time.monotonic()
        process = self.start(*changes, **variables)
        printed, _ = process.communicate()
        if check:
            assert process.returncode == 0, printed[-5000:]
        return printed, time.monotonic() - started

    def kill(self, moment: Callable[[], object], *changes: str) -> None:
        """Start a run, and kill -9 its process at a moment; its server and its child end by themselves."""
        process = self.start(*changes)
        children = []
        deadline = time.monotonic() + 600
        while not moment():
            assert process.poll() is None, process.communicate()[0][-5000:]
            assert time.monotonic() < deadline, "the moment never came"
            children = psutil.Process(process.pid).children(recursive=True)
            time.sleep(0.02)
        process.kill()
        process.wait()
        _, alive = psutil.wait_procs(children, timeout=30)
        for one in alive:  # Prefect's own server does not always see that its flow is gone
            one.kill()

    def start(self, *changes: str, command: str = "finetune", **variables: str) -> subprocess.Popen:
        """The command line in a process of its own, with environment variables of its own."""
        places = [f"store={self.folder / 'store'}", f"publish.folder={self.folder / 'release'}"]
        settings = [part for one in (*places, *changes) for part in ("--set", one)]
        env = {**os.environ, "PREFECT_HOME": str(self.folder / "prefect"), "HF_TOKEN": "hf_secretsecretsecretsecret"}
        env = {name: value for name, value in env.items() if name not in ("PREFECT_API_URL", "PREFECT_PROFILE")}
        env |= variables
        argv = [sys.executable, "-m", "flows", command, "signals/nano", *settings]
        return subprocess.Popen(argv, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def lying(self, pattern: str) -> set[Path]:
        """What the store holds under a pattern."""
        return set((self.folder / "store").glob(pattern))

    def how(self, printed: str) -> dict[str, str]:
        """Stage -> "built", "verified" or "reused", as the run printed it."""
        return {stage: re.search(rf"^{stage} +(built|verified|reused)", printed, re.M).group(1) for stage in STAGES}

    def manifests(self) -> dict:
        return json.loads((self.release / "manifest.json").read_text())

    def checks(self, role: str) -> dict[str, float]:
        return {one["name"]: one["measured"] for one in self.manifests()[role]["verified"]}


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Demo:
    made = Demo(tmp_path_factory.mktemp("demo"))
    before_s = children_cpu_s()
    made.watched.mkdir()
    printed, seconds = made.run(**watched.environment(made.watched))
    print(f"the chain took {seconds:.0f} s and {(cpu_s := children_cpu_s() - before_s):.0f} s of processor time")
    assert cpu_s < 2 * 2 * 360  # two cores for six minutes, on a processor half as fast; the watch costs some of it
    assert set(made.how(printed).values()) == {"built"}
    return made


@pytest.fixture(scope="module")
def board(demo) -> dict[str, dict]:
    rows = json.loads((demo.release / "leaderboard.json").read_text())["rows"]
    return {row["model"]: row for row in rows}


def value(board: dict, model: str, metric: str) -> float:
    return board[model]["scores"][metric]["value"]


def test_the_release_holds_what_it_promises(demo):
    names = {p.relative_to(demo.release).as_posix() for p in demo.release.rglob("*") if p.is_file()}
    wanted = {"Modelfile", "README.md", "leaderboard.json", "heldout.jsonl", "manifest.json", "report.html"}
    wanted |= {f"gguf/signals-nano-{name}.gguf" for name in FILES}
    wanted |= {
        f"model/{name}" for name in ("model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja")
    }
    assert wanted | {"model/generation_config.json"} <= names
    assert len((demo.release / "heldout.jsonl").read_text().splitlines()) >= 200


BLOCKS = {
    "prepare_base": "base", "build_dataset": "dataset", "validate_dataset": "validate_rows", "train_lora": "train",
    "merge_adapter": "merge", "export_gguf": "export", "evaluate_model": "evaluate", "publish_model": "publish",
}  # fmt: skip
"""Stage -> its block of the profile."""


@pytest.mark.parametrize("name", STAGES)
def test_what_a_stage_calls_and_opens_is_in_its_key(demo, name):
    """Each process of the first run wrote down what it called, at work and at its checks: a line left out is a stale hit."""
    events = [event for event in watched.read(demo.watched) if event.stage == name]
    assert {event.phase for event in events if event.event == "call"} == {"work", "checks"}
    config = getattr(load_config(profile_path("signals/nano"), {"min_free_gib": 0}), BLOCKS[name])
    stage = watched.stage_named(name)
    assert watched.uncounted(events, stage, config, "signals") == {"work": [], "checks": []}
    blind = replace(stage, work=verify_nothing, verify=verify_nothing, work_for=None)
    assert all(watched.uncounted(events, blind, config, "signals").values()), "the comparison finds nothing at all"


def verify_nothing() -> None:
    """Reaches no other line."""


def test_the_base_has_the_bug_and_the_tuned_files_do_not(board):
    assert value(board, "base", "valid_json_fraction") >= 0.98
    assert value(board, "base", "disagreeing_sign_accuracy_fraction") <= 0.20
    for model in ("adapter", "merged", *FILES):
        assert value(board, model, "valid_json_fraction") >= 0.98, model
        assert value(board, model, "disagreeing_sign_accuracy_fraction") >= 0.90, model
    assert value(board, "ceiling", "sign_accuracy_fraction") == 1


def test_the_board_shows_calibration_and_what_changed_inputs_do(board):
    """Numbers that no gate holds: a model that is right and overconfident, or right by luck, is seen for what it is."""
    for model in ("base", "merged", *FILES):
        measures = board[model]["measures"]
        slope = measures["magnitude_calibration_slope"]
        assert slope["n"] >= 100 and slope["low"] <= slope["value"] <= slope["high"]
        assert -1 < measures["trace_length_relevance_rank_correlation"]["value"] < 1, model
    changes = {name for name in board["merged"]["scores"] if name.startswith("metamorphic_")}
    assert changes == {f"metamorphic_{one}_fraction" for one in ("negated_question", "swapped_subject", "moved_date")}
    turned = "metamorphic_negated_question_fraction"
    assert value(board, "merged", turned) >= 0.9 > 0.5 >= value(board, "base", turned)


def test_the_merge_is_base_plus_adapter(demo):
    found = demo.checks("merged")
    assert found["largest logit difference to base+adapter before the cast, float32"] <= 1e-4
    assert found["least cosine of a module's float32 update with scale·B·A"] >= 0.999
    assert found["untouched tensors bit-equal to the base"] > 0


def test_the_gguf_files_are_the_merged_model(demo):
    checks = demo.manifests()["gguf"]["verified"]
    by_file = {name: [one for one in checks if one["name"].startswith(name)] for name in FILES}
    assert all(len(found) >= 10 for found in by_file.values())
    kl = {name: next(one["measured"] for one in found if "KL" in one["name"]) for name, found in by_file.items()}
    assert kl["f16"] <= 1e-5
    assert kl["q8_0"] <= 1e-3
    assert demo.manifests()["gguf"]["facts"]["bits_per_weight"]["q4_k_m"] < 8


def test_the_released_files_load_and_answer_alike(demo):
    from data_contracts.prompting.prompt import load_prompt
    from tasks.recipes.signals import recipe as signals
    from tasks.runtimes.llama_model import LlamaEngine

    rows = [json.loads(line) for line in (demo.release / "heldout.jsonl").read_text().splitlines()[:24]]
    messages = [load_prompt("signals").messages(row) for row in rows]
    for name in FILES:
        with LlamaEngine(demo.release / "gguf" / f"signals-nano-{name}.gguf", n_threads=1) as engine:
            prompts = [engine.tokenize(engine.render_chat(one)) for one in messages]
            parsed = [signals.parse_output(one.text) for one in engine.generate(prompts, 192)]
        right = [signals.score(row, one)["sign_accuracy_fraction"] for row, one in zip(rows, parsed, strict=True)]
        known = [one for one in right if one is not None]
        assert len(known) >= 8
        assert sum(known) / len(known) >= 0.9, name


def test_a_second_run_reuses_everything_quickly(demo):
    printed, seconds = demo.run()
    print(f"the cached run took {seconds:.1f} s")
    assert set(demo.how(printed).values()) == {"reused"}
    assert seconds < 60  # 20 s on two quiet cores; `make bench` measures it


def test_the_comparison_of_the_run_sets_the_control_apart(demo):
    """base < tuned, merged = tuned, every quant tied with them, the merge into 4 bits apart by a number, ceiling on top."""
    printed, _ = demo.run(command="compare")
    assert "train_lora" not in printed, "a comparison trains nothing"
    folder = demo.folder / "comparison" / "signals-nano"
    board = json.loads((folder / "comparison.json").read_text())
    models = {row["model"]: row for row in board["models"]}
    assert set(models) == {"ceiling", "base", "adapter", "merged", "merged-nf4", *FILES}
    assert next(iter(models)) == "ceiling" and models["ceiling"]["rank"] is None
    assert value(models, "ceiling", "disagreeing_sign_accuracy_fraction") == 1
    for name in ("adapter", "merged", *FILES):
        assert models[name]["rank"] == 1 < models["base"]["rank"], name
    pairs = {frozenset((one["first"], one["second"])): one for one in board["pairs"]}
    assert pairs[frozenset(("adapter", "merged"))]["reading"] == "all but tied"
    against_base = pairs[frozenset(("base", "merged"))]
    assert against_base["reading"] == "differ" and against_base["better"] == "merged"
    control, merged = models["merged-nf4"], models["merged"]
    assert control["facts"]["update"]["error_ratio"] > 10 * merged["facts"]["update"]["error_ratio"]
    kl = {name: row["distance"]["mean_kl_nats"] for name, row in models.items() if row.get("distance")}
    assert kl["merged-nf4"] > 10 * max(kl[name] for name in ("merged", "f16", "q8_0"))
    assert control["same_answers_fraction"] < merged["same_answers_fraction"]
    assert (folder / "comparison.png").stat().st_size > 20_000
    assert f"{merged['file_digest']}" == demo.manifests()["merged"]["digest"]
    again, _ = demo.run(command="compare")
    assert re.search(r"^compare_models +reused", again, re.M)


def test_a_run_from_the_ui_ends_green_and_leaves_its_pages(demo, tmp_path):
    profile = yaml.safe_load((ROOT / "configs" / "signals" / "nano.yaml").read_text())
    profile |= {"store": str(demo.folder / "store"), "publish": {"folder": str(demo.folder / "release")}}
    path = tmp_path / "nano.yaml"
    path.write_text(yaml.safe_dump(profile))
    ui = Started(tmp_path / "home", free_port())
    try:
        with httpx.Client(base_url=f"{ui.wait_until_ready()}/api", timeout=30) as api:
            run = trigger(api, "finetune/laptop-nano", {"profile": str(path)})
            done = wait_for(api, run, {"COMPLETED", "FAILED", "CRASHED"}, limit_s=600)
            assert done["state_type"] == "COMPLETED", done["state"]
            pages = {
                one["key"]: one["data"] for one in asked(api, "POST", "/artifacts/filter", json={}).json() if one["key"]
            }
    finally:
        ui.end(signal.SIGINT)
    assert {"signals-nano-lineage", "signals-nano-verification", "signals-nano-leaderboard"} <= set(pages)
    assert "```mermaid" in pages["signals-nano-lineage"]
    assert "q4_k_m" in pages["signals-nano-leaderboard"]


def test_one_flipped_bit_rebuilds_that_stage_and_nothing_else(demo):
    merged = next((demo.folder / "store" / "objects" / "merged-model").iterdir()) / "model.safetensors"
    data = bytearray(merged.read_bytes())
    data[-100] ^= 1
    merged.write_bytes(data)
    printed, _ = demo.run()
    how = demo.how(printed)
    assert how.pop("merge_adapter") == "built"
    assert set(how.values()) == {"reused"}
    assert "model.safetensors changed" in printed


def test_a_changed_limit_verifies_again_and_writes_the_lineage_and_trains_nothing(demo):
    printed, _ = demo.run("validate_rows.max_length_tokens=380")
    how = demo.how(printed)
    assert (how.pop("validate_dataset"), how.pop("publish_model")) == ("verified", "built")
    assert set(how.values()) == {"reused"}
    assert "config.max_length_tokens: 384 -> 380" in printed


def test_a_release_reaches_the_hub_and_is_asked_again_from_there(demo):
    with HubServer(TOKEN) as hub:
        away = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "NO_PROXY": "127.0.0.1,localhost"}
        printed, _ = demo.run(f"publish.hub_repo={REPO}", **away)
        how = demo.how(printed)
        assert how.pop("publish_model") == "built"
        assert set(how.values()) == {"reused"}
        stored = hub.stored(REPO)
        assert {"README.md", "model/model.safetensors", "gguf/signals-nano-q8_0.gguf"} <= set(stored)
        assert stored["Modelfile"] == (demo.release / "Modelfile").read_bytes()
        found = [
            json.loads(p.read_text()) for p in (demo.folder / "store" / "objects" / "release").rglob("manifests/*.json")
        ]
        (published,) = [one for one in found if one["config"]["hub_repo"] == REPO]
        again = [one for one in published["verified"] if "from the Hub" in one["name"]]
        assert len(again) == 4, "merged and three GGUF files, loaded from the commit and asked again"
        assert TOKEN not in printed

        hub.accounts[TOKEN] = user_account(role="read")
        printed, _ = demo.run(f"publish.hub_repo={REPO}", "publish.description=Another.", check=False, **away)
        assert "Nothing was run" in printed
        assert "prepare_base" not in printed


def test_the_served_release_sees_the_same_prompt_and_gives_the_same_answer(demo):
    from openai import OpenAI

    from data_contracts.prompting.prompt import load_prompt
    from tasks.recipes import load_recipe
    from tasks.runtimes.llama_model import LlamaEngine

    rows = [json.loads(line) for line in (demo.release / "heldout.jsonl").read_text().splitlines()[:6]]
    path = demo.release / "gguf" / "signals-nano-q8_0.gguf"
    argv = [sys.executable, "-m", "flows", "serve", str(demo.release), "--port", "0"]
    served = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        said = "".join(iter(served.stdout.readline, "Any API key will do. Ctrl-C stops.\n"))
        client = OpenAI(base_url=re.search(r"base URL +(\S+)", said)[1], api_key="none", max_retries=0, timeout=60)
        with LlamaEngine(path, n_threads=1) as engine:
            for row in rows:
                messages = load_prompt("signals").messages(row)
                text = engine.render_chat(messages)
                ids = engine.tokenize(text)
                got = client.chat.completions.create(model="signals-nano-q8_0", messages=messages, max_tokens=192)
                tokens = client.post("/../extras/tokenize", body={"input": text}, cast_to=object)
                assert tokens["tokens"] == ids
                assert got.usage.prompt_tokens == len(ids)
                assert got.choices[0].message.content == engine.generate([ids], 192)[0].text
                assert got.choices[0].finish_reason == "stop"
            by_row = client.post("/rows", body={"row": row, "max_tokens": 192}, cast_to=object)
            assert by_row["messages"] == messages and by_row["text"] == got.choices[0].message.content
            assert by_row["answer"] == load_recipe("signals").parse_output(by_row["text"]).fields and by_row["answer"]
    finally:
        served.kill()
        served.wait()


@pytest.fixture(scope="module")
def publish_job(demo):
    """The job of publish_model as the run had it, over the artifacts in the store."""
    from tasks.core.stage import Job

    objects, made = demo.folder / "store" / "objects", demo.manifests()
    folders, manifests = {}, {}
    for role, manifest in made.items():
        folders[role] = objects / manifest["kind"] / manifest["digest"][:32]
        manifests[role] = folders[role] / "manifests" / f"{manifest['key']}.json"
        assert manifests[role].is_file(), role
    return Job("signals", demo.release, inputs=folders, manifests=manifests)


SABOTAGE = {
    "another quantisation under the name of the one evaluated": (
        lambda out: shutil.copyfile(out / "gguf" / "signals-nano-q4_k_m.gguf", out / "gguf" / "signals-nano-q8_0.gguf"),
        {"released GGUF files that are the ones evaluated", "released GGUF files that nothing evaluated"},
    ),
    "a file was forgotten": (
        lambda out: (out / "gguf" / "signals-nano-f16.gguf").unlink(),
        {"released GGUF files that are the ones evaluated"},
    ),
    "a file of the model was edited": (
        lambda out: (out / "model" / "generation_config.json").write_text("{}"),
        {"released model files equal to the merged ones"},
    ),
    "a pickle came along": (
        lambda out: (out / "optimizer.pt").write_bytes(b"x"),
        {"pickles and code in the release"},
    ),
}


@pytest.mark.parametrize("what", SABOTAGE)
def test_a_release_that_differs_from_what_was_evaluated_is_refused(demo, publish_job, tmp_path, what):
    from tasks import publish_model

    spoil, expected = SABOTAGE[what]
    out = Path(shutil.copytree(demo.release, tmp_path / "release"))
    job = replace(publish_job, out=out)
    assert not failures(publish_model._same_files(job))
    spoil(out)
    assert {one.name for one in failures(publish_model._same_files(job))} == expected


def test_a_release_that_answers_otherwise_than_in_the_evaluation_is_refused(demo, publish_job, tmp_path):
    from tasks import publish_model

    evaluation = Path(shutil.copytree(publish_job.inputs["evaluation"], tmp_path / "evaluation"))
    lines = (evaluation / "answers.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    first["answers"]["q8_0"] += " "
    (evaluation / "answers.jsonl").write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")
    job = replace(publish_job, inputs={**publish_job.inputs, "evaluation": evaluation})
    config = publish_model.PublishConfig(golden_prompts=2)
    found = publish_model.golden_checks(config, job, demo.release, "the release folder")
    assert {one.name.split()[4]: (one.measured, one.threshold) for one in found} == {
        "merged": (2, 2), "f16": (2, 2), "q8_0": (1, 2), "q4_k_m": (2, 2),
    }  # fmt: skip


def test_a_run_that_forgets_is_refused_with_its_numbers(demo):
    """Twenty times the learning rate: held-out loss falls all the same, and the answers no longer follow from the traces."""
    agrees = "fraction of traces whose conclusion agrees with the answer"
    right = demo.checks("adapter")
    assert right["fraction of probed answers with exactly one well-formed trace"] >= 0.9 and right[agrees] >= 0.9
    before = demo.lying("objects/lora-adapter/*")
    printed, _ = demo.run("train.learning_rate=0.02", check=False)
    refused = re.search(rf"{agrees}: ([\d.]+) \(expected >= 0\.8\).*", printed)
    assert float(refused[1]) < 0.8
    assert "before" in refused[0] and "lower train.learning_rate or train.epochs" in refused[0]
    assert re.search(r"train_lora: \d of \d+ checks did not pass", printed) and "held-out loss:" not in printed
    assert "Traceback" not in printed
    assert demo.lying("objects/lora-adapter/*") == before, "nothing refused is published"


def test_kill_9_of_the_flow_during_training_resumes_from_its_checkpoint(demo):
    """The dead flow held the lock of its cache record: the next one must not wait for it.

    Another seed trains another model, and whether it ever repeats itself is luck: that bound is wide here.
    """
    changes = ("train.seed=43", "train.forgetting.max_repetition_fraction=0.9")
    before, finished = demo.lying("objects/lora-adapter/*"), demo.lying("objects/lora-adapter/*/manifests/*")
    known = demo.lying("work/train_lora/*/checkpoints/checkpoint-*/plumbline-checkpoint.json")
    demo.kill(lambda: demo.lying("work/train_lora/*/checkpoints/*/plumbline-checkpoint.json") - known, *changes)
    assert demo.lying("objects/lora-adapter/*") == before, "nothing half-made is visible"
    demo.kill(lambda: demo.lying("objects/lora-adapter/*/manifests/*") - finished, *changes)
    (made,) = demo.lying("objects/lora-adapter/*") - before
    (manifest,) = [json.loads(path.read_text()) for path in (made / "manifests").glob("*.json")]
    facts = manifest["facts"]
    assert facts["resumed_from_step"] >= 20
    assert facts["resumed_from_step"] + facts["steps_run_now"] == facts["steps_run"] == facts["steps_asked"]


def test_no_secret_is_left_anywhere(demo):
    searched = 0
    for path in demo.folder.rglob("*"):
        if path.is_file() and path.stat().st_size < 50_000_000:
            searched += 1
            assert b"secretsecret" not in path.read_bytes(), path
    assert searched > 50


def test_a_model_that_fails_a_gate_is_not_released(demo):
    before = (demo.release / "manifest.json").read_bytes()
    printed, _ = demo.run("evaluate.max_new_tokens=8", check=False)
    assert "publish_model: not published" in printed
    assert "Traceback" not in printed
    assert (demo.release / "manifest.json").read_bytes() == before
