"""A release on the Hub, through the real client over loopback: one commit, all of it, and no lie believed."""

from __future__ import annotations

import hashlib

import pytest

from data_contracts.verdict import Verdict, overall
from tasks.core.errors import ArtifactError, ConfigError, TransientError
from tasks.release.hub import PublishedCommit
from tests.fixtures.hub_case import REPO, commits_made, failed, publish, verify
from tests.fixtures.hub_endpoints import File

pytest_plugins = ["tests.fixtures.hub_fixtures"]


def test_one_commit_holds_everything_and_comes_back_equal(hub, hub_release, tmp_path):
    commit = publish(hub, hub_release)
    assert commits_made(hub) == 1
    assert commit.commit_sha == hub.repos[REPO].head
    assert hub.repos[REPO].private
    assert len(hub.seen("POST", "/commit/main")) == 1
    assert len(hub.seen("PUT", "/upload/")) == 2

    checks = verify(hub, commit, hub_release, tmp_path / "cache")
    assert overall(checks) is Verdict.PASS
    assert len(checks) == 5
    snapshot = commit.snapshot(tmp_path / "cache")
    for path in hub_release[1]:
        assert (snapshot / path).read_bytes() == (hub_release[0] / path).read_bytes()
    assert len(hub.seen("GET", "/cdn/")) == 2


def test_the_same_release_again_makes_no_commit_and_gives_the_head(hub, hub_release):
    first = publish(hub, hub_release)
    again = publish(hub, hub_release, commit_message="Release, again")
    assert again.commit_sha == first.commit_sha
    assert commits_made(hub) == 1
    assert len(hub.seen("PUT", "/upload/")) == 2


def test_a_large_file_goes_up_in_parts_and_a_lost_part_is_sent_again(hub, hub_release, tmp_path):
    hub.part_bytes = 300_000
    hub.drop("PUT", "/part/.*/2", after_bytes=1000)
    commit = publish(hub, hub_release)
    assert len(hub.seen("PUT", "/part/")) == 5  # 1 MiB in 4 parts, one of them twice
    assert overall(verify(hub, commit, hub_release, tmp_path / "cache")) is Verdict.PASS


def test_the_tree_is_read_to_its_last_page(hub, hub_release, tmp_path):
    hub.tree_page_files = 2
    commit = publish(hub, hub_release)
    assert overall(verify(hub, commit, hub_release, tmp_path / "cache")) is Verdict.PASS
    assert hub.seen("GET", "cursor=4")


def test_a_stale_file_goes_in_the_same_commit(hub, hub_release, tmp_path):
    first = publish(hub, hub_release)
    (hub_release[0] / "model/config.json").unlink()
    del hub_release[1]["model/config.json"]
    second = publish(hub, hub_release)
    assert second.commit_sha != first.commit_sha
    assert commits_made(hub) == 2
    assert set(hub.stored(REPO)) == {".gitattributes", *hub_release[1]}
    assert overall(verify(hub, second, hub_release, tmp_path / "cache")) is Verdict.PASS


def test_somebody_elses_commit_in_between_is_refused(hub, hub_release):
    publish(hub, hub_release)
    (hub_release[0] / "README.md").write_bytes(b"# new\n")
    hub_release[1]["README.md"] = hashlib.sha256(b"# new\n").hexdigest()
    theirs = {"README.md": File(b"# theirs"), "notes.txt": File(b"theirs too")}
    hub.meanwhile("POST", "/commit/", lambda: hub.repos[REPO].commit(theirs, "theirs"))
    with pytest.raises(ArtifactError, match=r"412.*A commit has happened since"):
        publish(hub, hub_release)
    assert set(hub.stored(REPO)) == {"README.md", "notes.txt"}


LIES = {
    "truncated LFS object": ({"truncate_lfs_to": 5000}, "files that came back"),
    "flipped byte in an LFS object": ({"flip_lfs_byte": True}, "files that came back"),
    "flipped byte in a small file": ({"flip_regular_byte": True}, "files that came back"),
    "commit stores nothing, names an unknown commit": ({"hollow_commit": "unknown"}, "the commit is on the Hub"),
    "commit stores nothing, names its parent": ({"hollow_commit": "head"}, "files missing at the commit"),
    "commit leaves a file out": ({"skip_path": "model/config.json"}, "files missing at the commit"),
    "commit adds a file": ({"add_path": "model/pytorch_model.bin"}, "files at the commit that are not in the release"),
    "commit is on no branch": ({"orphan_commit": True}, "commit that a plain download"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_hub_that_says_ok_and_stores_something_else_is_never_published(hub, hub_release, tmp_path, lie):
    switches, expected = LIES[lie]
    for name, value in switches.items():
        setattr(hub.lies, name, value)
    commit = publish(hub, hub_release)
    checks = verify(hub, commit, hub_release, tmp_path / "cache")
    assert overall(checks) is Verdict.FAIL
    sentences = [text for name, text in failed(checks).items() if name.startswith(expected)]
    assert len(sentences) == 1
    assert "Do not announce" in sentences[0]
    again = publish(hub, hub_release)
    assert overall(verify(hub, again, hub_release, tmp_path / "cache2")) is not Verdict.PASS, (
        "a lie was believed on re-publish"
    )


def test_every_wrong_file_is_named_with_both_digests(hub, hub_release, tmp_path):
    hub.lies.flip_lfs_byte = hub.lies.flip_regular_byte = True
    (hub_release[0] / "heldout.jsonl").write_bytes(b"{}\n")
    hub_release[1]["heldout.jsonl"] = hashlib.sha256(b"{}\n").hexdigest()
    commit = publish(hub, hub_release)
    (name,) = (one for one in verify(hub, commit, hub_release, tmp_path / "cache") if one.verdict is not Verdict.PASS)
    assert (name.measured, name.threshold) == (0, 5)
    for path, sha256 in hub_release[1].items():
        assert f"{path}: sha256 " in name.detail
        assert sha256[:12] in name.detail


def test_a_cache_with_a_file_in_it_is_refused(hub, hub_release, tmp_path):
    commit = publish(hub, hub_release)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/left").write_text("over")
    with pytest.raises(ArtifactError, match="Give an empty folder"):
        verify(hub, commit, hub_release, tmp_path / "cache")


def test_a_hub_that_is_down_while_verifying_is_not_a_verdict(hub, hub_release, tmp_path):
    commit = publish(hub, hub_release)
    hub.fail("GET", "/tree/", 503, times=float("inf"))
    with pytest.raises(TransientError, match="listing commit"):
        verify(hub, commit, hub_release, tmp_path / "cache")


def test_a_card_that_the_hub_refuses_says_why(hub, hub_release):
    (hub_release[0] / "README.md").write_bytes(b"---\nbroken: [\n---\n")
    hub_release[1]["README.md"] = hashlib.sha256(b"---\nbroken: [\n---\n").hexdigest()
    with pytest.raises(ArtifactError, match="YAML is broken"):
        publish(hub, hub_release)
    assert not hub.seen("PUT", "/upload/")


def test_local_files_that_are_not_as_proven_are_all_named_and_nothing_is_sent(hub, hub_release):
    folder, files = hub_release
    (folder / "model/config.json").write_bytes(b"{}")
    (folder / "gguf/nano-q8_0.gguf").unlink()
    files["../outside"] = "0" * 64
    with pytest.raises(ArtifactError, match="3 of 6 files") as caught:
        publish(hub, hub_release)
    for path in ("model/config.json", "gguf/nano-q8_0.gguf", "../outside"):
        assert path in str(caught.value)
    with pytest.raises(ArtifactError, match="there are none"):
        publish(hub, (folder, {}))
    assert not hub.requests


def test_a_repository_of_the_other_visibility_is_refused(hub, hub_release):
    hub.create(REPO, private=False)
    with pytest.raises(ConfigError, match="Found public, asked for private"):
        publish(hub, hub_release)
    assert commits_made(hub) == 0
    assert not hub.seen("POST", "/preupload/")


def test_a_commit_sha_is_a_full_sha():
    with pytest.raises(ValueError, match="commit_sha"):
        PublishedCommit(repo_id=REPO, commit_sha="main", url="")
