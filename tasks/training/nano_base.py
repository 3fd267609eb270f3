"""The nano base: a Qwen3-architecture model of two million parameters, trained from scratch in minutes on two cores.

Reads:  pre-training rows: (chat messages, answer text).
Writes: a Hugging Face model folder: bfloat16 safetensors, config, generation config, tokenizer, chat template.

The training loop is plain torch. TRL and the Trainer fine-tune, and here nothing exists to fine-tune yet; and two
shortcuts that they do not offer make a step three times faster: the words that all rows of a micro-batch share (the
system prompt) run through the model once for all of them, and logits are computed only where an answer is learned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

PAD, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (PAD, TURN_START, TURN_END)
THINK_TOKENS = ("<think>", "</think>")
MAX_POSITIONS_TOKENS = 2048
HEAD_SIZE = 48
IGNORED_LABEL = -100
MAX_LENGTH_STEP_TOKENS = 20

QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen2 and Qwen3 cut text before byte-pair encoding; llama.cpp knows it under the name "qwen2"."""

CHAT_TEMPLATE = (
    "{%- for message in messages -%}\n"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}\n"
    "{%- endfor -%}\n"
    "{%- if add_generation_prompt -%}\n"
    "{{- '<|im_start|>assistant\\n' -}}\n"
    "{%- endif -%}\n"
)

Messages = list[dict[str, str]]
PretrainingRow = tuple[Messages, str]
Progress = Callable[[int, int, dict[str, float]], None]


def train_tokenizer(texts: Iterable[str], max_vocab_tokens: int = 1024) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of these texts, with Qwen's split and ChatML: any text decodes to the same bytes.

    There is no normalizer (Qwen's NFC changes bytes, and llama.cpp applies none).
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=max_vocab_tokens - len(SPECIAL_TOKENS + THINK_TOKENS),
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS])
    # As in Qwen3, the thinking marks are one token each but not special: decoding with skip_special_tokens keeps them.
    backend.add_tokens([AddedToken(token, normalized=False, special=False) for token in THINK_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=TURN_END,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_POSITIONS_TOKENS,
    )


def build_nano_base(
    rows: Sequence[PretrainingRow],
    out_dir: Path,
    progress: Progress,
    *,
    extra_tokenizer_texts: Iterable[str] = (),
    hidden_size: int = 192,
    n_layers: int = 4,
    batch_rows: int = 16,
    peak_learning_rate: float = 3e-3,
    seed: int = 42,
    progress_every_steps: int = 10,
) -> dict[str, float]:
    """Train tokenizer and model on `rows`, once over in the order given, and save both; returns what it came to.

    Heads are HEAD_SIZE wide, two of them share keys and values, and the MLP is three times as wide as the model.
    Deterministic for a seed on one machine and one number of threads.
    """
    import torch

    texts = [message["content"] for chat, _ in rows for message in chat] + [answer for _, answer in rows]
    tokenizer = train_tokenizer([*texts, *extra_tokenizer_texts])
    torch.manual_seed(seed)
    model = _new_model(
        tokenizer,
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_hidden_layers=n_layers,
        num_attention_heads=hidden_size // HEAD_SIZE,
        num_key_value_heads=hidden_size // HEAD_SIZE // 2,
        head_dim=HEAD_SIZE,
    )
    encoded = [encode_row(tokenizer, chat, answer) for chat, answer in rows]
    n_steps = len(encoded) // batch_rows
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak_learning_rate, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak_learning_rate, total_steps=n_steps, pct_start=0.1)
    loss = float("nan")
    for step in range(n_steps):
        loss = _train_step(model, encoded[step * batch_rows : (step + 1) * batch_rows])
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % progress_every_steps == 0 or step + 1 == n_steps:
            progress(step + 1, n_steps, {"loss": loss})
    _save(model, tokenizer, out_dir)
    return {
        "steps": n_steps,
        "loss": loss,
        "parameters": model.num_parameters(),
        "vocab_tokens": len(tokenizer),
        "max_row_tokens": max(len(prompt) + len(answer) for prompt, answer in encoded),
    }


def encode_row(tokenizer: PreTrainedTokenizerFast, chat: Messages, answer: str) -> tuple[list[int], list[int]]:
    """(prompt ids, answer ids): the rendered chat with its generation prompt, and the answer with its end token."""
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    return ids, tokenizer(answer + TURN_END, add_special_tokens=False)["input_ids"]


def _new_model(tokenizer: PreTrainedTokenizerFast, **shape: int) -> Qwen3ForCausalLM:
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=-(-len(tokenizer) // 64) * 64,  # rounded up: ids never outnumber embedding rows
        max_position_embeddings=MAX_POSITIONS_TOKENS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **shape,
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=False,
        eos_token_id=[tokenizer.eos_token_id, tokenizer.pad_token_id],
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


def _train_step(model: Qwen3ForCausalLM, batch: Sequence[tuple[list[int], list[int]]]) -> float:
    """Accumulate the gradients of one batch; returns its mean loss in nats per answer token, each row counting alike.

    Rows of like length run together: little padding, and rows of one prompt share their prefix.
    """
    total = 0.0
    for part in _micro_batches(batch):
        loss = _answer_losses(model, part).sum() / len(batch)
        loss.backward()
        total += loss.item()
    return total


def _micro_batches(batch: Sequence[tuple[list[int], list[int]]]) -> list[list[tuple[list[int], list[int]]]]:
    """The batch by length, cut wherever a row is more than MAX_LENGTH_STEP_TOKENS longer than the one before."""
    parts: list[list[tuple[list[int], list[int]]]] = []
    previous_tokens = 0
    for row in sorted(batch, key=lambda row: len(row[0]) + len(row[1])):
        n_tokens = len(row[0]) + len(row[1])
        if not parts or n_tokens - previous_tokens > MAX_LENGTH_STEP_TOKENS:
            parts.append([])
        parts[-1].append(row)
        previous_tokens = n_tokens
    return parts


def _answer_losses(model: Qwen3ForCausalLM, part: Sequence[tuple[list[int], list[int]]]) -> Tensor:
    """Mean cross entropy of each row's answer tokens, shape (rows,).

    A mean per row: the few tokens of a short answer would drown among those of the long ones.
    hidden: (rows, tokens after the shared prefix, hidden size); logits: (answer tokens, vocab).
    """
    import torch

    n_shared = _shared_prefix_tokens([prompt for prompt, _ in part])
    width = max(len(prompt) + len(answer) for prompt, answer in part) - n_shared
    ids = torch.zeros(len(part), width, dtype=torch.long)
    labels = torch.full((len(part), width), IGNORED_LABEL)
    for place, (prompt, answer) in enumerate(part):
        rest = len(prompt) - n_shared
        ids[place, : rest + len(answer)] = torch.tensor(prompt[n_shared:] + answer)
        labels[place, rest : rest + len(answer)] = torch.tensor(answer)
    # Padding is on the right and attention looks left only, so no real token sees it and no mask is needed.
    cache = model.model(torch.tensor([part[0][0][:n_shared]]), use_cache=True).past_key_values
    cache.batch_repeat_interleave(len(part))
    hidden = model.model(ids, past_key_values=cache, use_cache=True).last_hidden_state
    learned = labels[:, 1:] != IGNORED_LABEL
    logits = model.lm_head(hidden[:, :-1][learned])
    losses = torch.nn.functional.cross_entropy(logits, labels[:, 1:][learned], reduction="none")
    row_of_token = learned.nonzero()[:, 0]
    n_tokens = learned.sum(dim=1)
    return torch.zeros(len(part)).index_add(0, row_of_token, losses) / n_tokens


def _shared_prefix_tokens(prompts: Sequence[Sequence[int]]) -> int:
    """How many leading tokens all prompts share, less one: every row keeps a prompt token of its own."""
    n_tokens = 0
    for column in zip(*prompts, strict=False):
        if len(set(column)) > 1:
            break
        n_tokens += 1
    return max(1, min(n_tokens, min(map(len, prompts)) - 1))


def _save(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, out_dir: Path) -> None:
    import torch

    model.to(torch.bfloat16).save_pretrained(out_dir)
    tokenizer.save_pretrained(out_dir)
