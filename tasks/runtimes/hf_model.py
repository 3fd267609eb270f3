"""transformers and PEFT models, loaded from a folder of ours and asked for logits, losses and greedy answers."""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.errors import ArtifactError
from tasks.core.progress import UNIT, Beat, silent
from tasks.formats.safetensors_file import read_folder
from tasks.formats.trained import is_adapter
from tasks.runtimes.generation import SMALL_BYTES, Generation, token_beat
from tasks.runtimes.loading import loading_beats

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


_MEMORY_SHARE = 0.9
"""Of free memory that weights may take: activations and logits need the rest."""
_LOGITS_BYTES = 1 << 30
"""Most that the float32 logits of one batch may take: 32 rows of 1,024 tokens over a vocabulary of 150,000 are 20 GB."""


def best_device(needed_bytes: int = 0) -> str:
    """ "cuda" when a card is there with so much free memory, else "cpu"."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    return "cuda" if needed_bytes <= _MEMORY_SHARE * torch.cuda.mem_get_info()[0] else "cpu"


def widest_dtype(folder: Path) -> str:
    """ "float32", or "bfloat16" for a model that would not fit into this machine's memory or card in float32."""
    import psutil

    needed_bytes = 4 * _parameters(folder)
    fits = best_device(needed_bytes) == "cuda" or needed_bytes <= _MEMORY_SHARE * psutil.virtual_memory().available
    return "float32" if fits else "bfloat16"


def _parameters(folder: Path) -> int:
    return sum(math.prod(entry.shape) for entry in read_folder(folder).values())


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The folder's tokenizer; no code of its own is run."""
    from transformers import AutoTokenizer

    with _loadable(folder):
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def embedding_rows(folder: Path) -> int:
    """Rows of the embedding as config.json has them; `load_model` refuses weights of another size."""
    from transformers import AutoConfig

    with _loadable(folder):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    return config.get_text_config().vocab_size


def own_context_tokens(folder: Path) -> int | None:
    """The context that a model folder was made for; None where its config.json does not say."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    return config.get("max_position_embeddings") or config.get("text_config", {}).get("max_position_embeddings")


def layer_shapes(folder: Path) -> tuple[set[str], set[str]]:
    """(linear layers, parameters that belong to no linear layer) of a model, by name; no weight is read.

    The output head is no linear layer here: PEFT's "all-linear" leaves it out too.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with _loadable(folder), quiet(), torch.device("meta"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    head = model.get_output_embeddings()
    linear = {n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not head}
    return linear, {n for n, _ in model.named_parameters() if n.rpartition(".")[0] not in linear}


@contextmanager
def _loadable(folder: Path) -> Iterator[None]:
    """What transformers raises over a folder's content, as one sentence."""
    try:
        yield
    except (AssertionError, KeyError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ArtifactError(
            f"model: {folder.name} cannot be loaded ({reason[:200]}). A file is damaged, or config.json names an architecture "
            "that transformers does not know; code that comes with a model is never run here."
        ) from error


def load_model(
    folder: Path, dtype: str = "float32", adapter: Path | None = None, beat: Beat = silent
) -> PreTrainedModel:
    """A causal model from safetensors, in eval mode, on the card if it fits there.

    `adapter`: what train_lora made on this base. An adapter goes on top, and one whose keys do not all match is an error, not
    a warning; a whole model takes the base's place. `beat`: each tensor.

    Raises:
        ArtifactError: a pickle, a truncated or missing file, weights missing or left over, adapter keys that match nothing.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if adapter is not None and not is_adapter(adapter):
        return load_model(adapter, dtype, beat=beat)
    weights = _parameters(folder)
    with _loadable(folder), loading_beats(beat, "the model"):
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the report, and refused below with the other misfits
        )
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    missing = sorted(set(report["missing_keys"]) - tied)
    if missing or report["unexpected_keys"] or report["mismatched_keys"]:
        raise ArtifactError(
            f"model: {folder.name} does not fill its architecture: {len(missing)} tensors missing (e.g. {missing[:2]}), "
            f"{len(report['unexpected_keys'])} left over (e.g. {sorted(report['unexpected_keys'])[:2]}), "
            f"{len(report['mismatched_keys'])} of another shape. Weights and config.json belong to different models."
        )
    if adapter is not None:
        model = with_adapter(model, adapter)
    return model.to(best_device(weights * getattr(torch, dtype).itemsize)).eval()


def with_adapter(model: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    """The model with an adapter on top.

    Raises:
        ArtifactError: adapter keys that match nothing.
    """
    from peft import PeftModel

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(model, adapter, torch_device="cpu", autocast_adapter_dtype=False)
    if missed := [str(w.message) for w in caught if "missing adapter keys" in str(w.message)]:
        raise ArtifactError(
            f"adapter: some of its layers were not found in {adapter.name}, so the base would answer in its place. "
            f"{missed[0][:300]}"
        )
    return model


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back the progress bars and advice of transformers."""
    from transformers.utils import logging as hf_logging

    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    yield


@contextmanager
def few_threads(folder: Path) -> Iterator[None]:
    """One thread for a model so small that threads wait for each other longer than they compute.

    Measured on the nano base beside one busy process: 48 answers took 2.7 s with one thread and 74 s with two.
    """
    import torch

    before = torch.get_num_threads()
    if sum(path.stat().st_size for path in folder.glob("*.safetensors")) < SMALL_BYTES:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def logits(model: PreTrainedModel, ids: Sequence[int]) -> torch.Tensor:
    """Teacher-forced logits of one sequence, float32 on the CPU, (tokens, vocab)."""
    import torch

    with torch.inference_mode():
        return model(input_ids=torch.tensor([list(ids)], device=model.device)).logits[0].float().cpu()


def completion_loss(
    model: PreTrainedModel, rows: Sequence[tuple[Sequence[int], int]], batch_rows: int = 32, beat: Beat = silent
) -> float:
    """Mean cross-entropy, in nats a token, of the completions of (ids, prompt length in tokens) pairs."""
    losses = completion_losses(model, rows, batch_rows, beat)
    return sum(nats for nats, _ in losses) / max(sum(tokens for _, tokens in losses), 1)


def completion_losses(
    model: PreTrainedModel, rows: Sequence[tuple[Sequence[int], int]], batch_rows: int = 32, beat: Beat = silent
) -> list[tuple[float, int]]:
    """(cross-entropy in nats, tokens) of the completion of each (ids, prompt length in tokens) pair, in their order."""
    return [(float(nats.double().sum()), len(nats)) for nats in completion_nats(model, rows, batch_rows, beat)]


def completion_nats(
    model: PreTrainedModel, rows: Sequence[tuple[Sequence[int], int]], batch_rows: int = 32, beat: Beat = silent
) -> list[torch.Tensor]:
    """Cross-entropy in nats of each completion token, float32 of shape (tokens,), for each (ids, prompt length in tokens) pair.

    In the order of the rows. The first token of a sequence has nothing before it and is left out. `beat`: after each batch.
    """
    import torch
    from torch.nn.functional import cross_entropy

    found: dict[int, torch.Tensor] = {}
    longest = max((len(ids) for ids, _ in rows), default=1)
    fit = _LOGITS_BYTES // (4 * longest * model.config.get_text_config().vocab_size)
    by_length = sorted(enumerate(rows), key=lambda row: len(row[1][0]))
    for batch in _batches(by_length, max(1, min(batch_rows, fit))):
        width = max(len(ids) for _, (ids, _) in batch)
        input_ids = torch.zeros(len(batch), width, dtype=torch.long)
        labels = torch.full((len(batch), width), -100)
        mask = torch.zeros(len(batch), width, dtype=torch.long)
        for i, (_, (ids, prompt_tokens)) in enumerate(batch):
            input_ids[i, : len(ids)] = torch.tensor(list(ids))
            labels[i, prompt_tokens : len(ids)] = input_ids[i, prompt_tokens : len(ids)]
            mask[i, : len(ids)] = 1
        with torch.inference_mode():
            out = model(input_ids=input_ids.to(model.device), attention_mask=mask.to(model.device)).logits.float().cpu()
        wanted = labels[:, 1:]
        nats = cross_entropy(out[:, :-1].transpose(1, 2), wanted, ignore_index=-100, reduction="none")
        found |= {place: nats[i][wanted[i] != -100] for i, (place, _) in enumerate(batch)}
        beat(len(found), len(rows), {UNIT: "rows"})
    return [found[place] for place in range(len(rows))]


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stop_ids: Sequence[int],
    batch_rows: int = 64,
    beat: Beat = silent,
) -> list[Generation]:
    """Greedy answers in the order of the prompts; left-padded batches of like length. `beat`: each step, by tokens so far."""
    import torch
    from transformers import StoppingCriteriaList

    counted = _Counted(stop_ids, token_beat(beat, len(prompts) * max_new_tokens))
    found: dict[int, Generation] = {}
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for batch in _batches(order, batch_rows):
        width = max(len(prompts[i]) for i in batch)
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stop_ids[0]
        ids = torch.tensor([[pad] * (width - len(prompts[i])) + list(prompts[i]) for i in batch])
        mask = torch.tensor([[0] * (width - len(prompts[i])) + [1] * len(prompts[i]) for i in batch])
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                num_beams=1,
                temperature=None,
                top_p=None,
                top_k=None,
                eos_token_id=list(stop_ids),
                pad_token_id=pad,
                stopping_criteria=StoppingCriteriaList([counted.batch()]),
            )
        for i, row in zip(batch, out[:, width:].tolist(), strict=True):
            found[i] = _cut(tokenizer, row, set(stop_ids))
    return [found[i] for i in range(len(prompts))]


class _Counted:
    """Tokens that all batches have produced, said after each step; the padding behind an answer's end does not count."""

    def __init__(self, stop_ids: Sequence[int], say: Callable[[int], None]) -> None:
        self._stop_ids, self._say, self._tokens = list(stop_ids), say, 0

    def batch(self) -> Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]:
        """A stopping criterion of transformers, which asks it after each step, for one batch; it stops nothing."""
        import torch

        answering: torch.Tensor | None = None

        def count(input_ids: torch.Tensor, _scores: object, **_: object) -> torch.Tensor:
            nonlocal answering
            newest = input_ids[:, -1]
            if answering is None:
                answering = torch.ones_like(newest, dtype=torch.bool)
            self._tokens += int(answering.sum())
            self._say(self._tokens)
            answering &= ~torch.isin(newest, torch.tensor(self._stop_ids, device=newest.device))
            return torch.zeros_like(answering)

        return count


def _cut(tokenizer: PreTrainedTokenizerBase, row: list[int], stops: set[int]) -> Generation:
    end = next((k for k, token in enumerate(row) if token in stops), None)
    ids = row if end is None else row[:end]
    return Generation(ids, tokenizer.decode(ids, skip_special_tokens=False), "length" if end is None else "eos")


def _batches(items: Sequence, size: int) -> Iterator[Sequence]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
