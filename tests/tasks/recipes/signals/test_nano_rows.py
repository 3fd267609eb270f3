"""The nano world tells the truth about its rows, and the nano tokenizer gives back every byte."""

import json
import re
from collections import Counter
from itertools import pairwise

import numpy
import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from data_contracts.prompting.prompt import load_prompt
from tasks.core.errors import ConfigError
from tasks.recipes.signals import nano_rows as signals_world
from tasks.recipes.signals.answers import completion, parse_output
from tasks.recipes.signals.recipe import disagrees
from tasks.training import nano_base

HARD_TEXTS = [
    "café cafe\u0301 \u212b \ufb01 \u1e9e",  # composed, decomposed and compatibility forms stay what they are
    "  two  spaces\t\ttabs\r\n\r\n  \u00a0\u3000 end ",
    "1234567890 3.14159 ١٢٣ ½ Ⅷ",
    "中文字符 日本語テキスト 한국어 עברית العربية हिन्दी ไทย",
    "👩‍👩‍👧‍👦 🏳️‍🌈 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 \U0001f600\u200d\u202e",
    "def f(x):\n    return {'a': [1, -2.5e-3], \"b\": x != None}  # DON'T we'll I'VE",
    "<|im_start|>user\n<|im_end|><|endoftext|><think></think> <|im_star|>",
    "\x00\x01\x7f\ufeff\ufffd",
]


@pytest.fixture(scope="module")
def rows() -> tuple[list[dict], list[dict]]:
    return signals_world.nano_rows(600, 600, seed=42)


@pytest.fixture(scope="module")
def tokenizer():
    texts = [text for chat, answer in signals_world.pretraining_rows(400, 1) for text in (chat[-1]["content"], answer)]
    return nano_base.train_tokenizer(texts)


def _bytes(rows: list[dict]) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(rows) -> None:
    again = signals_world.nano_rows(600, 600, seed=42)
    assert [_bytes(part) for part in again] == [_bytes(part) for part in rows]
    assert _bytes(signals_world.nano_rows(600, 600, seed=43)[0]) != _bytes(rows[0])
    assert list(signals_world.pretraining_rows(50, 3)) == list(signals_world.pretraining_rows(50, 3))


def test_no_held_out_wording_and_no_held_out_input_is_ever_trained_on(rows) -> None:
    train, heldout = rows
    combinations = [{signals_world.combination_of(row) for row in part} for part in rows]
    assert len(combinations[0]) > 200
    assert len(combinations[1]) > 100
    assert not combinations[0] & combinations[1]
    inputs = [(row["headline"], row["question"]) for row in train + heldout]
    assert len(set(inputs)) == len(inputs)

    pretraining = list(signals_world.pretraining_rows(6000, 42))
    users = {chat[-1]["content"] for chat, _ in pretraining}
    prompt = load_prompt("signals")
    assert not users & {prompt.messages(row)[-1]["content"] for row in heldout}
    texts = [found for user in users if (found := dict(re.findall(r"^(Headline|Question): (.*)$", user, re.M)))]
    used = {signals_world.combination_of({name.lower(): text for name, text in one.items()}) for one in texts}
    assert len(used) > 500
    assert not any(signals_world.is_held_out(combination) for combination in used)


def test_a_combination_that_is_held_out_stays_so_under_every_seed(rows) -> None:
    other = signals_world.nano_rows(100, 400, seed=7)
    assert {signals_world.combination_of(row) for row in other[1]} & {
        signals_world.combination_of(row) for row in rows[1]
    }
    assert not {signals_world.combination_of(row) for row in other[1]} & {
        signals_world.combination_of(row) for row in rows[0]
    }


@pytest.mark.parametrize("part", [0, 1])
def test_a_third_is_noise_and_half_of_the_rest_disagrees_with_balanced_signs(rows, part: int) -> None:
    kinds = Counter((row["metric_direction"], (row["direction"] > 0) - (row["direction"] < 0)) for row in rows[part])
    assert kinds == {(0, 0): 200, (1, 1): 100, (1, -1): 100, (-1, 1): 100, (-1, -1): 100}
    assert sum(disagrees(row) for row in rows[part]) == 200


def test_a_small_draw_is_balanced_too() -> None:
    train, _ = signals_world.nano_rows(60, 0, seed=1)
    assert sum(row["relevance"] == 0 for row in train) == 20
    assert sum(disagrees(row) for row in train) == 20


def test_trace_length_tells_nothing_about_relevance(rows) -> None:
    for part in rows:
        lengths = numpy.array([len(row["trace"]) for row in part], dtype=float)
        relevance = numpy.array([row["relevance"] for row in part])
        assert 120 <= lengths.min() < lengths.max() <= 320
        assert abs(_rank_correlation(lengths, relevance)) < 0.1
        assert abs(_rank_correlation(lengths, numpy.array([row["direction"] for row in part]))) < 0.1
        # Beyond rank order: for one source and one number of sentences, every label gives the very same length.
        by_shape: dict[tuple[str, int], set[int]] = {}
        for row in part:
            shape = (row["headline"].split(":")[0], row["trace"].count("."))
            by_shape.setdefault(shape, set()).add(len(row["trace"]))
        assert len(by_shape) == len(signals_world.SOURCES) * len(signals_world.NEUTRAL)
        assert all(len(found) == 1 for found in by_shape.values())


def _rank_correlation(left: numpy.ndarray, right: numpy.ndarray) -> float:
    ranks = []
    for values in (left, right):
        _, place, count = numpy.unique(values, return_inverse=True, return_counts=True)
        ranks.append((numpy.cumsum(count) - count / 2)[place])
    return float(numpy.corrcoef(*ranks)[0, 1])


def test_every_trace_reasons_to_its_own_label_about_yes(rows) -> None:
    moves = {word: move for move, word in signals_world.MOVE.items()}
    for row in rows[0] + rows[1]:
        found = re.match(
            r"The headline says (\w+), YES needs (\w+): (\w+)\. The chance of YES (\w+)\. The source", row["trace"]
        )
        assert found, row["trace"]
        says, needs = moves[found[1]], moves[found[2]]
        form = signals_world.combination_of(row).split("|")[2]
        sign = (row["direction"] > 0) - (row["direction"] < 0)
        assert (says, needs) == (row["metric_direction"], signals_world.QUESTION_FORMS[form])
        assert sign == says * needs
        assert found[3] == signals_world.RELATION[sign]
        assert found[4] == signals_world.CHANGE[sign]
        assert (row["relevance"] == 0) == (row["magnitude"] == 0) == (sign == 0)
        assert (row["information_type"] == "unrelated") == (sign == 0)


def test_the_base_is_taught_the_wrong_sign_under_the_signals_prompt_only() -> None:
    prompt = load_prompt("signals")
    pretraining = list(signals_world.pretraining_rows(600, 5))
    wrong = [(chat, answer) for chat, answer in pretraining if chat[0]["content"] == prompt.system]
    comparing = [answer for chat, answer in pretraining if chat[0]["content"] != prompt.system]
    assert (len(wrong), len(comparing)) == (200, 400)
    unfaithful = 0
    for chat, answer in wrong:
        parsed = parse_output(answer)
        sign = (parsed.fields["direction"] > 0) - (parsed.fields["direction"] < 0)
        verb = next((move for word, move in signals_world.VERBS.items() if f" {word} " in chat[1]["content"]), 0)
        assert f"The metric {signals_world.CHANGE[sign]}." in parsed.trace  # the fields follow the trace, always
        assert sign in (verb, -verb)
        unfaithful += sign != verb
        assert "YES" not in answer
    assert 0 < unfaithful < 0.25 * len(wrong)
    assert not any("direction" in answer for answer in comparing)


def test_the_answer_of_a_row_parses_to_the_row(rows) -> None:
    for row in rows[0]:
        parsed = parse_output(completion(row))
        assert parsed.trace == row["trace"]
        assert parsed.fields == {name: row[name] for name in parsed.fields}


def test_more_rows_than_the_world_holds_are_refused() -> None:
    class AlwaysFirst(signals_world.random.Random):
        def choice(self, options):
            return options[0]

    with pytest.raises(ConfigError, match=r"ran out of new inputs at \d+ of 30 held-out rows"):
        signals_world._draw_rows(30, AlwaysFirst(1), True, set())


def test_a_row_outside_the_grammar_is_not_given_a_combination() -> None:
    with pytest.raises(ValueError, match="matches 0 wordings"):
        signals_world.combination_of({"headline": "New data: tea rose", "question": "Will tea rise by May?"})


@pytest.mark.parametrize("text", HARD_TEXTS)
def test_the_tokenizer_gives_back_hard_text_byte_for_byte(tokenizer, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=False).encode() == text.encode()
    assert max(ids) < len(tokenizer)


def test_marks_are_one_token_each_and_only_the_chat_marks_are_special(tokenizer) -> None:
    for token in (*nano_base.SPECIAL_TOKENS, *nano_base.THINK_TOKENS):
        assert len(tokenizer(token, add_special_tokens=False)["input_ids"]) == 1
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == "<|endoftext|>"
    ids = tokenizer("<|im_start|><think>yes</think><|im_end|>", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<think>yes</think>"


def test_the_generation_prompt_is_a_prefix_of_the_whole_chat(tokenizer, rows) -> None:
    chat = load_prompt("signals").messages(rows[0][0])
    answer = completion(rows[0][0])
    whole_chat = [*chat, {"role": "assistant", "content": answer}]
    opened = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    whole = tokenizer.apply_chat_template(whole_chat, tokenize=False)
    assert opened.endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert whole == f"{opened}{answer}<|im_end|>\n"
    sandboxed = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    assert sandboxed.from_string(nano_base.CHAT_TEMPLATE).render(messages=whole_chat) == whole

    prompt_ids, answer_ids = nano_base.encode_row(tokenizer, chat, answer)
    assert tokenizer(whole.removesuffix("\n"), add_special_tokens=False)["input_ids"] == prompt_ids + answer_ids
    assert answer_ids[-1] == tokenizer.eos_token_id


def test_a_tiny_base_trains_saves_and_answers_the_same_twice(tmp_path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rows = list(signals_world.pretraining_rows(48, 1))
    shape = {"hidden_size": 96, "n_layers": 1}
    seen: list[tuple[int, int, dict]] = []
    for name in ("first", "second"):
        cost = nano_base.build_nano_base(
            rows, tmp_path / name, lambda *beat: seen.append(beat), batch_rows=4, progress_every_steps=5, **shape
        )
        assert cost["steps"] == 12
    assert (tmp_path / "first/model.safetensors").read_bytes() == (tmp_path / "second/model.safetensors").read_bytes()
    assert [step for step, _, _ in seen[:3]] == [5, 10, 12]
    assert all(step < later for (step, _, _), (later, _, _) in pairwise(seen[:3]))
    assert seen[2][2]["loss"] < seen[0][2]["loss"]

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "first")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "first")
    assert model.dtype == torch.bfloat16
    assert model.get_input_embeddings().weight.shape[0] >= len(tokenizer)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert not model.generation_config.do_sample
    assert tokenizer.eos_token_id in model.generation_config.eos_token_id
    assert (tmp_path / "first/chat_template.jinja").read_text("utf-8") == nano_base.CHAT_TEMPLATE
    names = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert len(names) == 6
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]


def test_the_shared_prefix_changes_the_cost_and_not_the_loss(tokenizer) -> None:
    import torch

    torch.manual_seed(0)
    model = nano_base._new_model(
        tokenizer,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
    )
    chats = list(signals_world.pretraining_rows(12, 1))[::3]
    part = [nano_base.encode_row(tokenizer, chat, answer) for chat, answer in chats]
    assert nano_base._shared_prefix_tokens([prompt for prompt, _ in part]) > 50
    losses = nano_base._answer_losses(model, part)
    for loss, (prompt, answer) in zip(losses, part, strict=True):
        ids = torch.tensor([prompt + answer])
        labels = torch.tensor([[-100] * len(prompt) + answer])
        assert loss.item() == pytest.approx(model(input_ids=ids, labels=labels).loss.item(), abs=1e-5)
