"""What is asked of the Hub before a flow spends anything: every problem found, all at once, and nothing written."""

from __future__ import annotations

import pytest

from data_contracts.verdict import Check, Verdict, overall
from tasks.core.errors import ConfigError
from tasks.release.hub import check_hub_access
from tests.fixtures.hub_case import QUICK, REPO, TOKEN, publish
from tests.fixtures.hub_server import fine_grained_account, user_account

pytest_plugins = ["tests.fixtures.hub_fixtures"]

NAMES = ["HF_TOKEN", "id is well-formed", "accepts the token", "namespace", "takes this token's writes", "as visible"]
PASS, FAIL, UNKNOWN = Verdict.PASS, Verdict.FAIL, Verdict.CANNOT_TELL


def ask(hub, repo_id=REPO, private=True) -> list[Check]:
    checks = check_hub_access(repo_id, endpoint=hub.url, private=private, backoff=QUICK)
    assert len(checks) == len(NAMES)
    assert all(name in one.name for name, one in zip(NAMES, checks, strict=True))
    assert TOKEN not in "".join(one.sentence() for one in checks)
    assert {request.method for request in hub.requests} <= {"GET"}, "asking wrote something"
    return checks


def verdicts(checks) -> list[Verdict]:
    return [one.verdict for one in checks]


def test_a_new_repository_may_be_made(hub):
    assert overall(ask(hub)) is PASS
    assert REPO not in hub.repos


def test_an_existing_repository_takes_writes(hub):
    hub.create(REPO, private=True)
    assert overall(ask(hub)) is PASS
    assert hub.seen("GET", "/auth-check/write")


def test_no_token_and_a_bad_id_are_reported_together(hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    checks = ask(hub, "signals nano")
    assert verdicts(checks) == [FAIL, FAIL, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN]
    assert "environment variable HF_TOKEN" in checks[0].sentence()
    assert not hub.requests


@pytest.mark.parametrize(
    "repo_id", ["nano", "a/b/c", "alice/na..no", "alice/nano.git", "alice/na no", "alice/", "/nano", ""]
)
def test_a_malformed_id_is_refused_and_the_token_still_asked_for(hub, repo_id):
    assert verdicts(ask(hub, repo_id)) == [PASS, FAIL, PASS, UNKNOWN, UNKNOWN, UNKNOWN]


def test_a_token_that_the_hub_does_not_know(hub):
    hub.accounts.clear()
    checks = ask(hub)
    assert verdicts(checks) == [PASS, PASS, FAIL, UNKNOWN, UNKNOWN, UNKNOWN]
    assert "401" in checks[2].detail


@pytest.mark.parametrize("exists", [True, False])
def test_a_read_only_token_is_caught_before_anything(hub, exists):
    if exists:
        hub.create(REPO, private=True)
    hub.accounts[TOKEN] = user_account(role="read")
    checks = ask(hub)
    assert verdicts(checks) == [PASS, PASS, PASS, FAIL, FAIL, PASS]
    assert "has the role read" in checks[3].detail


@pytest.mark.parametrize(
    ("scopes", "exists", "expected"),
    [
        ([("user", "alice", ["repo.content.read", "repo.write"])], False, PASS),
        ([("user", "alice", ["repo.content.read"])], False, FAIL),
        ([("model", REPO, ["repo.write"])], True, PASS),
        ([("model", REPO, ["repo.write"])], False, FAIL),  # it may write to it, not make it
        ([("model", "alice/another", ["repo.write"])], True, FAIL),
        ([("dataset", REPO, ["repo.write"])], True, FAIL),
        ([("org", "acme", ["repo.write"])], True, FAIL),
        ([], True, FAIL),
    ],
)
def test_a_fine_grained_token_needs_repo_write_where_it_writes(hub, scopes, exists, expected):
    if exists:
        hub.create(REPO, private=True)
    hub.accounts[TOKEN] = fine_grained_account(scopes)
    assert ask(hub)[3].verdict is expected


@pytest.mark.parametrize(
    ("account", "expected", "why"),
    [
        (user_account(orgs={"acme": "write"}), PASS, "role write"),
        (user_account(orgs={"acme": "contributor"}), PASS, "role write"),
        (user_account(orgs={"acme": "read"}), FAIL, "alice has the role read in acme"),
        (user_account(orgs={"other": "admin"}), FAIL, "alice is not in acme"),
        (user_account(orgs={"acme": None}), UNKNOWN, "does not say which role"),
        (user_account(role="god", orgs={"acme": "admin"}), UNKNOWN, "found 'god'"),
        (fine_grained_account([("org", "acme", ["repo.write"])], orgs={"acme": "write"}), PASS, "repo.write on: acme"),
        (fine_grained_account([("user", "alice", ["repo.write"])], orgs={"acme": "write"}), FAIL, "on: alice"),
        (fine_grained_account([("org", "acme", ["repo.write"])], orgs={"acme": "read"}), FAIL, "role read in acme"),
    ],
)
def test_an_organisation_needs_a_role_in_it(hub, account, expected, why):
    hub.accounts[TOKEN] = account
    scope = ask(hub, "acme/signals-nano")[3]
    assert scope.verdict is expected
    assert why in scope.detail


def test_a_repository_that_takes_no_writes(hub):
    hub.create(REPO, private=True)
    hub.readers.add(REPO)
    checks = ask(hub)
    assert verdicts(checks) == [PASS, PASS, PASS, PASS, FAIL, PASS]
    assert "403" in checks[4].detail


@pytest.mark.parametrize("private", [True, False])
def test_a_repository_of_the_other_visibility(hub, private):
    hub.create(REPO, private=not private)
    checks = ask(hub, private=private)
    assert verdicts(checks) == [PASS, PASS, PASS, PASS, PASS, FAIL]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/whoami", [PASS, PASS, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN]),
        ("/revision/", [PASS, PASS, PASS, PASS, UNKNOWN, UNKNOWN]),
        ("/auth-check", [PASS, PASS, PASS, PASS, UNKNOWN, PASS]),
    ],
)
def test_a_hub_that_is_down_is_cannot_tell_after_bounded_tries(hub, path, expected):
    hub.create(REPO, private=True)
    hub.fail("GET", path, 503, times=float("inf"))
    assert verdicts(ask(hub)) == expected
    assert len(hub.seen("GET", path)) == QUICK.max_attempts


def test_one_passing_error_does_not_matter(hub):
    hub.create(REPO, private=True)
    for path in ("/whoami", "/revision/", "/auth-check"):
        hub.fail("GET", path, 502)
    assert overall(ask(hub)) is PASS


def test_the_access_that_was_promised_is_the_access_that_is_used(hub, hub_release):
    """Whatever the check lets pass, a publish can do; what it refuses, the Hub refuses."""
    hub.accounts[TOKEN] = fine_grained_account([("model", REPO, ["repo.write"])])
    assert overall(ask(hub)) is FAIL
    with pytest.raises(ConfigError, match="403"):
        publish(hub, hub_release)
    hub.create(REPO, private=True)
    hub.requests.clear()
    assert overall(ask(hub)) is PASS
    assert publish(hub, hub_release).commit_sha == hub.repos[REPO].head
