"""The four errors that a user can meet.

Each message reads: `<stage>: <what is wrong, with counts>. <found vs expected>. <what to do next>.`
"""

from __future__ import annotations


class PlumblineError(Exception):
    """Base of the errors that are the data's, the config's or an artifact's fault: shown without a traceback, never retried."""


class ConfigError(PlumblineError):
    """A config is wrong. Carries every problem at once."""

    def __init__(self, problems: list[str] | str) -> None:
        self.problems = [problems] if isinstance(problems, str) else problems
        super().__init__("\n".join(self.problems))


class ContractError(PlumblineError):
    """Rows or a set of rows break their data contract."""


class ArtifactError(PlumblineError):
    """Something that was made, or given, is not what it should be when loaded from disk."""


class GateError(PlumblineError):
    """A model may not be released: a gate failed, or could not tell."""
