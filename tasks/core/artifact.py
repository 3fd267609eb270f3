"""Artifacts: folders named by their content, written aside, renamed into place, believed only after re-hashing.

Layout of a store:
    objects/<kind>/<digest>/...                     the files; immutable
    objects/<kind>/<digest>/manifests/<key>.json    how each key that led to this content was built, verified and paid for
    results/                                        Prefect's cache records
    work/<stage>/<work key>/                        what survives a crash: checkpoints, child logs, finished work
    building/                                       half-made things; never read by anyone else
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tasks.core.errors import ArtifactError, redact
from tasks.core.progress import DOING, UNIT, Beat, silent

_HASH_CHUNK_BYTES = 1 << 20
_MANIFESTS = "manifests"


class Artifact(BaseModel):
    """What stages pass to one another: the name of a verified folder, never its weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    digest: str
    """sha256 over `files`: the same content has the same digest, whoever built it."""
    key: str
    """Cache key it was built under; names the manifest."""
    files: dict[str, str]
    """Relative POSIX path -> sha256."""
    manifest_sha256: str


def canonical_json(value: object) -> str:
    """One text for one value: sorted keys, no spaces. Raises TypeError for what JSON cannot hold."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


_hash_memo: dict[tuple[int, int, int, int], str] = {}


def sha256_file(path: Path, read: Callable[[int], None] = lambda _: None) -> str:
    """sha256 of a file, read in chunks; memoised in this process by (device, inode, size, mtime): a rename costs nothing.

    `read`: called with the bytes of each chunk.
    """
    stat = path.stat()
    memo_key = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
    if memo_key not in _hash_memo:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(_HASH_CHUNK_BYTES):
                digest.update(chunk)
                read(len(chunk))
        _hash_memo[memo_key] = digest.hexdigest()
    return _hash_memo[memo_key]


def hash_folder(folder: Path, beat: Beat = silent) -> dict[str, str]:
    """Relative POSIX path -> sha256 of every file under a folder. Links that leave the folder are refused. `beat`: by bytes."""
    files, done_bytes = {}, 0

    def read(chunk_bytes: int) -> None:
        nonlocal done_bytes
        done_bytes += chunk_bytes
        beat(done_bytes, 0, {DOING: f"hashing {folder.name}", UNIT: "bytes"})

    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder).as_posix()
        if relative.split("/")[0] == _MANIFESTS or path.is_dir():
            continue
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ArtifactError(f"store: {relative} is a link that leads out of its folder. Replace it by the file.")
        files[relative] = sha256_file(path, read)
    return files


def content_digest(kind: str, files: dict[str, str]) -> str:
    """What names an artifact: sha256 over its kind and its files (relative path -> sha256)."""
    return hashlib.sha256(canonical_json({"kind": kind, "files": files}).encode()).hexdigest()


class Store:
    """A folder of artifacts."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root).resolve()

    def folder(self, artifact: Artifact) -> Path:
        """Where the artifact's files lie."""
        return self.content(artifact.kind, artifact.digest)

    def content(self, kind: str, digest: str) -> Path:
        """Where files of this content lie once they are published."""
        return self.root / "objects" / kind / digest[:32]

    def manifest(self, artifact: Artifact) -> dict:
        """The manifest written when this key was built."""
        return json.loads(self.manifest_path(artifact).read_text("utf-8"))

    def work(self, stage: str, key: str) -> Path:
        """A folder that outlives a crash and belongs to one stage and work key."""
        path = self.root / "work" / stage / key[:32]
        path.mkdir(parents=True, exist_ok=True)
        return path

    def problems(self, artifact: Artifact) -> list[str]:
        """Everything in which the files on disk differ from the artifact's record; empty when they agree."""
        folder = self.folder(artifact)
        if not folder.is_dir():
            return [f"folder {folder.name} is gone"]
        found = hash_folder(folder)
        wrong = [f"{name} is missing" for name in artifact.files.keys() - found.keys()]
        wrong += [f"{name} was added" for name in found.keys() - artifact.files.keys()]
        wrong += [
            f"{name} changed: sha256 {found[name][:12]}, recorded {artifact.files[name][:12]}"
            for name in artifact.files.keys() & found.keys()
            if found[name] != artifact.files[name]
        ]
        manifest = self.manifest_path(artifact)
        if not manifest.is_file():
            wrong.append(f"{_MANIFESTS}/{manifest.name} is missing")
        elif sha256_file(manifest) != artifact.manifest_sha256:
            wrong.append(f"{_MANIFESTS}/{manifest.name} changed")
        return sorted(wrong)

    def verify(self, artifact: Artifact) -> Artifact:
        """Re-hash the artifact's files.

        Raises:
            ArtifactError: naming each file that is missing, added or changed.
        """
        if wrong := self.problems(artifact):
            raise ArtifactError(
                f"store: {len(wrong)} of {len(artifact.files) + 1} files of {artifact.kind} {artifact.digest[:12]} "
                f"are not as they were made: {'; '.join(wrong[:5])}. It is rebuilt on the next run."
            )
        return artifact

    @contextmanager
    def building(self, kind: str) -> Iterator[Path]:
        """An empty folder to build in; gone afterwards unless it was published."""
        self._sweep()
        path = self.root / "building" / f"{kind}.{os.getpid()}.{uuid.uuid4().hex[:8]}"
        path.mkdir(parents=True)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def publish(self, kind: str, key: str, folder: Path, manifest: dict) -> Artifact:
        """Move a finished folder into place under the digest of its content, manifest last, in one rename.

        Content that is already there is kept when it is sound and replaced when it is not.
        """
        files = hash_folder(folder)
        if not files:
            raise ArtifactError(f"store: the folder built for {kind} is empty. Nothing was published.")
        digest = content_digest(kind, files)
        text = redact(
            json.dumps({**manifest, "kind": kind, "digest": digest, "files": files}, indent=1, sort_keys=True)
        )
        manifest_sha256 = hashlib.sha256(text.encode()).hexdigest()
        artifact = Artifact(kind=kind, digest=digest, key=key, files=files, manifest_sha256=manifest_sha256)
        final = self.folder(artifact)
        if final.is_dir() and hash_folder(final) == files:
            write_whole(self.manifest_path(artifact), text)
            return artifact
        write_whole(folder / _MANIFESTS / f"{key}.json", text)
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.exists():  # damaged: keep other keys' manifests, set the rest aside
            for old in (final / _MANIFESTS).glob("*.json"):
                if old.stem != key:
                    shutil.copy2(old, folder / _MANIFESTS / old.name)
            aside = self.root / "building" / f"damaged.{os.getpid()}.{uuid.uuid4().hex[:8]}"
            final.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)
        folder.rename(final)
        return artifact

    def manifest_path(self, artifact: Artifact) -> Path:
        """The manifest of the key that the artifact was built under."""
        return self.folder(artifact) / _MANIFESTS / f"{artifact.key}.json"

    def _sweep(self) -> None:
        """Remove what a killed process left half-built."""
        import psutil

        for left in (self.root / "building").glob("*.*.*"):
            pid = left.name.split(".")[-2]
            if pid.isdigit() and not psutil.pid_exists(int(pid)):
                shutil.rmtree(left, ignore_errors=True)


def write_whole(path: Path, text: str) -> None:
    """Write a small file so that a reader sees all of it or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_text(text, "utf-8")
        aside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise
