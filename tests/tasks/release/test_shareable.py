"""What a release tells of the machine and the network that it was made in: nothing."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from data_contracts.prompting.prompt import load_prompt
from data_contracts.verdict import check
from tasks.core.artifact import hash_folder
from tasks.core.stage import Job
from tasks.judging.judge import JudgeSettings, identity_of
from tasks.publish_model import PublishConfig, publish_model
from tasks.recipes.signals import nano_rows as signals_world
from tasks.release.shareable import read_manifest
from tests.fixtures.tiny_model import make_tiny_model

ADDRESS, HOST, HOME = "http://10.0.0.5:8000/v1", "10.0.0.5", "/home/me"
JUDGE = {"name": "big", "family": "qwen", "base_url": ADDRESS, "model": "Qwen/Qwen3-32B"}
PRIVATE = {  # role: (stage, its config)
    "answers_000": (
        "generate_teacher",
        {"base_url": f"{ADDRESS}/", "model": f"{HOME}/served/teacher", "vllm_python": f"{HOME}/v/bin/python"},
    ),
    "judgement": ("judge_answers", {"judges": [JUDGE, {"name": "local", "local_model": f"{HOME}/my models/judge.gguf"}]}),
    "dataset": (
        "build_dataset",
        {"rows_file": f"{HOME}/rows.jsonl", "teacher": {"local_model": f"{HOME}/models/folder/", "base_url": None}},
    ),
    **{role: (stage, {"compute_dtype": "float32"}) for role, stage in (
        ("base", "prepare_base"), ("rows", "validate_dataset"), ("adapter", "train_lora"), ("merged", "merge_adapter"),
        ("gguf", "export_gguf"), ("evaluation", "evaluate_model"),
    )},
}  # fmt: skip


def write_manifest(folder: Path, role: str) -> Path:
    stage, config = PRIVATE[role]
    fix = f"Read them: {HOME}/store/keys/{stage}/abc. See {ADDRESS}/models (log:{HOME}/x/worker.log)"
    seen = check("it is there, as 3/4 and <a>/b/</a> are", 1, "==", 1, detail="kept/as/it is", fix=fix)
    manifest = {
        "stage": stage,
        "part": "",
        "digest": f"digest of {role}",
        "key": "k",
        "key_parts": {"work": {"config": config, "outside": ["0" * 64]}, "checks": {}},
        "config": config,
        "rebuilt_because": ["first build"],
        "inputs": {},
        "verified": [seen.model_dump(mode="json")],
        "facts": {"model": f"{HOME}/served/teacher", "tokens_per_s": {}, "seen": [f"{ADDRESS}", 1, None]},
        "cost": {"seconds": 1.0},
    }
    path = folder / f"{role}.json"
    path.write_text(json.dumps(manifest))
    return path


@pytest.fixture
def job(tmp_path) -> Job:
    """A run whose teacher and judge stand at a private address, or in somebody's home."""
    inputs = {role: tmp_path / role for role in PRIVATE}
    for folder in inputs.values():
        folder.mkdir()
    make_tiny_model(inputs["merged"], hidden_size=64)
    (inputs["gguf"] / "model-q8_0.gguf").write_bytes(b"GGUF")
    passed = check("valid_json_fraction", 1.0, ">=", 0.9).model_dump(mode="json")
    (inputs["evaluation"] / "verdict.json").write_text(json.dumps({"merged": [passed]}))
    (inputs["evaluation"] / "scores.json").write_text("[]")
    row = signals_world.nano_rows(1, 1, 7)[1][0]
    (inputs["rows"] / "heldout.jsonl").write_text(json.dumps(row) + "\n")
    (inputs["evaluation"] / "answers.jsonl").touch()
    (inputs["adapter"] / "training_log.jsonl").touch()
    (inputs["judgement"] / "judgement.json").write_text("{}")
    manifests = {role: write_manifest(tmp_path, role) for role in PRIVATE}
    made = Job("signals", tmp_path / "out", inputs=inputs, manifests=manifests, work=tmp_path)
    made.out.mkdir()
    return made


def test_no_file_of_a_release_holds_an_address_or_a_folder_of_this_machine(job):
    publish_model(PublishConfig(name="t", golden_prompts=1), job)
    files = hash_folder(job.out)
    assert {"README.md", "manifest.json", "report.html", "Modelfile", "board/judgement.json"} <= files.keys()
    found = {
        name for name in files for word in (HOST, HOME, "my models") if word.encode() in (job.out / name).read_bytes()
    }
    assert found == set()
    assert load_prompt("signals").system[:40] in (job.out / "README.md").read_text("utf-8")


def test_what_is_left_tells_models_apart_and_names_the_manifest_itself(job):
    board_knows = identity_of(JudgeSettings(**JUDGE)).digest
    publish_model(PublishConfig(name="t", golden_prompts=1), job)
    lineage = json.loads((job.out / "manifest.json").read_text("utf-8"))
    assert lineage.keys() == PRIVATE.keys()
    for role, path in job.manifests.items():
        assert lineage[role]["manifest_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    configs = {role: one["config"] for role, one in lineage.items()}
    judge, local = configs["judgement"]["judges"]
    assert judge == {**JUDGE, "base_url": board_knows} and local["local_model"] == "judge.gguf"
    teacher = configs["answers_000"]
    assert (teacher["model"], teacher["vllm_python"], len(teacher["base_url"])) == ("teacher", "python", 64)
    assert configs["dataset"] == {"rows_file": "rows.jsonl", "teacher": {"local_model": "folder", "base_url": None}}
    assert board_knows in (job.out / "README.md").read_text("utf-8")


def test_all_else_of_a_manifest_is_kept(tmp_path):
    path = write_manifest(tmp_path, "merged")
    before, after = json.loads(path.read_text()), read_manifest(path)
    assert after.pop("manifest_sha256") and after.keys() == before.keys()
    (seen,), (was,) = after.pop("verified"), before.pop("verified")
    assert seen.pop("fix") == "Read them: abc. See <address> (log:worker.log)" and was.pop("fix")
    assert seen == was
    assert after.pop("facts") == {"model": "teacher", "tokens_per_s": {}, "seen": ["<address>", 1, None]}
    del before["facts"]
    assert after == before
