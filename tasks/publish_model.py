"""Assemble the release folder and publish it, to a folder always and to the Hub when asked.

Reads:    base, dataset, rows, adapter, merged, gguf, evaluation, and the manifest of each; a panel's judgement if there is one.
Writes:   model/, gguf/, Modelfile, README.md, leaderboard.json, heldout.jsonl, manifest.json (those of the inputs, without
          addresses and folders of this machine), report.html; board/, the judgement's files.
Verifies: the verdict passed; the files are those that were evaluated; model/ and every GGUF load from the release and
          answer the golden prompts as they did in the evaluation; on the Hub, the same of what the commit holds,
          downloaded into an empty cache.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from pydantic import Field

from data_contracts.prompting.prompt import load_prompt
from data_contracts.verdict import Check, check, report
from tasks.core.artifact import hash_folder, sha256_file
from tasks.core.child import HUB_SECRETS
from tasks.core.errors import GateError
from tasks.core.progress import UNIT, file_growth, named
from tasks.core.settings import ChecksOnly, Settings
from tasks.core.stage import Job, Stage
from tasks.core.stage_process import child_main
from tasks.formats.jsonl import read_lines, write_json
from tasks.prompts.prompt_digest import contract_digest
from tasks.release import assemble
from tasks.release.modelfile import render_modelfile
from tasks.release.shareable import read_manifest
from tasks.release.special_tokens import read_chat_template, read_special_tokens
from tasks.reports.card import render_card
from tasks.reports.data import ReleaseData
from tasks.reports.leaderboard import leaderboard_json
from tasks.reports.report import render_report
from tasks.runtimes.greedy_model import open_model

BOARD = "judgement"
"""The optional input that becomes the release's folder board/."""


class PublishConfig(Settings):
    """Where the release goes, and what its card says."""

    name: str = ""
    """Name of the release; the run's own name unless given."""
    folder: str = "release"
    """Folder in which the release's own folder is placed."""
    hub_repo: str | None = Field(default=None, pattern=r"^[\w.-]+/[\w.-]+$")
    """Hub repository, owner/name; empty to stay on this machine. HF_TOKEN must be set in the environment."""
    private: bool = True
    """Whether a new Hub repository is private."""
    serve_quantization: str = "q8_0"
    """The GGUF that the Modelfile and `make serve` run."""
    license: str = "other"
    """Licence of the model, as the Hub spells it."""
    base_model: str | None = None
    """Hub id of the base, for the card."""
    description: str = ""
    """One or two sentences for the card."""
    golden_prompts: ChecksOnly[int] = Field(default=8, ge=1)
    """Held-out prompts that the published files must answer as they did in the evaluation."""


def publish_model(config: PublishConfig, job: Job) -> dict:
    """Write the release folder to `job.out`; push it when a repository is named.

    Raises:
        GateError: the verdict is not pass. The report that shows why is kept in the stage's work folder.
    """
    release = assemble.assemble(config.name, job.recipe, job.manifests, job.inputs, _card(config))
    verdict = assemble.verdict_check(job.inputs["evaluation"])
    if verdict.verdict != "pass":
        page = job.work / "report.html"
        page.write_text(render_report(release), "utf-8")
        raise GateError(f"publish_model: not published: {verdict.sentence()} The whole report: {page}")
    _write_release(config, job, release)
    return _push(config, job) if config.hub_repo else {"published_to": "folder"}


def _card(config: PublishConfig) -> dict:
    return {
        "license": config.license,
        "base_model": config.base_model,
        "description": config.description,
        "repo_id": config.hub_repo,
    }


def _write_release(config: PublishConfig, job: Job, release: ReleaseData) -> None:
    out, merged = job.out, job.inputs["merged"]
    shutil.copytree(merged, out / "model", ignore=shutil.ignore_patterns("manifests"))
    (out / "gguf").mkdir()
    files = sorted(job.inputs["gguf"].glob("model-*.gguf"))
    for done, path in enumerate(files, 1):
        shutil.copyfile(path, out / gguf_path(release.name, path))
        job.beat(done, len(files), {"file": path.name})
    serve = gguf_path(release.name, Path(f"model-{config.serve_quantization}.gguf"))
    if not (out / serve).is_file():
        raise GateError(
            f"publish_model: publish.serve_quantization is {config.serve_quantization}, which was not exported."
        )
    context_tokens = json.loads((merged / "config.json").read_text("utf-8"))["max_position_embeddings"]
    special = read_special_tokens(merged)
    digest = contract_digest(load_prompt(job.recipe), merged)
    modelfile = render_modelfile(
        serve, read_chat_template(merged), special, context_tokens, load_prompt(job.recipe), digest
    )
    _text(out / "Modelfile", modelfile)
    _text(out / "README.md", render_card(release))
    _text(out / "report.html", render_report(release))
    write_json(out / "leaderboard.json", leaderboard_json(release))
    shutil.copyfile(job.inputs["rows"] / "heldout.jsonl", out / "heldout.jsonl")
    if BOARD in job.inputs:
        shutil.copytree(job.inputs[BOARD], out / "board", ignore=shutil.ignore_patterns("manifests"))
    lineage = {role: read_manifest(path) for role, path in job.manifests.items()}
    write_json(out / "manifest.json", lineage, sort_keys=True)


def gguf_path(name: str, path: Path) -> str:
    """Where a GGUF of the export lies in the release."""
    return f"gguf/{name}-{path.stem.removeprefix('model-')}.gguf"


def _quantization(path: Path) -> str:
    """The part of a released GGUF's name that says how it was quantised; the inverse of `gguf_path`."""
    return path.stem.rpartition("-")[2]


def _text(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")


def _push(config: PublishConfig, job: Job) -> dict:
    from tasks.release.hub import publish_to_hub

    assert config.hub_repo is not None, "called where a repository is named"
    files = hash_folder(job.out, job.beat)
    commit = publish_to_hub(
        job.out, files, config.hub_repo, private=config.private, commit_message="Release, verified from disk"
    )
    _text(job.work / "commit.json", commit.model_dump_json())
    return {"published_to": commit.url, "commit": commit.commit_sha}


def verify_release(config: PublishConfig, job: Job) -> list[Check]:
    """Measure the release folder, then, when it was pushed, what the Hub gives back; see the module's docstring."""
    checks = [assemble.verdict_check(job.inputs["evaluation"]), *_same_files(job)]
    checks += golden_checks(config, job, job.out, "the release folder")
    if config.hub_repo:
        checks += _hub_checks(config, job)
    return checks


def _same_files(job: Job) -> list[Check]:
    board = json.loads((job.inputs["evaluation"] / "scores.json").read_text("utf-8"))
    scored = {row["model"]: row["file_digest"] for row in board}
    exported = sorted(path.name for path in job.inputs["gguf"].glob("model-*.gguf"))
    released = sorted((job.out / "gguf").glob("*.gguf"))
    evaluated = [path.name for path in released if sha256_file(path) == scored.get(_quantization(path))]
    strange = sorted({path.name for path in released} - set(evaluated))
    merged = hash_folder(job.inputs["merged"])
    pickles = [p.name for p in job.out.rglob("*") if p.suffix in (".bin", ".pt", ".pkl", ".pth", ".py")]
    return [
        check("released GGUF files that are the ones evaluated", len(evaluated), "==", len(exported)),
        check("released GGUF files that nothing evaluated", len(strange), "==", 0, detail=", ".join(strange)),
        check(
            "released model files equal to the merged ones",
            hash_folder(job.out / "model") == merged,
            "==",
            True,
            detail=f"{len(merged)} files",
        ),
        *_same_board(job),
        check("pickles and code in the release", len(pickles), "==", 0, detail=", ".join(pickles[:3])),
        report("files in the release", len(hash_folder(job.out))),
    ]


def _same_board(job: Job) -> list[Check]:
    if BOARD not in job.inputs:
        return []
    judged = hash_folder(job.inputs[BOARD])
    same = hash_folder(job.out / "board") == judged
    return [check("released board equal to the panel's judgement", same, "==", True, detail=f"{len(judged)} files")]


def golden_checks(config: PublishConfig, job: Job, release: Path, where: str) -> list[Check]:
    """model/ and every GGUF of a release folder, loaded and asked again: the answers must be those of the evaluation."""
    golden = read_lines(job.inputs["evaluation"] / "answers.jsonl")[: config.golden_prompts]
    rows, checks = [line["row"] for line in golden], []
    asked = json.loads(job.manifests["evaluation"].read_text("utf-8"))["config"]
    for model, texts in _answers_of(job, release, rows, asked).items():
        same = sum(text == line["answers"][model] for text, line in zip(texts, golden, strict=True))
        checks.append(
            check(f"golden prompts answered by {model} from {where} as in the evaluation", same, "==", len(golden))
        )
    return checks


def _answers_of(job: Job, release: Path, rows: list[dict], asked: dict) -> dict[str, list[str]]:
    files = {"merged": release / "model"}
    files |= {_quantization(path): path for path in sorted((release / "gguf").glob("*.gguf"))}
    found = {}
    for name, path in files.items():
        with open_model(path, asked["compute_dtype"]) as model:
            chats = [model.tokenize(model.render(load_prompt(job.recipe).messages(row))) for row in rows]
            found[name] = [answer.text for answer in model.generate(chats, asked["max_new_tokens"])]
    return found


def _hub_checks(config: PublishConfig, job: Job) -> list[Check]:
    from tasks.release.hub import PublishedCommit, verify_published

    commit = PublishedCommit.model_validate_json((job.work / "commit.json").read_text("utf-8"))
    cache = job.work / "hub-cache"
    shutil.rmtree(cache, ignore_errors=True)
    try:
        fetched = named(job.beat, "download of the published files")
        with file_growth(cache, lambda size_bytes: fetched(size_bytes, 0, {UNIT: "bytes"})):
            checks = verify_published(commit, hash_folder(job.out), cache)
        if all(one.verdict == "pass" for one in checks):
            checks += golden_checks(config, job, commit.snapshot(cache), "the Hub")
    finally:
        shutil.rmtree(cache, ignore_errors=True)
    return checks


STAGE = Stage(
    name="publish_model",
    kind="release",
    version=1,
    work=publish_model,
    verify=verify_release,
    stack=("torch", "transformers", "llama_cpp_python", "huggingface_hub"),
    contract=("prompt.md", "output.py", "gates.yaml"),
    texts=tuple(f"tasks/reports/{name}" for name in ("report.html.j2", "report.css", "report.js", "card.md.j2")),
    secrets=HUB_SECRETS,
    tells_lineage=True,
)

if __name__ == "__main__":
    raise SystemExit(child_main(STAGE, PublishConfig))
