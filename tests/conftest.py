"""Shared by all tests: a tiny chain, each link made once in a session, by plain functions without Prefect or a server."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    """Where the session's chain lies."""
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="session")
def tiny_base(tiny_folder) -> Path:
    """A random Qwen3 of hidden size 64 and 2 layers, bfloat16, with tokenizer and chat template. Copy it to damage it."""
    from tasks.core.math_kernels import settle_math_kernels
    from tests.fixtures.tiny_model import make_tiny_model

    settle_math_kernels()
    return make_tiny_model(tiny_folder / "base", hidden_size=64, context_tokens=2048)


@pytest.fixture(scope="session")
def tiny_rows(tiny_folder, tiny_base) -> Path:
    """train.parquet and heldout.parquet: a few rows of the nano world as the tiny base's token ids."""
    from tests.fixtures.tiny_chain import make_rows

    return make_rows(tiny_base, tiny_folder / "rows")


@pytest.fixture(scope="session")
def tiny_adapter(tiny_folder, tiny_base, tiny_rows):
    """An adapter trained without interruption and verified: `.out`, `.job`, `.outcome`."""
    from tests.fixtures.tiny_chain import make_adapter, train_job

    return make_adapter(train_job(tiny_folder / "train", tiny_base, tiny_rows))


@pytest.fixture(scope="session")
def tiny_merged(tiny_folder, tiny_base, tiny_rows, tiny_adapter):
    """The tiny base with the adapter merged in, verified: `.out`, `.job`, `.outcome`."""
    from tests.fixtures.tiny_chain import make_merged, merge_job

    return make_merged(merge_job(tiny_folder / "merge", tiny_base, tiny_rows, tiny_adapter.out))
