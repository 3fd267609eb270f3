"""Bring the base model into the store: from the Hub at a pinned revision, or the nano base trained here.

Reads:    a Hub repository (HF_ENDPOINT and HF_TOKEN respected), or the recipe's pre-training rows.
Writes:   model*.safetensors, config, generation config, tokenizer, chat template.
Verifies: safetensors only, whole, not quantised (or dequantised here, each tensor equal to its definition); tokenizer fits
          the embedding; tied weights are tied; a chat template is there; a forward pass (batch, tokens, vocab) is finite;
          a Hub revision was resolved to a commit.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from data_contracts.verdict import Check, check, failures, report
from tasks.core.child import HUB_SECRETS
from tasks.core.errors import ArtifactError, ConfigError, TransientError, explain_os_error
from tasks.core.progress import UNIT, file_growth, named
from tasks.core.settings import Settings
from tasks.core.stage import Job, Stage
from tasks.core.stage_process import child_main
from tasks.formats import mxfp4, safetensors_file
from tasks.recipes import load_recipe
from tasks.runtimes import hf_model

_WANTED_FILES = ["*.safetensors", "*.json", "*.jinja", "merges.txt", "vocab.txt", "tokenizer.model", "LICENSE*"]
_OTHER_FORMATS = ["*/*"]
"""Folders of a repository hold the same weights for other programs: gpt-oss has them three times."""
_COMMIT = re.compile(r"^[0-9a-f]{40}$")


class BaseConfig(Settings):
    """Which base model."""

    source: Literal["hub", "nano"] = "hub"
    """hub: a repository of the Hub. nano: a two-million-parameter base trained here from scratch, for machines without one."""
    model_id: str | None = None
    """Hub repository, e.g. Qwen/Qwen3-0.6B."""
    revision: str = "main"
    """Commit, tag or branch; resolved to a commit once and recorded. Pin the 40-digit commit for repeatable runs."""
    dequantise: Literal["mxfp4"] | None = None
    """mxfp4: write the experts of gpt-oss, which are published in 4 bits, out in bfloat16: 13 GB become 42 GB. A quantised
    base can neither be trained nor merged into."""
    pretraining_rows: int = Field(default=4800, ge=16)
    """nano: rows of its pre-training, each seen once."""
    hidden_size: int = Field(default=192, ge=96, le=960, multiple_of=96)
    """nano: width of the model. 192 with 4 layers has two million parameters."""
    layers: int = Field(default=4, ge=1, le=16)
    """nano: transformer blocks."""
    batch_rows: int = Field(default=16, ge=1)
    """nano: rows of a pre-training step."""
    peak_learning_rate: float = Field(default=3e-3, gt=0)
    """nano: peak of the one-cycle schedule."""
    seed: int = Field(default=42, ge=0)
    """nano: seed of rows and weights."""

    @model_validator(mode="after")
    def _hub_needs_a_name(self) -> BaseConfig:
        if self.source == "hub" and not self.model_id:
            raise ValueError("model_id is needed when source is hub, e.g. Qwen/Qwen3-0.6B")
        return self


def prepare_base(config: BaseConfig, job: Job) -> dict:
    """Put the base's files into `job.out`; returns where they came from."""
    return _train_nano(config, job) if config.source == "nano" else _download(config, job)


def _train_nano(config: BaseConfig, job: Job) -> dict:
    from tasks.training.nano_base import build_nano_base

    recipe = load_recipe(job.recipe)
    rows = list(recipe.pretraining_rows(config.pretraining_rows, config.seed))
    cost = build_nano_base(
        rows,
        job.out,
        lambda done, total, numbers: job.beat(done, total, numbers),
        hidden_size=config.hidden_size,
        n_layers=config.layers,
        batch_rows=config.batch_rows,
        peak_learning_rate=config.peak_learning_rate,
        seed=config.seed,
    )
    return {"model_id": "nano", "revision": "built here", **cost}


def _download(config: BaseConfig, job: Job) -> dict:
    import httpx
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    where, model_id = f"{config.model_id} at {config.revision}", str(config.model_id)
    folder = _packed_folder(job) if config.dequantise else job.out
    try:
        commit = HfApi().model_info(model_id, revision=config.revision).sha
        fetched = named(job.beat, f"download of {model_id}")
        with file_growth(folder, lambda size_bytes: fetched(size_bytes, 0, {UNIT: "bytes"})):
            snapshot_download(
                model_id,
                revision=commit,
                local_dir=folder,
                allow_patterns=_WANTED_FILES,
                ignore_patterns=_OTHER_FORMATS,
            )
    except RevisionNotFoundError:
        raise ConfigError(
            f"prepare_base: {config.model_id} has no revision {config.revision!r}. Set base.revision."
        ) from None
    except GatedRepoError:
        raise ConfigError(f"prepare_base: {where} is gated. Accept its licence on the Hub and set HF_TOKEN.") from None
    except RepositoryNotFoundError:
        raise ConfigError(
            f"prepare_base: {where} was not found. Check base.model_id; a private one needs HF_TOKEN."
        ) from None
    except (httpx.HTTPError, HfHubHTTPError, OSError) as error:
        if explain_os_error("prepare_base", error):
            raise  # a full disk does not pass by trying again
        raise TransientError(
            f"prepare_base: {where} could not be fetched ({type(error).__name__}). Check the network and HF_ENDPOINT, "
            "then run again."
        ) from error
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    if config.dequantise:
        mxfp4.dequantise(folder, job.out, job.beat)
    return {"model_id": config.model_id, "revision": commit}


def _packed_folder(job: Job) -> Path:
    """Where the download waits for its comparison with what was written from it."""
    return job.work / "packed"


def verify_base(config: BaseConfig, job: Job) -> list[Check]:
    """Measure the files; see the module's docstring."""
    import torch

    needed = ("config.json", "tokenizer.json", "tokenizer_config.json")
    if missing := [name for name in needed if not (job.out / name).is_file()]:
        raise ArtifactError(
            f"prepare_base: {len(missing)} of {len(needed)} files that a model needs are missing: {', '.join(missing)}. "
            "Choose a repository in the transformers format, with a fast tokenizer."
        )
    entries = safetensors_file.read_folder(job.out)
    about = json.loads((job.out / "config.json").read_text("utf-8"))
    with hf_model.quiet():
        tokenizer = hf_model.load_tokenizer(job.out)
        checks = [
            check(
                "quantization_config in config.json",
                about.get("quantization_config") is not None,
                "==",
                False,
                fix="Give the 16-bit repository (train.base_precision nf4 trains on a 4-bit copy of it); for gpt-oss, set "
                "base.dequantise to mxfp4.",
            ),
            check(
                "chat template",
                bool(tokenizer.chat_template),
                "==",
                True,
                fix="Choose an instruct model, or add chat_template.jinja.",
            ),
            check("end-of-turn token is known", tokenizer.eos_token_id is not None, "==", True),
            check(
                "tokenizer ids that fit the embedding",
                len(tokenizer),
                "<=",
                hf_model.embedding_rows(job.out),
                unit="ids",
                fix="The tokenizer has more ids than the model has embeddings: they belong to different models.",
            ),
        ]
        if failures(checks):  # such a model does not load, or a sentence may hold an id that it lacks
            return checks
        model = hf_model.load_model(job.out, hf_model.widest_dtype(job.out), beat=job.beat)
    embedding = model.get_input_embeddings().weight
    head = model.get_output_embeddings().weight
    tied = bool(model.config.tie_word_embeddings)  # not from the file, which may leave an architecture's default out
    probe = tokenizer("A plumb line shows what is true, whatever the wall looks like.", return_tensors=None)[
        "input_ids"
    ]
    out = hf_model.logits(model, probe)
    floats = sorted({entry.dtype for entry in entries.values()})
    if config.dequantise:
        checks += mxfp4.check_dequantised(_packed_folder(job), job.out)
    if not failures(checks):
        shutil.rmtree(_packed_folder(job), ignore_errors=True)
    return [
        *checks,
        check("output head is the embedding, as config.json says", head.data_ptr() == embedding.data_ptr(), "==", tied),
        check(
            "non-finite logits on a plain sentence",
            int((~torch.isfinite(out)).sum()),
            "==",
            0,
            detail=f"{out.shape[0]} tokens",
        ),
        report("parameters", sum(p.numel() for p in model.parameters())),
        report("dtype of the weights", ", ".join(floats)),
        report("chat template reads the clock", "strftime_now" in str(tokenizer.chat_template)),
    ]


STAGE = Stage(
    name="prepare_base",
    kind="base-model",
    version=1,
    work=prepare_base,
    work_for=lambda config: _train_nano if config.source == "nano" else _download,
    verify=verify_base,
    stack=("torch", "transformers", "tokenizers", "huggingface_hub"),
    contract_for=lambda config: ("prompt.md", "output.py") if config.source == "nano" else (),
    secrets=HUB_SECRETS,
)

if __name__ == "__main__":
    raise SystemExit(child_main(STAGE, BaseConfig))
