"""The models of a comparison, asked in turn: those on this disk through one engine, those behind an address through another."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from data_contracts.prompting.prompt import load_prompt
from tasks.clients.local_model import local_identity
from tasks.clients.requests import Answer
from tasks.comparison.board import Asked
from tasks.comparison.distances import Distances
from tasks.comparison.endpoint_model import ask_endpoint
from tasks.comparison.model_entry import MERGED, NF4, ModelEntry, files_of, place_of
from tasks.core.artifact import sha256_file
from tasks.core.stage import Job
from tasks.evaluation.local_models import Answers, AskingConfig, LocalModel, ask_all
from tasks.evaluation.survey import Survey
from tasks.formats import lora_file, safetensors_file
from tasks.formats.gguf_file import read_header
from tasks.prompts.prompt_digest import PROMPT_CONTRACT_KEY, contract_digest
from tasks.recipes import load_recipe
from tasks.recipes.interface import JoinsThoughts
from tasks.runtimes import nf4


def ask_entries(
    config: AskingConfig,
    entries: Sequence[ModelEntry],
    known_by: Mapping[str, str],
    job: Job,
    survey: Survey,
    distances: Distances | None,
) -> list[Asked]:
    """Every entry's answers, in the order of the entries; the reference of the distances is asked first.

    `known_by`: endpoint's name -> what tells it from another model at its address.
    """
    asked = survey.asked
    first = [one for one in entries if distances and one.name == distances.reference]
    local = [one for one in entries if one.endpoint is None and one not in first]
    answers: dict[str, Answers] = {}
    for some in (first, local):  # apart: the reference must be measured before small files are asked several at once
        models = [local_model(one, job) for one in some]
        for made in ask_all(config, models, asked, job.beat, distances.look if distances else None):
            answers[made.model] = made
    for one in entries:
        if one.endpoint:
            log, contract = job.work / f"{one.name}.jsonl", load_prompt(job.recipe, one.prompt_set)
            known = known_by.get(one.name, "")
            as_text = _as_text(one, job.recipe)
            answers[one.name] = ask_endpoint(config, one, contract, asked, log, known, as_text, job.beat)
    for one in entries:
        if one.endpoint is None and one.trace_is_optional:
            _read_without_trace(answers[one.name], job.recipe)
    return [Asked(one, answers[one.name], facts_of(one, job, known_by)) for one in entries]


def local_model(entry: ModelEntry, job: Job) -> LocalModel:
    """An entry as the engines ask it."""
    place, contract = files_of(entry, job.inputs), load_prompt(job.recipe, entry.prompt_set)
    tokenizer = place.tokenizer  # of this run's own GGUF files; others carry no digest of this contract
    if tokenizer is not None and read_header(place.path, PROMPT_CONTRACT_KEY) is None:
        tokenizer = None
    return LocalModel(
        entry.name,
        place.path,
        contract,
        place.adapter,
        contract_digest=contract_digest(contract, tokenizer) if tokenizer else None,
        file_digest=digest_of(entry, job),
        size_bytes=sum(path.stat().st_size for path in place.scored),
        thinking=entry.thinking,
        max_new_tokens=entry.max_new_tokens,
    )


def digest_of(entry: ModelEntry, job: Job) -> str | None:
    """sha256 of what is scored: a GGUF file, else the artifact, else the folder's files; None for an endpoint."""
    place = place_of(entry, job.inputs)
    if place is None:
        return None
    if place.path.suffix == ".gguf":
        return sha256_file(place.path)
    scored = place.adapter or place.path
    for name, folder in job.inputs.items():
        if folder == scored:
            return job.digests[name]
    return local_identity(scored)


def facts_of(entry: ModelEntry, job: Job, known_by: Mapping[str, str]) -> dict:
    """What a board tells of a model besides its answers."""
    if entry.endpoint:
        return {"known_by": known_by.get(entry.name)}
    if entry.hub:
        manifest = json.loads(job.manifests[entry.inputs["model"]].read_text("utf-8"))
        return {"commit": manifest["facts"]["revision"]}
    if entry.part in (MERGED, NF4):
        return {"update": _lost_update(entry, job)}
    place = files_of(entry, job.inputs)
    return {"prompt_contract": read_header(place.path, PROMPT_CONTRACT_KEY)} if place.path.suffix == ".gguf" else {}


def _lost_update(entry: ModelEntry, job: Job) -> dict:
    """What is left of the adapter's update, against the weights that it was added to."""
    base, adapter = (job.inputs[entry.inputs[role]] for role in ("base", "adapter"))
    merged = files_of(entry, job.inputs).path
    read, written = (_readers(folder) for folder in (base, merged))
    started = nf4.dequantised(nf4.load_nf4(base)) if entry.part == NF4 else read
    found = nf4.survival(lora_file.read_adapter(adapter), started, written)
    return {"kept_fraction": found.kept_fraction, "error_ratio": found.error_ratio}


def _readers(folder: Path) -> nf4.Weights:
    return {name: tensor.read for name, tensor in safetensors_file.read_folder(folder).items()}


def _as_text(entry: ModelEntry, recipe: str) -> Callable[[Answer], str]:
    """An answer and the reasoning that a server shows apart from it, as the one text that the recipe reads."""
    module = load_recipe(recipe)

    def as_text(answer: Answer) -> str:
        apart = answer.thoughts.strip()
        if isinstance(module, JoinsThoughts) and (apart or entry.trace_is_optional):
            return module.with_thoughts(answer.text, apart)
        return answer.text

    return as_text


def _read_without_trace(answers: Answers, recipe: str) -> None:
    module = load_recipe(recipe)
    if isinstance(module, JoinsThoughts):
        answers.texts = [module.with_thoughts(text) for text in answers.texts]
        answers.again = [module.with_thoughts(text) for text in answers.again]
