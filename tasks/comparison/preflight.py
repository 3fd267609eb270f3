"""Whether each model of a comparison can be asked, found out before the first one is: every problem of every model at once.

A model on this disk is looked at by its headers and small files; a Hub repository by its listing; an endpoint by one real
question, whose answer also stands for the endpoint in the comparison's key: an address has no digest, and another model behind
it must not be taken for this one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from data_contracts.errors import PlumblineError
from data_contracts.prompting.prompt import PromptContract, load_prompt
from tasks.clients.openai_endpoint import ChatEndpoint
from tasks.clients.requests import Answer, Ask
from tasks.comparison.model_entry import ModelEntry, Place, files_of, run_input
from tasks.formats import lora_file, safetensors_file
from tasks.formats.gguf_file import read_header
from tasks.formats.jsonl import read_lines
from tasks.prompts.chat_template import render_template, template_of, thinking_switch
from tasks.prompts.prompt_digest import PROMPT_CONTRACT_KEY, contract_digest, read_carried, refuse_another_contract

_MODEL_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")
_TEMPLATE_KEY = "tokenizer.chat_template"
_IGNORES = (
    "{who} renders the same prompt with thinking on and off, so `thinking` would change nothing. Leave it out; for a model "
    "that does not think, set without_trace: true."
)
_TRY_RETRIES = 1
"""Retries of the one question asked beforehand: whoever is down for longer is told of now."""


def disk_problems(
    entries: Sequence[ModelEntry], folders: Mapping[str, Path], recipe: str, rows: Sequence[dict]
) -> list[str]:
    """Every problem of the models on this disk, and the runs that were trained on some of `rows`.

    `folders`: folder of each input by name. What is yet to be made or fetched is looked at when it is there.
    """
    found: list[str] = []
    for entry in entries:
        if entry.endpoint is None and set(entry.inputs.values()) <= folders.keys():
            contract = load_prompt(recipe, entry.prompt_set)
            mine = local_problems(entry, files_of(entry, folders), contract, rows[0])
            found += [f"  {entry.name}: {problem}" for problem in mine]
    prompt = load_prompt(recipe)
    asked = {_question(prompt, row) for row in rows}
    for run in sorted({entry.run for entry in entries if entry.run}):
        trained = read_lines(folders[run_input(run, "rows")] / "train.jsonl")
        known = sum(_question(prompt, row) in asked for row in trained)
        if known:
            found.append(f"  {run}: it was trained on {known} of the {len(rows)} rows. Ask rows that it never saw.")
    return found


def network_problems(
    entries: Sequence[ModelEntry], recipe: str, row: dict, max_new_tokens: int
) -> tuple[list[str], dict[str, str]]:
    """(every problem of the models that are not on this disk, endpoint's name -> sha256 of its answer to `row`)."""
    found: list[str] = []
    known_by: dict[str, str] = {}
    for entry in entries:
        problem = None
        if entry.endpoint:
            messages = load_prompt(recipe, entry.prompt_set).messages(row)
            problem, known_by[entry.name] = try_endpoint(entry, messages, max_new_tokens)
        elif entry.hub:
            problem = hub_problem(entry)
        found += [f"  {entry.name}: {problem}"] if problem else []
    return found, known_by


def _question(prompt: PromptContract, row: dict) -> str:
    return " ".join(prompt.messages(row)[-1]["content"].lower().split())


def local_problems(entry: ModelEntry, place: Place, contract: PromptContract, row: dict) -> list[str]:
    """What stands in the way of asking a model on this disk; `row` is any row, for its prompt."""
    look = _gguf_problems if place.path.suffix == ".gguf" else _folder_problems
    return [problem for check in look(entry, place, contract, row) for problem in _told(check)]


def _told(check: Callable[[], str | None]) -> list[str]:
    """A check's problem, found or raised."""
    try:
        found = check()
    except PlumblineError as error:
        return [str(error)]
    except (OSError, ValueError) as error:
        return [f"{type(error).__name__}: {error}"]
    return [found] if found else []


def _folder_problems(entry: ModelEntry, place: Place, contract: PromptContract, row: dict) -> Iterator[Callable]:
    folder, adapter = place.path, place.adapter
    missing = [name for name in _MODEL_FILES if not (folder / name).is_file()]
    if missing:
        yield lambda: f"{folder} is not a whole model folder: {', '.join(missing)} missing. Give its path."
        return
    yield lambda: safetensors_file.read_folder(folder) and None
    yield lambda: _quantised(json.loads((folder / "config.json").read_text("utf-8")), str(folder))
    if adapter is not None:
        yield lambda: _adapter_problem(folder, adapter, contract)
    elif (carried := read_carried(folder)) is not None:
        yield lambda: refuse_another_contract(str(folder), carried, contract_digest(contract, folder))
    yield lambda: _template_problem(template_of(folder), str(folder), entry.thinking, contract, row)


def _gguf_problems(entry: ModelEntry, place: Place, contract: PromptContract, row: dict) -> Iterator[Callable]:
    path = place.path
    if not path.is_file():
        there = sorted(one.name for one in path.parent.glob("*.gguf"))
        yield lambda: f"there is no file {path}. GGUF files there: {', '.join(there) or 'none'}."
        return
    yield lambda: _contract_problem(place, contract)
    yield lambda: _template_problem(read_header(path, _TEMPLATE_KEY), path.name, entry.thinking, contract, row)


def _contract_problem(place: Place, contract: PromptContract) -> str | None:
    """A file of ours is asked with the very words, schema, tokenizer and template that it was made for."""
    carried = read_header(place.path, PROMPT_CONTRACT_KEY)
    if carried is None:
        return None
    if place.tokenizer is None:
        return (
            f"{place.path.name} carries the prompt contract {carried[:12]}, and whether that is this one cannot be told without "
            "the tokenizer it was made with. Set tokenizer: folder of the model it was exported from."
        )
    refuse_another_contract(place.path.name, carried, contract_digest(contract, place.tokenizer))
    return None


def _adapter_problem(folder: Path, adapter: Path, contract: PromptContract) -> str | None:
    factors = lora_file.read_adapter(adapter)
    base = safetensors_file.read_folder(folder)
    wrong = [name for name, one in factors.by_base_tensor.items() if name not in base or base[name].shape != one.shape]
    if wrong:
        return (
            f"{adapter} was made for another base: {len(wrong)} of {len(factors.modules)} modules do not fit {folder}, e.g. "
            f"{wrong[0]}. Give the base named in its adapter_config.json ({factors.base_name})."
        )
    lineage = adapter / "lineage.json"
    if lineage.is_file():
        carried = json.loads(lineage.read_text("utf-8")).get("prompt_contract")
        refuse_another_contract(f"the adapter {adapter}", carried, contract_digest(contract, folder))
    return None


def _quantised(about: dict, where: str) -> str | None:
    method = (about.get("quantization_config") or {}).get("quant_method")
    return method and (
        f"{where} holds {method}-quantised weights, which are not loaded here. Give the 16-bit model, or serve it and give "
        "the endpoint."
    )


def _template_problem(
    template: str | None, who: str, thinking: bool | None, contract: PromptContract, row: dict
) -> str | None:
    if not template:
        return f"{who} has no chat template. Give an instruct model."
    values = {"messages": contract.messages(row), "add_generation_prompt": True, "bos_token": "", "eos_token": ""}
    plain, on, off = (render_template(template, **values, **thinking_switch(state)) for state in (None, True, False))
    if thinking is not None and on == off:
        return _IGNORES.format(who=f"the chat template of {who}")
    return None if plain.strip() else f"the chat template of {who} renders nothing. Give an instruct model."


def hub_problem(entry: ModelEntry) -> str | None:
    """Why a repository of the Hub cannot be had, or asked; None when nothing speaks against it."""
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    where = f"{entry.hub} at {entry.revision}"
    try:
        api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=os.environ.get("HF_TOKEN"))
        info = api.model_info(str(entry.hub), revision=entry.revision)
        if info.gated:
            api.auth_check(str(entry.hub))  # a gated repository's listing is open to all, its files are not
    except RevisionNotFoundError:
        return f"{entry.hub} has no revision {entry.revision!r}. Correct it."
    except GatedRepoError:
        return f"{where} is gated. Accept its licence on the Hub and set HF_TOKEN."
    except RepositoryNotFoundError:
        return f"{where} was not found on the Hub. Check the name; a private one needs HF_TOKEN."
    except (httpx.HTTPError, HfHubHTTPError, OSError) as error:
        return f"{where} cannot be looked up ({type(error).__name__}). Check the network and HF_ENDPOINT."
    if not any(file.rfilename.endswith(".safetensors") for file in info.siblings or []):
        return f"{where} holds no safetensors file. Pickles are never loaded; download a GGUF file and give it as gguf."
    return _quantised(info.config or {}, where)


def try_endpoint(entry: ModelEntry, messages: list[dict[str, str]], max_new_tokens: int) -> tuple[str | None, str]:
    """(problem, sha256 of the answer to one question); with a thinking switch also whether turning it changes the prompt."""
    endpoint = entry.endpoint
    assert endpoint is not None, f"{entry.name} is no endpoint"
    limit_tokens = entry.max_new_tokens or max_new_tokens
    ask = Ask(
        endpoint.base_url, endpoint.model, tuple(messages), limit_tokens, endpoint.temperature, thinking=entry.thinking
    )
    try:
        with endpoint.client(endpoint.base_url, retries=min(endpoint.retries, _TRY_RETRIES)) as client:
            answer = _one_answer(client, ask)
            problem = f"endpoint {endpoint.base_url}: {answer.trouble}" if answer.no_room else None
            if problem is None and entry.thinking is not None:
                other = _one_answer(client, replace(ask, thinking=not entry.thinking))
                problem = _switch_problem(entry, answer, other)
    except PlumblineError as error:
        return str(error), ""
    return problem, hashlib.sha256(f"{answer.thoughts}\0{answer.text}".encode()).hexdigest()


def _one_answer(client: ChatEndpoint, ask: Ask) -> Answer:
    ((_, answer),) = client.answers([ask], lambda _numbers: None)
    return answer


def _switch_problem(entry: ModelEntry, answer: Answer, other: Answer) -> str | None:
    """The switch changes the rendered prompt: the server's own count of its tokens tells."""
    assert entry.endpoint is not None, f"{entry.name} is no endpoint"
    who = f"{entry.endpoint.model} at {entry.endpoint.base_url}"
    if not answer.prompt_tokens or not other.prompt_tokens:
        return (
            f"{who} does not say how long its prompts are, so whether it obeys `thinking` cannot be told. Leave it out."
        )
    return _IGNORES.format(who=who) if answer.prompt_tokens == other.prompt_tokens else None
