"""A release on the Hugging Face Hub: one commit or none, and believed only after it came back.

`check_hub_access` runs first in a flow; `publish_to_hub` makes the commit; `verify_published` downloads that commit
into an empty cache and compares every digest. The stage then loads what came back from
`PublishedCommit.snapshot(cache_dir)`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from data_contracts.verdict import Check, check
from tasks.core.artifact import sha256_file
from tasks.core.errors import ArtifactError, ConfigError, PlumblineError, TransientError
from tasks.release.hub_access import check_hub_access, repo_id_problem, visibility
from tasks.release.hub_client import BRANCH, STAGE, Backoff, ask, connect, find_repo, retrying

if TYPE_CHECKING:
    from huggingface_hub import HfApi

__all__ = ["Backoff", "PublishedCommit", "check_hub_access", "publish_to_hub", "verify_published"]

_GITATTRIBUTES = ".gitattributes"
"""Written by the Hub itself into every repository."""
_COMMIT_SHA = r"^[0-9a-f]{40}$"
_SHOWN = 5
_AGAIN = "Do not announce this release. Publish again; when it repeats, publish to a new repository"


class PublishedCommit(BaseModel):
    """What the Hub says it stored. A claim, until `verify_published` has looked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    repo_id: str
    commit_sha: str = Field(pattern=_COMMIT_SHA)
    url: str

    def snapshot(self, cache_dir: Path) -> Path:
        """The folder in which `verify_published(self, files, cache_dir)` leaves the downloaded files."""
        return cache_dir.resolve() / f"models--{self.repo_id.replace('/', '--')}" / "snapshots" / self.commit_sha


def publish_to_hub(
    folder: Path,
    files: dict[str, str],
    repo_id: str,
    *,
    private: bool,
    commit_message: str,
    endpoint: str | None = None,
    backoff: Backoff | None = None,
) -> PublishedCommit:
    """One commit after which the repository holds exactly `files` (relative path -> sha256), or no commit at all.

    Creates the repository when it is not there. Files on the Hub that are not in `files` go in the same commit. When
    the Hub already holds these very files, its head commit is returned. A repeated attempt starts from what is there
    by then, so a commit whose answer was lost on the way is found, not made twice.

    Raises:
        ConfigError: repository id, token or visibility.
        ArtifactError: a local file is not as recorded, or the Hub refuses the content.
        TransientError: the Hub could not be reached, or failed, at every attempt.
    """
    if problem := repo_id_problem(repo_id):
        raise ConfigError(f"{STAGE}: the repository id is not well-formed: {problem}. Write it as namespace/name.")
    if problems := _local_problems(folder, files):
        raise ArtifactError(
            f"{STAGE}: {len(problems)} of {len(files)} files are not as they were proven: {_some(problems)}. "
            "Nothing was sent. Build the release again."
        )
    with connect(endpoint) as api:
        return retrying(
            f"publishing {len(files)} files to {repo_id}",
            lambda: _commit_once(api, folder, files, repo_id, private, commit_message),
            backoff or Backoff(),
        )


def verify_published(
    commit: PublishedCommit,
    files: dict[str, str],
    cache_dir: Path,
    *,
    endpoint: str | None = None,
    backoff: Backoff | None = None,
) -> list[Check]:
    """What lies on the Hub at the commit, downloaded into an empty cache, against the files that were proven.

    Raises:
        ArtifactError: `cache_dir` is not empty; a file that was there before proves nothing about the Hub.
        TransientError: the Hub could not be reached, or failed, at every attempt.
    """
    if cache_dir.exists() and any(cache_dir.iterdir()):
        raise ArtifactError(f"{STAGE}: the cache to verify with holds files already. Give an empty folder.")
    repo_id, sha, backoff = commit.repo_id, commit.commit_sha, backoff or Backoff()
    with connect(endpoint) as api:
        head, _ = _ask(f"reading the head of {repo_id}", lambda: api.model_info(repo_id, revision=BRANCH).sha, backoff)
        there, no_tree = _ask(f"listing commit {sha[:12]}", lambda: _paths(api, repo_id, sha), backoff)
        _, no_download = _ask(f"downloading commit {sha[:12]}", lambda: _download(api, commit, cache_dir), backoff)
    snapshot = commit.snapshot(cache_dir)
    came = {path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file()}
    missing = sorted(files.keys() - (there or set()))
    extra = sorted(((there or set()) | came) - files.keys() - {_GITATTRIBUTES})
    found = {path: sha256_file(snapshot / path) for path in files.keys() & came}
    wrong = [
        f"{path}: sha256 {found[path][:12]}, proven {files[path][:12]}"
        if path in found
        else f"{path}: did not come back"
        for path in sorted(files)
        if found.get(path) != files[path]
    ]
    return [
        check("the commit is on the Hub", there is not None, "==", True, detail=str(no_tree or ""), fix=_AGAIN),
        check("commit that a plain download of the repository gets", head, "==", sha, fix=_AGAIN),
        check("files missing at the commit", len(missing), "==", 0, detail=_some(missing), fix=_AGAIN),
        check("files at the commit that are not in the release", len(extra), "==", 0, detail=_some(extra), fix=_AGAIN),
        check(
            "files that came back into an empty cache with the sha256 that was proven",
            len(files) - len(wrong),
            "==",
            len(files),
            enough=bool(files),
            detail=". ".join(filter(None, (_some(wrong), str(no_download or "")))),
            fix=_AGAIN,
        ),
    ]


def _commit_once(
    api: HfApi, folder: Path, files: dict[str, str], repo_id: str, private: bool, message: str
) -> PublishedCommit:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    info = find_repo(api, repo_id)
    if info is None:
        api.create_repo(repo_id, private=private, exist_ok=True)
        info = api.model_info(repo_id, revision=BRANCH)
    if bool(info.private) is not private:
        raise ConfigError(
            f"{STAGE}: {repo_id} has the wrong visibility. Found {visibility(bool(info.private))}, asked for "
            f"{visibility(private)}. Nothing was sent. Change it in the repository's settings or in the config."
        )
    operations: list[CommitOperationAdd | CommitOperationDelete] = []
    for path, sha256 in sorted(files.items()):
        added = CommitOperationAdd(path, folder / path)
        added.upload_info.sha256 = bytes.fromhex(sha256)  # known and checked: not computed again at each attempt
        operations.append(added)
    stale = sorted(_paths(api, repo_id, str(info.sha)) - files.keys() - {_GITATTRIBUTES})
    operations += [CommitOperationDelete(path, is_folder=False) for path in stale]
    # The parent makes the Hub refuse when somebody else committed since `stale` was read.
    made = api.create_commit(
        repo_id, operations, commit_message=message, revision=BRANCH, parent_commit=info.sha, num_threads=4
    )
    if not re.fullmatch(_COMMIT_SHA, made.oid):
        raise ArtifactError(
            f"{STAGE}: the Hub's answer to the commit names no commit. Found {made.oid!r}, expected 40 hexadecimal "
            f"digits. Look at {repo_id} on the Hub before you publish again."
        )
    return PublishedCommit(repo_id=repo_id, commit_sha=made.oid, url=made.commit_url)


def _paths(api: HfApi, repo_id: str, revision: str) -> set[str]:
    from huggingface_hub.hf_api import RepoFile

    tree = api.list_repo_tree(repo_id, recursive=True, revision=revision)
    return {entry.path for entry in tree if isinstance(entry, RepoFile)}


def _download(api: HfApi, commit: PublishedCommit, cache_dir: Path) -> None:
    api.snapshot_download(commit.repo_id, revision=commit.commit_sha, cache_dir=cache_dir, max_workers=4)


def _ask(what: str, call: Callable[[], Any], backoff: Backoff) -> tuple[Any, PlumblineError | None]:
    """Like `ask`, but a Hub that is down is not the release's fault: the whole verification is to be tried again."""
    answer, refusal = ask(what, call, backoff)
    if isinstance(refusal, TransientError):
        raise refusal
    return answer, refusal


def _local_problems(folder: Path, files: dict[str, str]) -> list[str]:
    """Everything in which the folder differs from `files`, and names that no repository can hold."""
    if not files:
        return ["there are none"]
    problems = []
    for path, sha256 in sorted(files.items()):
        if PurePosixPath(path).is_absolute() or {"..", ".git", ".cache"} & set(path.split("/")) or path == ".gitignore":
            problems.append(f"{path} is not a name to publish")
        elif not (folder / path).is_file():
            problems.append(f"{path} is missing")
        elif (found := sha256_file(folder / path)) != sha256:
            problems.append(f"{path} has sha256 {found[:12]}, recorded {sha256[:12]}")
    return problems


def _some(problems: list[str]) -> str:
    more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return "; ".join(problems[:_SHOWN]) + more
