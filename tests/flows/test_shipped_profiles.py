"""Every profile that ships passes its own build_dataset and validate_dataset, and says the same whatever its seed.

The rows, their number, the limits and the longest row are the profile's. Only the base's files are stood in for: its chat
template by one of the same form, and, where the base comes from the Hub, its vocabulary by one of 8,000 tokens made of the
rows. So what is proven of lengths is that rows are nowhere near the limit, not the count of the real tokenizer.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pytest

from data_contracts.audit.audit import audit_rows, audit_splits
from data_contracts.limits import load_limits
from data_contracts.verdict import failures
from flows.config import CONFIGS_FOLDER, FinetuneConfig, flow_of, load_config, profile_path
from flows.distill_config import DistillConfig
from tasks.build_dataset import STAGE as BUILD
from tasks.build_dataset import DatasetConfig
from tasks.core.errors import ContractError
from tasks.core.stage import Job
from tasks.core.stage_process import execute
from tasks.prepare_base import BaseConfig
from tasks.recipes import load_recipe
from tasks.training.nano_base import train_tokenizer
from tasks.validate_dataset import STAGE as VALIDATE
from tasks.validate_dataset import ValidateConfig
from tests.fixtures.tiny_model import CHATML, SPECIAL_TOKENS, make_tiny_tokenizer
from tests.fixtures.tiny_moe import HARMONY, HARMONY_TOKENS

KINDS = {"finetune": FinetuneConfig, "distill": DistillConfig}
MANY_ROWS = 1_000
"""A profile with more training rows is checked among the slow tests: building and auditing 7,000 takes half a minute."""
VOCABULARY_ROWS = 400
TEMPLATES = {
    "gpt-oss": {"chat_template": HARMONY, "special_tokens": HARMONY_TOKENS, "eos_token": "<|return|>"},
    "Qwen": {"chat_template": CHATML, "special_tokens": SPECIAL_TOKENS, "eos_token": "<|im_end|>"},
}
"""Family of a Hub base, a part of its name -> the form of its chats."""
PRETRAINING_ROWS = 600
"""Rows of pre-training that a nano base's vocabulary is made from here; the grammar repeats after some hundred."""


class Rows(NamedTuple):
    """What decides whether rows pass: where two profiles agree in all of it, they are checked once."""

    recipe: str
    dataset: DatasetConfig
    validate: ValidateConfig
    base: str
    """Family of the base: nano, or a key of TEMPLATES."""


def shipped() -> dict[str, str]:
    """Profile -> flow, of every profile that trains on rows of its own."""
    paths = sorted(CONFIGS_FOLDER.glob("*/*.yaml"))
    flows = {path.relative_to(CONFIGS_FOLDER).with_suffix("").as_posix(): flow_of(path) for path in paths}
    return {profile: flow for profile, flow in flows.items() if flow != "compare"}


def rows_of(profile: str) -> list[Rows]:
    """What a profile trains on, once for each base."""
    config = load_config(profile_path(profile, *KINDS), {"min_free_gib": 0}, KINDS[shipped()[profile]])
    blocks = [config] if isinstance(config, FinetuneConfig) else [config.teacher, config.student]
    return [Rows(config.recipe, config.dataset, one.validate_rows, family(one.base)) for one in blocks if one]


def family(base: BaseConfig) -> str:
    """The form of the base's chats; a base of no known form has to be added to TEMPLATES."""
    if base.source == "nano":
        return "nano"
    (name,) = [name for name in TEMPLATES if name in base.model_id]
    return name


def once() -> list:
    """The distinct rows of all profiles, each named after the profiles that train on them."""
    names: dict[Rows, list[str]] = {}
    for profile in shipped():
        for rows in rows_of(profile):
            names.setdefault(rows, []).append(profile)
    return [
        pytest.param(
            rows,
            id=f"{'+'.join(sorted(set(profiles)))} on {rows.base}",
            marks=[pytest.mark.slow] if rows.dataset.train_rows > MANY_ROWS else [],
        )
        for rows, profiles in names.items()
    ]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Rows -> folder of their data set, made and verified by the stage; one that several bases train on is made once."""

    @cache
    def build(recipe: str, dataset: DatasetConfig) -> Path:
        folder = tmp_path_factory.mktemp("built")
        job = Job(recipe, folder / "out", work=folder / "work")
        job.out.mkdir()
        execute(BUILD, dataset, job)
        return job.out

    return build


def make_base(folder: Path, rows: Rows, dataset: Path) -> Path:
    """Tokenizer and chat template of the base that the profile names, without its weights."""
    if rows.base == "nano":
        pretraining = list(load_recipe(rows.recipe).pretraining_rows(PRETRAINING_ROWS, 42))
        texts = [message["content"] for chat, _ in pretraining for message in chat]
        train_tokenizer([*texts, *(answer for _, answer in pretraining)]).save_pretrained(folder)
        return folder
    lines = (dataset / "train.jsonl").read_text("utf-8").splitlines()[:VOCABULARY_ROWS]
    make_tiny_tokenizer(folder, vocab_tokens=8_000, corpus=lines, **TEMPLATES[rows.base])
    return folder


def validate(rows: Rows, dataset: Path, folder: Path) -> dict:
    """Run validate_dataset, work and verification."""
    job = Job(rows.recipe, folder / "out", work=folder / "work")
    job.inputs = {"dataset": dataset, "base": make_base(folder / "base", rows, dataset)}
    job.out.mkdir()
    return execute(VALIDATE, rows.validate, job)


def test_every_profile_that_trains_is_looked_at():
    assert len(shipped()) >= 8
    assert set(shipped().values()) == set(KINDS)
    assert {rows.base for profile in shipped() for rows in rows_of(profile)} == {"nano", *TEMPLATES}


@pytest.mark.parametrize("rows", once())
def test_the_profile_passes_its_own_contract(rows, built, tmp_path):
    facts = validate(rows, built(rows.recipe, rows.dataset), tmp_path)["facts"]
    assert facts["train_rows"] == rows.dataset.train_rows
    assert facts["heldout_rows"] == rows.dataset.heldout_rows


def test_a_profile_that_breaks_its_contract_is_seen(built, tmp_path):
    """Hand-written rows under the limits of the nano grammar: the checks above are those of the profile."""
    (rows,) = rows_of("signals/qwen3-0.6b")
    wrong = rows._replace(validate=rows.validate.model_copy(update={"limits": "nano"}))
    with pytest.raises(ContractError, match="rows break their contract"):
        validate(wrong, built(rows.recipe, rows.dataset), tmp_path)


@pytest.mark.slow
def test_twenty_seeds_of_a_profile_on_gold_have_one_verdict():
    """Only what a seed changes: which rows are drawn and how they lie. Profiles with the same draw are one."""
    gold = {
        rows._replace(base="") for profile in shipped() for rows in rows_of(profile) if rows.dataset.source == "gold"
    }
    assert gold
    for rows in gold:
        limits, draw = load_limits(rows.recipe, rows.validate.limits), rows.dataset
        for seed in range(20):
            built = load_recipe(rows.recipe).build_rows("gold", draw.train_rows, draw.heldout_rows, seed)
            train, heldout = (pl.DataFrame(split, infer_schema_length=None) for split in built)
            checks = [*audit_rows(train, limits), *audit_splits(train, heldout, limits)]
            assert len(checks) > 30
            assert not failures(checks), seed
