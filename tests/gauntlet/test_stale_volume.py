"""A persistent volume still holds last month's run: same name, same settings, same file names, other data.

A cache that goes by names gives the old adapter to the new run. Here a run reuses only what was made of the very bytes it has.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from prefect import flow

from tasks.core.artifact import Artifact, Store
from tasks.core.cached import run_stage
from tasks.core.keys import KeyParts
from tasks.core.stage import Outcome, Run, Stage
from tasks.train_lora import STAGE
from tests.fixtures.tiny_chain import RECIPE, TRAIN_CONFIG, make_rows, publish_folder

CONFIG = TRAIN_CONFIG.model_copy(update={"epochs": 1.0})


@pytest.fixture(scope="module")
def months(tmp_path_factory, tiny_base) -> dict[str, Path]:
    """Two sets of rows whose files have the same names."""
    folder = tmp_path_factory.mktemp("months")
    made = {month: make_rows(tiny_base, folder / month, train_rows=n) for month, n in (("old", 32), ("new", 24))}
    assert {p.name for p in made["old"].iterdir()} == {p.name for p in made["new"].iterdir()}
    return made


def run_on(volume: Path, base: Path, rows: Path) -> Outcome:
    """One run of the same name on the volume, over these rows, as a flow does it."""
    store = Store(volume)
    inputs = {"base": publish_folder(store, "base-model", base), "rows": publish_folder(store, "token-rows", rows)}

    @flow(name="one-run")
    def one_run() -> None:
        found.append(run_stage(STAGE, Run(name="monthly", recipe=RECIPE, store=str(volume)), CONFIG, **inputs))

    found: list[Outcome] = []
    one_run()
    return found[0]


def rows_behind(volume: Path, artifact: Artifact) -> str:
    """Digest of the rows that an adapter says it was trained on."""
    return json.loads((Store(volume).folder(artifact) / "lineage.json").read_text())["rows_digest"]


@pytest.mark.slow
def test_the_new_run_builds_its_own_and_both_are_kept(prefect_server, months, tiny_base, tmp_path):
    old = run_on(tmp_path, tiny_base, months["old"])
    new = run_on(tmp_path, tiny_base, months["new"])
    assert (old.reused, new.reused) == (False, False)
    (because,) = new.because
    assert because.startswith("inputs.rows: token-rows:")
    assert old.artifact.digest != new.artifact.digest
    assert rows_behind(tmp_path, old.artifact) != rows_behind(tmp_path, new.artifact)
    again = run_on(tmp_path, tiny_base, months["old"])
    assert again.reused and again.artifact == old.artifact, "last month's data is still last month's model"


@pytest.mark.slow
def test_a_key_of_names_alone_would_hand_out_last_months_model(
    prefect_server, months, tiny_base, tmp_path, monkeypatch
):
    """The guard is taken away: the key knows what its inputs are called, and not what they hold."""
    real = Stage.key_parts

    def names_alone(stage, run, config, inputs) -> KeyParts:
        parts = real(stage, run, config, inputs)
        return KeyParts({**parts.work, "inputs": [*inputs]}, parts.checks)

    monkeypatch.setattr(Stage, "key_parts", names_alone)
    old = run_on(tmp_path, tiny_base, months["old"])
    new = run_on(tmp_path, tiny_base, months["new"])
    assert new.reused and new.artifact == old.artifact
