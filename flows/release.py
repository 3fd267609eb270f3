"""What a run leaves where people look: the release folder, the table on the terminal, the artifacts in the Prefect UI."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.config import ReleasingConfig
from tasks.core.artifact import Artifact, Store, hash_folder
from tasks.core.errors import ConfigError
from tasks.release import assemble
from tasks.reports import leaderboard
from tasks.reports.data import ReleaseData


def check_access(config: ReleasingConfig) -> None:
    """Rights and token scope on the Hub, before the first minute of work.

    Raises:
        ConfigError: every problem at once.
    """
    if not config.publish.hub_repo:
        return
    from data_contracts.verdict import failures
    from tasks.release.hub import check_hub_access

    bad = failures(check_hub_access(config.publish.hub_repo, private=config.publish.private))
    if bad:
        raise ConfigError(
            [
                f"publish: {len(bad)} problem(s) with {config.publish.hub_repo}. Nothing was run.",
                *(f"  {one.sentence()}" for one in bad),
            ]
        )


def release_data(config: ReleasingConfig, made: dict[str, Artifact]) -> ReleaseData:
    """The run's release as data, read from the store."""
    store = Store(config.store)
    manifests = {role: store.manifest_path(one) for role, one in made.items()}
    folders = {role: store.folder(one) for role, one in made.items()}
    return assemble.assemble(config.name, config.recipe, manifests, folders, {})


@contextmanager
def shown(config: ReleasingConfig, made: dict[str, Artifact]) -> Iterator[None]:
    """Leave lineage, verification table and leaderboard as Prefect artifacts; print the table last, whatever happens."""
    from prefect.artifacts import create_markdown_artifact
    from rich.console import Console

    release = release_data(config, made)
    gates = assemble.gate_checks(Store(config.store).folder(made["evaluation"]))
    key = config.name.replace(".", "-")
    pages = {
        "lineage": f"# Lineage of {config.name}\n\n```mermaid\n{leaderboard.lineage_mermaid(release)}\n```\n",
        "verification": f"# What was verified\n\n{leaderboard.verification_markdown(release)}\n\n"
        f"# Gates\n\n{leaderboard.checks_markdown(gates)}\n",
        "leaderboard": f"# Leaderboard\n\n{leaderboard.leaderboard_markdown(release)}\n",
    }
    for page, text in pages.items():
        create_markdown_artifact(text, key=f"{key}-{page}", description=f"{page} of {config.name}")
    try:
        yield
    finally:
        Console(width=max(Console().width, 150)).print(leaderboard.leaderboard_table(release))


def place(store: Store, made: Artifact, folder: str, name: str) -> str:
    """Copy an artifact to `<folder>/<name>`, replacing what is there when a file differs; returns the path."""
    target = Path(folder).resolve() / name
    if not target.is_dir() or hash_folder(target) != made.files:
        aside = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(store.folder(made), aside, ignore=shutil.ignore_patterns("manifests"))
        if hash_folder(aside) != made.files:
            raise ConfigError(
                f"{name}: the copy in {target.parent} differs from the store. Is its disk full or failing?"
            )
        if target.exists():
            shutil.rmtree(target)
        aside.rename(target)
    return str(target)
