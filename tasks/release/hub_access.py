"""Whether a publish to the Hub could work, asked before the first GPU minute."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from data_contracts.verdict import Check, check
from tasks.core.errors import ConfigError, PlumblineError
from tasks.release.hub_client import Backoff, ask, connect, find_repo

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_TOKEN, _REPO_ID = "HF_TOKEN is set", "the repository id is well-formed"
_ACCEPTED, _SCOPE = "the Hub accepts the token", "the token may write to this repository's namespace"
_WRITABLE, _VISIBLE = "the repository takes this token's writes", "the repository is as visible as the config asks"
_FIXES = {
    _TOKEN: "Put a token with write access in the environment variable HF_TOKEN",
    _REPO_ID: "Write it as namespace/name, in letters, digits, '-', '_' and '.'",
    _ACCEPTED: "Make a new token in the Hub's settings, or mend the way to the Hub",
    _SCOPE: "Make a token with the role write, or a fine-grained one with repo.write on this user or organisation",
    _WRITABLE: "Ask the owner for write access, or publish to a repository of your own",
    _VISIBLE: "Change the visibility in the repository's settings or in the config",
}
_Answers = dict[str, tuple[bool | None, str]]


def check_hub_access(
    repo_id: str, *, endpoint: str | None = None, private: bool, backoff: Backoff | None = None
) -> list[Check]:
    """Token, its scope, the repository and its visibility: six checks, each True or not, all at once.

    Never raises for what it finds. What could not be asked, or got no clear answer, is *cannot tell*.
    """
    token_set = bool(os.environ.get("HF_TOKEN", "").strip())
    problem = repo_id_problem(repo_id)
    answers: _Answers = {_TOKEN: (token_set, ""), _REPO_ID: (problem is None, problem or "")}
    if token_set:
        with connect(endpoint) as api:
            _ask_the_hub(api, repo_id if problem is None else None, private, backoff or Backoff(), answers)
    unasked = (None, "Not asked, because of the checks before it")
    return [
        check(name, measured, "==", True, detail=detail, fix=fix)
        for name, fix in _FIXES.items()
        for measured, detail in [answers.get(name, unasked)]
    ]


def repo_id_problem(repo_id: str) -> str | None:
    """What is wrong with a repository id, in words; None when nothing is."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if repo_id.count("/") != 1:
        return f"{repo_id!r} has {repo_id.count('/')} slashes, expected 1"
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        return str(error)
    return None


def visibility(private: bool) -> str:
    """The Hub's word for it."""
    return "private" if private else "public"


def _ask_the_hub(api: HfApi, repo_id: str | None, private: bool, backoff: Backoff, answers: _Answers) -> None:
    who, refusal = ask("asking whose token this is", api.whoami, backoff)
    answers[_ACCEPTED] = _granted(refusal)
    if who is None or repo_id is None:
        return
    info, refusal = ask(f"looking for {repo_id}", lambda: find_repo(api, repo_id), backoff)
    allowed, why = may_write(who, repo_id, exists=info is not None)
    answers[_SCOPE] = (allowed, why)
    if refusal is not None:
        answers[_WRITABLE] = _granted(refusal)
    elif info is None:
        answers[_WRITABLE] = (allowed, "It does not exist, or this token cannot see it; it would be created")
        answers[_VISIBLE] = (True, f"It would be created {visibility(private)}")
    else:
        found, asked = visibility(bool(info.private)), visibility(private)
        answers[_VISIBLE] = (found == asked, f"Found {found}, asked for {asked}")
        _, refusal = ask(f"asking to write to {repo_id}", lambda: api.auth_check(repo_id, write=True), backoff)
        answers[_WRITABLE] = _granted(refusal)


def _granted(refusal: PlumblineError | None) -> tuple[bool | None, str]:
    """Only a clear no (401, 403, offline) is a no; a Hub that is down, or speaks otherwise, tells nothing."""
    if refusal is None:
        return True, ""
    return (False if isinstance(refusal, ConfigError) else None), str(refusal)


def may_write(who: dict[str, Any], repo_id: str, *, exists: bool) -> tuple[bool | None, str]:
    """Whether the answer of whoami allows writing to a repository, and why; None when the answer does not say.

    A fine-grained token that names the repository only cannot create it.
    """
    namespace, me = repo_id.split("/")[0], str(who.get("name"))
    token = (who.get("auth") or {}).get("accessToken") or {}
    role = token.get("role")
    if role == "read":
        return False, f"The token of {me} has the role read"
    if namespace.lower() != me.lower():
        orgs = [org for org in who.get("orgs") or [] if str(org.get("name")).lower() == namespace.lower()]
        if not orgs:
            return False, f"{me} is not in {namespace}"
        role_in_org = orgs[0].get("roleInOrg")
        if role_in_org == "read":
            return False, f"{me} has the role read in {namespace}"
        if role_in_org is None:
            return None, f"The Hub does not say which role {me} has in {namespace}"
    if role in ("write", "admin"):
        return True, f"The token of {me} has the role {role}"
    if role != "fineGrained":
        return None, f"The Hub does not say which role the token has (found {role!r})"
    scoped = (token.get("fineGrained") or {}).get("scoped") or []
    granted = [scope["entity"] for scope in scoped if "repo.write" in scope.get("permissions", [])]
    reach = {(entity.get("type"), str(entity.get("name")).lower()) for entity in granted}
    wanted = {("user", namespace.lower()), ("org", namespace.lower())}
    if exists:
        wanted.add(("model", repo_id.lower()))
    names = ", ".join(sorted(name for _, name in reach)) or "nothing"
    return bool(reach & wanted), f"The fine-grained token has repo.write on: {names}"
