"""Answers in channels: openai-harmony's parser on token ids, ours on text, and that both read alike."""

from __future__ import annotations

import gzip
import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from tasks.clients.harmony import MARKS, ChannelReader, base_vocabulary, parse_ids, parse_marked
from tasks.clients.requests import Answer

FINAL = "<|channel|>final<|message|>"
ANALYSIS = "<|channel|>analysis<|message|>"
NEXT = "<|end|><|start|>assistant"
ANSWERS = {  # text -> (final, characters of thoughts, kind of the problem)
    f"{FINAL}Good text": ("Good text", 0, ""),
    f"{ANALYSIS}Think.{NEXT}{FINAL}Good text": ("Good text", 6, ""),
    f"{ANALYSIS}One.{NEXT}{ANALYSIS}Two.{NEXT}{FINAL}{{}}": ("{}", 8, ""),
    f"{ANALYSIS}Think.{NEXT}<|channel|>commentary<|message|>Plan.{NEXT}{FINAL}Go": ("Go", 11, ""),
    f"{ANALYSIS}Only thoughts, and no room": ("", 26, ""),
    f"{ANALYSIS}Only thoughts.<|end|>": ("", 14, ""),
    "": ("", 0, ""),
    "plain text": ("", 0, "harmony"),
    f"{FINAL}one{NEXT}{FINAL}two": ("", 0, "harmony"),
    f"{FINAL}one{NEXT}{ANALYSIS}and then thoughts": ("", 17, "harmony"),
    "<|channel|>commentary to=functions.x <|constrain|>json<|message|>{}": ("", 2, "harmony"),
    f"{FINAL}one<|end|>junk{FINAL}two": ("", 0, "harmony"),
    "<|channel|>weird<|message|>x": ("", 0, "harmony"),
    "<|channel|>final hello": ("", 0, "harmony"),
}


@pytest.mark.parametrize("text", ANSWERS)
def test_marked_text(text):
    final, chars, kind = ANSWERS[text]
    found = parse_marked(text)
    assert (found.final, found.thoughts_chars, found.problem.partition(":")[0]) == (final, chars, kind), found


# --- the library's parser


def needs(package: str) -> None:
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed: python deployments/setup.py --with dev")


@pytest.fixture(scope="session")
def gpt_oss(tmp_path_factory) -> Path:
    """A model folder with the vocabulary of gpt-oss: tokenizer.json as its publisher writes it, as far as it is read here."""
    needs("openai_harmony")
    needs("bpe_openai")  # ships o200k_base.tiktoken
    import base64

    from tasks.clients.harmony import _byte_characters

    spec = find_spec("bpe_openai")
    data = gzip.decompress((Path(spec.origin).parent / "data" / "o200k_base.tiktoken.gz").read_bytes())
    to_character = _byte_characters()
    vocabulary = {}
    for line in data.splitlines():
        token, rank = line.split()
        vocabulary["".join(to_character[byte] for byte in base64.b64decode(token))] = int(rank)
    ids = {"<|return|>": 200002, "<|constrain|>": 200003, "<|channel|>": 200005, "<|start|>": 200006}
    ids |= {"<|end|>": 200007, "<|message|>": 200008, "<|call|>": 200012}
    folder = tmp_path_factory.mktemp("gpt-oss")
    added = [{"id": number, "content": content, "special": True} for content, number in ids.items()]
    tokenizer = {"model": {"type": "BPE", "vocab": vocabulary}, "added_tokens": added}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    return folder


@pytest.fixture(scope="session")
def reader(gpt_oss, tmp_path_factory) -> ChannelReader:
    found = ChannelReader.of(gpt_oss, tmp_path_factory.mktemp("work"))
    assert found is not None and found.encoding is not None
    return found


def ids_of(reader: ChannelReader, text: str) -> tuple[int, ...]:
    return tuple(reader.encoding.encode(text, allowed_special="all"))


def test_the_library_loads_from_the_model_s_own_vocabulary(reader):
    assert reader.parser.startswith("openai-harmony ")
    assert ids_of(reader, "<|channel|>") == (200005,)


@pytest.mark.parametrize("text", [one for one in ANSWERS if one])
def test_both_parsers_read_alike(reader, text):
    ours, theirs = parse_marked(text), parse_ids(reader.encoding, ids_of(reader, text))
    assert (ours.final, bool(ours.problem)) == (theirs.final, bool(theirs.problem)), (ours, theirs)
    if not ours.problem:
        assert ours == theirs


def test_the_answer_is_the_final_channel_and_thoughts_are_counted(reader):
    text = f"{ANALYSIS}We need JSON.{NEXT}{FINAL}{{}}"
    answer = Answer(text, "stop", token_ids=ids_of(reader, text))
    read = reader.read(answer)
    assert (read.text, read.hidden_chars, read.token_ids) == ("{}", 13, answer.token_ids)


def test_ids_are_believed_and_not_the_text(reader):
    """Text that only looks like a marker stays text: this is what token ids are for."""
    spelled = reader.encoding.encode("<|end|>", disallowed_special=())
    ids = (*ids_of(reader, FINAL), *spelled)
    assert parse_ids(reader.encoding, ids).final == "<|end|>"


def test_what_is_not_well_formed_keeps_its_text(reader):
    answer = Answer("plain text", "stop", token_ids=ids_of(reader, "plain text"))
    assert reader.read(answer) is answer
    assert reader.channels(answer).problem.startswith("harmony: ")


def test_another_vocabulary_is_read_by_our_parser(gpt_oss, tmp_path):
    tokenizer = json.loads((gpt_oss / "tokenizer.json").read_text("utf-8"))
    first, second = list(tokenizer["model"]["vocab"])[1000:1002]
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    found = ChannelReader.of(tmp_path, tmp_path)
    assert found.encoding is None and found.parser == "plumbline's own"
    assert found.read(Answer(f"{ANALYSIS}Hm.{NEXT}{FINAL}Go", "stop", token_ids=(1, 2))).text == "Go"


def test_a_model_without_channels_has_no_reader(tmp_path):
    added = [{"id": i, "content": mark} for i, mark in enumerate(MARKS[:3])]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {}}, "added_tokens": added}))
    assert ChannelReader.of(tmp_path, tmp_path) is None
    assert ChannelReader.of(tmp_path / "nowhere", tmp_path) is None
    assert base_vocabulary({"model": {"vocab": {"\u4e2d": 0}}}) == b""
