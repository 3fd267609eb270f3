"""Export a merged model to GGUF files that llama.cpp runs, and prove that each still is that model.

Reads:    a merged model folder (safetensors in 16 or 32 bit, tokenizer with a chat template, config.json).
Writes:   model-f16.gguf by llama.cpp's own converter, and from it model-<quantization>.gguf by llama.cpp's quantiser,
          each with the digest of the prompt contract in its header.
Verifies: on the files loaded from disk: llama.cpp loads them; tensors, vocabulary, chat template, end token and context
          are the model's; token ids are equal on rendered chats and on hard text; teacher-forced logits (tokens, vocab)
          float32 against transformers at several context lengths: mean KL, top-1 agreement, NMSE; real bits per weight
          and the share of weights that the quantiser silently kept in another type.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from pydantic import Field

from data_contracts.errors import ArtifactError
from data_contracts.prompting.prompt import load_prompt
from data_contracts.verdict import Check
from tasks.core.progress import AT_MOST, DOING, UNIT, Beat, file_growth, silent
from tasks.core.settings import ChecksOnly, Settings
from tasks.core.stage import Job, Stage
from tasks.core.stage_process import child_main
from tasks.formats import gguf_file, safetensors_file
from tasks.formats.jsonl import read_lines
from tasks.gguf_export import checks as gguf_checks
from tasks.gguf_export import convert as gguf_convert
from tasks.gguf_export.sequences import parity_sequences
from tasks.measures.parity import Parity
from tasks.prompts import chat
from tasks.prompts.prompt_digest import contract_digest
from tasks.recipes import load_recipe
from tasks.runtimes import hf_model
from tasks.runtimes.llama_binding import complaints, forget_complaints, llama_api
from tasks.runtimes.llama_model import LlamaEngine

Quantization = Literal["f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m"]


class ExportConfig(Settings):
    """Which GGUF files are made, and how far each may be from the model."""

    quantizations: list[Quantization] = Field(default=["f16", "q8_0", "q4_k_m"], min_length=1)
    """Files to make. f16 is always made, first: the others are made from it."""
    model_name: str = Field(default="plumbline", min_length=1)
    """Name written into the header (general.name)."""
    max_mean_kl_f16: ChecksOnly[float] = Field(default=1e-5, gt=0)
    """Largest mean KL of the f16 file's next-token distribution to the model's, in nats a token."""
    max_mean_kl_q8_0: ChecksOnly[float] = Field(default=1e-3, gt=0)
    """The same for the q8_0 file. Smaller quantisations are only reported: their gate is how well they answer."""
    min_top1_agreement_f16: ChecksOnly[float] = Field(default=0.999, gt=0, le=1)
    """Least share of positions where the f16 file and the model rank the same token first."""
    max_fallback_fraction: ChecksOnly[float | None] = Field(default=None, ge=0, le=1)
    """Largest share of weights in tensors of another type than the file's name promises; null only reports it."""
    parity_context_tokens: ChecksOnly[list[int]] = Field(default=[256, 1024, 4096], min_length=1)
    """Context lengths at which logits are compared, clipped to the model's own."""
    parity_chats: ChecksOnly[int] = Field(default=8, ge=1)
    """Chats that are compared as they are, besides the runs of `parity_context_tokens`."""
    n_threads: int = Field(default=1, ge=1)
    """Threads of llama.cpp. On a busy machine more threads than idle cores are many times slower."""

    @property
    def names(self) -> list[Quantization]:
        """The files to make, each once, f16 first."""
        return list(dict.fromkeys(["f16", *self.quantizations]))


def file_name(quantization: str) -> str:
    """Name of a quantisation's file."""
    return f"model-{quantization}.gguf"


def export_gguf(
    config: ExportConfig, merged_dir: Path, out_dir: Path, *, prompt_digest: str, beat: Beat = silent
) -> None:
    """Write every GGUF file of `config` into `out_dir`.

    Raises:
        ArtifactError: the converter or the quantiser failed, or wrote no file. ConfigError: no converter is installed.
    """
    names = config.names
    out_dir.mkdir(parents=True, exist_ok=True)
    source = out_dir / file_name("f16")
    gguf_convert.convert(
        merged_dir,
        source,
        name=config.model_name,
        prompt_digest=prompt_digest,
        tick=_written(beat, f"writing {file_name('f16')}", _size_bytes(merged_dir)),
    )
    for name in names[1:]:
        target = out_dir / file_name(name)
        with file_growth(target, _written(beat, f"writing {target.name}", source.stat().st_size)):
            _quantize(source, target, name, config.n_threads)
    beat(len(names), len(names), {UNIT: "files"})


def _written(beat: Beat, doing: str, most_bytes: int) -> Callable[[int], None]:
    """Says how large a file is so far; what it is made of is an upper bound."""
    return lambda size_bytes: beat(size_bytes, most_bytes, {DOING: doing, UNIT: "bytes", AT_MOST: True})


def _size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def _quantize(source: Path, target: Path, name: str, n_threads: int) -> None:
    api = llama_api()
    params = api.llama_model_quantize_default_params()
    params.ftype, params.nthread = gguf_file.RECIPES[name].file_type, n_threads
    forget_complaints()
    code = api.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    if code or not target.is_file() or not target.stat().st_size:
        found = f"a file of {target.stat().st_size:,} bytes" if target.is_file() else "no file"
        raise ArtifactError(
            f"export_gguf: quantising to {name} ended with code {code} and {found}. llama.cpp says: {complaints()}. "
            "Free disk space, or leave this quantisation out."
        )


def verify_export(
    config: ExportConfig, merged_dir: Path, out_dir: Path, *, texts: list[str], prompt_digest: str, beat: Beat = silent
) -> list[Check]:
    """Load every file from disk and measure it against the model. `texts`: rendered chats, prompts with their answers.

    Raises:
        ArtifactError: a file is missing or cannot be loaded at all.
    """
    hf = safetensors_file.read_folder(merged_dir)
    about = json.loads((merged_dir / "config.json").read_text("utf-8"))
    tokenizer = hf_model.load_tokenizer(merged_dir)
    tied = bool(about.get("tie_word_embeddings"))
    checks: list[Check] = []
    with ExitStack() as stack:
        engines: dict[str, LlamaEngine] = {}
        f16: dict[str, gguf_file.GgufTensor] = {}
        for name in config.names:
            path = out_dir / file_name(name)
            engine = engines[name] = stack.enter_context(LlamaEngine(path, n_threads=config.n_threads))
            tensors = gguf_file.read_tensors(path)
            f16 = f16 or tensors
            checks += gguf_checks.tensor_checks(name, hf, tensors, engine, tied)
            checks += gguf_checks.metadata_checks(name, engine, tokenizer, about, prompt_digest)
            checks += gguf_checks.token_checks(name, engine, tokenizer, texts)
            checks += gguf_checks.size_checks(name, tensors, f16, config.max_fallback_fraction)
        context_tokens = min(engine.trained_context_tokens for engine in engines.values())
        chats = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        return checks + _parity_checks(config, merged_dir, engines, chats, context_tokens, beat)


def _parity_checks(
    config: ExportConfig,
    merged_dir: Path,
    engines: dict[str, LlamaEngine],
    chats: list[list[int]],
    context_tokens: int,
    beat: Beat,
) -> list[Check]:
    """Compare logits one sequence at a time: only one is in memory, and the model computes each once."""
    model = hf_model.load_model(merged_dir, "float32", beat=beat)
    sequences = parity_sequences(chats, config.parity_context_tokens, context_tokens, config.parity_chats)
    parities = {name: Parity() for name in engines}
    for done, ids in enumerate(sequences):
        expected = hf_model.logits(model, ids).numpy()
        for name, engine in engines.items():
            beat(done, len(sequences), {DOING: f"comparing logits of {name}", UNIT: "sequences", "tokens": len(ids)})
            parities[name].add(expected, engine.logits(ids))
    limits = {
        "f16": (config.max_mean_kl_f16, config.min_top1_agreement_f16),
        "q8_0": (config.max_mean_kl_q8_0, None),
    }
    return [one for name, parity in parities.items() for one in parity.checks(name, *limits.get(name, (None, None)))]


def _export(config: ExportConfig, job: Job) -> dict:
    merged = job.inputs["merged"]
    export_gguf(config, merged, job.out, prompt_digest=contract_digest(load_prompt(job.recipe), merged), beat=job.beat)
    tensors = {name: gguf_file.read_tensors(job.out / file_name(name)) for name in config.names}
    return {"bits_per_weight": {name: round(gguf_file.bits_per_weight(found), 3) for name, found in tensors.items()}}


def _verify(config: ExportConfig, job: Job) -> list[Check]:
    tokenizer = hf_model.load_tokenizer(job.inputs["merged"])
    recipe = load_recipe(job.recipe)
    rows = read_lines(job.inputs["rows"] / "heldout.jsonl")
    texts = [chat.prompt_text(tokenizer, load_prompt(job.recipe), row) + recipe.completion(row) for row in rows]
    merged = job.inputs["merged"]
    digest = contract_digest(load_prompt(job.recipe), merged)
    return verify_export(config, merged, job.out, texts=texts, prompt_digest=digest, beat=job.beat)


STAGE = Stage(
    name="export_gguf",
    kind="gguf",
    version=1,
    work=_export,
    verify=_verify,
    checks_inputs=("rows",),
    stack=("llama_cpp_python", "gguf", "transformers", "torch"),
    contract=("prompt.md", "output.py"),
    checks_texts=("tasks/gguf_export/hard_text.txt",),
)

if __name__ == "__main__":
    raise SystemExit(child_main(STAGE, ExportConfig))
