"""One applicant's case: what is drawn for a row, and which of its tokens a target must take up.

A `Brief` holds drawn facts only. Every target is written from it, and so is the prompt. What a target says beyond the prompt
follows from the facts by the role's knowledge (what an event means, what a choice costs), never from the slots alone.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from data_contracts.audit.sentences import stands
from data_contracts.errors import ConfigError
from tasks.recipes.proofkit.content import VOICES, Case, Detail, Role, World
from tasks.recipes.proofkit.wording import parse, pick, with_articles

HELD_OUT_FRACTION = 0.2
FACTS = ("choice", "worry", "detail", "goal", "assumed", "next")
"""What an applicant may tell beside the event itself."""
_THREE_ALIKE = re.compile(r"(.)\1\1")
_CHANCES = {"choice": 0.6, "worry": 0.45, "detail": 0.75, "goal": 0.35, "assumed": 0.25, "next": 0.25}
PARTS = ("fiction", "fiction_that", "practice", "practice_that", "practice_not", "practice_task", "label")
"""Moves that are slots of other moves: clauses that say what the piece is."""
MOST_FURTHER_FACTS = 3
"""With the event that makes four facts, in at most four sentences."""


def is_held_out(combination: str) -> bool:
    """True for the combinations, company names and odd things that no training row may use, whatever the seed."""
    digest = hashlib.sha256(combination.encode("utf-8")).digest()
    return int.from_bytes(digest[:4], "big") < HELD_OUT_FRACTION * 2**32


class Words(Mapping):
    """Slot -> text. Patterns are said anew at each use, so that the same fact is worded differently in two places."""

    def __init__(self, patterns: dict[str, str], rng: random.Random) -> None:
        self.patterns, self.rng = patterns, rng

    def __getitem__(self, name: str) -> str:
        return parse(self.patterns[name]).say(self, self.rng)

    def __iter__(self) -> Iterator[str]:
        return iter(self.patterns)

    def __len__(self) -> int:
        return len(self.patterns)

    def having(self, **more: str) -> Words:
        """These words and some more; what is handed in may be a pattern."""
        return Words(self.patterns | more, self.rng)

    def say(self, pattern: str) -> str:
        """One wording of a pattern."""
        return parse(pattern).say(self, self.rng)

    def one_of(self, patterns: list[str]) -> str:
        """One wording of one of the patterns."""
        return self.say(pick(patterns, self.rng))


@dataclass(frozen=True)
class Brief:
    """What one row is about."""

    world: World
    role: Role
    case: Case
    artifact: str
    section: str
    section_kind: str
    voice: str
    detail: Detail
    facts: frozenset[str]
    """Which of FACTS the applicant told."""
    words: Words
    columns: dict[str, str]
    """constraint, stakes, skills and profile as the prompt shows them."""

    def with_facts(self, *facts: str) -> Brief:
        """The same case, of which the applicant tells these facts too, and the least of the others."""
        kept = [one for one in FACTS if one in self.facts and one not in facts]
        return replace(self, facts=frozenset(facts) | frozenset(kept[: MOST_FURTHER_FACTS - len(facts)]))

    def of_facts(self, *facts: str) -> Brief:
        """The same case, of which the applicant tells nothing but some of these facts."""
        return replace(self, facts=self.facts & frozenset(facts))

    def anchors(self) -> list[str]:
        """The tokens that the applicant typed and nobody could guess: of the event, the colleague, the goal, the odd thing."""
        found = [self.words[name] for name in sorted(self.case.slots)]
        for fact, slot in (("worry", "person2"), ("goal", "low"), ("detail", "odd")):
            found += [self.words[slot]] if fact in self.facts else []
        return list(dict.fromkeys(found))

    def move(self, name: str, **more: str) -> str:
        """A sentence that does what the move's name says, in this row's voice."""
        voices = self.world.moves[name]
        own = voices.get(self.voice, [])
        rng = self.words.rng
        patterns = own if own and rng.random() < 0.65 else voices["any"]
        parts = {part: pick(self.world.moves[part]["any"], rng) for part in PARTS}
        return self.words.having(**parts, **more).one_of(patterns)


class Deck:
    """The world's content, dealt to the two sides of the split."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.cases = {(role.role, side): _cases(role, side) for role in world.roles for side in (False, True)}
        names = world.names
        things = [f"{colour} {thing}" for colour in names.odd_colours for thing in names.odd_things]
        pools = {"animals": names.odd_animals, "plural": names.odd_plurals, "thing": things}
        self.odd = {
            (kind, side): [one for one in pool if is_held_out(one) == side]
            for kind, pool in pools.items()
            for side in (False, True)
        }
        pairs = {a + b for a in names.company_first for b in names.company_second} - set(names.company_denied)
        firsts = sorted(one for one in pairs if not _THREE_ALIKE.search(one))
        self.companies = {side: [one for one in firsts if is_held_out(one) == side] for side in (False, True)}
        if empty := [
            str(key) for table in (self.cases, self.odd, self.companies) for key, some in table.items() if not some
        ]:
            raise ConfigError(f"world: nothing falls on one side of the split for {', '.join(empty)}. Add content.")

    def brief(self, role: Role, rng: random.Random, held_out: bool) -> Brief:
        """A case of the role that may be used on this side of the split."""
        case, artifact = pick(self.cases[role.role, held_out], rng)
        section, detail = pick(artifact.sections, rng), pick(self.world.answers.details, rng)
        columns, gists = self._columns(role, rng)
        last = pick(case.at or list(role.kinds), rng)
        odd = pick(self.odd[detail.odd, held_out], rng)
        words = Words(self._drawn_apart(case, odd, " ".join(columns.values()), rng), rng)
        facts = _some_facts(case, rng)
        words.patterns |= gists | _meanings(role, case, "choice" in facts, rng) | {
            "company": f"{pick(self.companies[held_out], rng)} {last}",
            "kind": role.kinds[last],
            "artifact": artifact.name,
            "skill": columns["skills"].split(", ")[0],
            "odd": odd,
            "short": detail.short,
        }  # fmt: skip
        return Brief(
            self.world, role, case, artifact.name, section.heading, section.kind, pick(VOICES, rng), detail,
            facts, words, columns,
        )  # fmt: skip

    def _columns(self, role: Role, rng: random.Random) -> tuple[dict[str, str], dict[str, str]]:
        """What the prompt shows of constraint, stakes, profile and skills, and the gists that a target may carry on with."""
        own = Words(self._drawn(rng), rng)  # their numbers are not those of the event
        drawn = {
            "constraint": pick(role.constraints, rng),
            "stakes": pick(role.stakes, rng),
            "profile": pick(role.profiles, rng),
        }
        columns = {name: with_articles(own.say(one.says)) for name, one in drawn.items()}
        columns["skills"] = ", ".join(rng.sample(role.skills, 3))
        names = {"constraint": "limit", "stakes": "stake", "profile": "gist"}
        return columns, {names[name]: own.say(one.gist) for name, one in drawn.items()}

    def _drawn_apart(self, case: Case, odd: str, shown: str, rng: random.Random) -> dict[str, str]:
        """Slots of which none is a part of another, or stands in the columns that are shown beside the answers: an anchor
        must be told apart from everything else in the prompt."""
        while True:
            drawn = self._drawn(rng)
            anchors = [odd.lower(), *(drawn[name].lower() for name in (*sorted(case.slots), "person2", "low"))]
            inside = any(one in other for i, one in enumerate(anchors) for j, other in enumerate(anchors) if i != j)
            if not inside and not any(stands(one, shown) for one in anchors):
                return drawn

    def _drawn(self, rng: random.Random) -> dict[str, str]:
        names = self.world.names
        person, person2 = rng.sample(names.people, 2)
        count = rng.randint(12, 97)
        return {
            "person": person,
            "person2": person2,
            "count": str(count),
            "low": str(rng.randint(2, count // 2 - 1)),
            "number": str(rng.randint(12, 97)),
            "few": str(rng.randint(3, 9)),
            "days": str(rng.randint(3, 26)),
            "minutes": str(rng.randint(13, 97)),
            "years": str(rng.randint(3, 29)),
            "share": str(rng.randint(15, 70)),
            "money": f"${rng.randint(12, 990) * 50:,}",
            "when": self._when(rng),
            "place": pick(names.places, rng),
            "span": pick(names.spans, rng),
        }

    def _when(self, rng: random.Random) -> str:
        names, form = self.world.names, rng.random()
        day = pick(names.weekdays, rng)
        if form < 0.5:
            return f"{day} at {rng.randint(5, 22):02d}:{rng.randint(0, 59):02d}"
        if form < 0.75:
            date = rng.randint(1, 28)
            suffix = "th" if 4 <= date <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(date % 10, "th")
            return f"the {date}{suffix} of {pick(names.months, rng)}"
        return f"the {pick(('first', 'second', 'third', 'last'), rng)} {day} of {pick(names.months, rng)}"


def _cases(role: Role, held_out: bool) -> list:
    return [
        (case, artifact)
        for case in role.cases
        for artifact in role.artifacts
        if is_held_out(f"{role.role}|{case.key}|{artifact.name}") == held_out
    ]


def _meanings(role: Role, case: Case, chosen: bool, rng: random.Random) -> dict[str, str]:
    """One of each kind of reasoning that the case offers, as patterns. Which way to act is drawn only where the applicant
    says it: else it is the first, so that a target never holds a choice that nothing in its input decides."""
    option, other = case.options[::-1] if chosen and rng.random() < 0.5 else case.options
    worry, assume, item = pick(role.worries, rng), pick(case.assume, rng), pick(role.items, rng)
    means, means_more, means_spare = rng.sample(case.means, 3)
    return {
        "role": role.role, "title": pick(case.title, rng), "vague": pick(case.vague, rng), "measure": case.measure,
        "said": pick(case.said, rng), "told": pick(case.told, rng), "named": pick(case.named, rng),
        "means": means, "means_more": means_more, "means_spare": means_spare, "next": pick(case.next, rng),
        "pick": option.what, "picking": option.doing, "gain": option.gain, "cost": option.cost, "because": option.because,
        "other": other.what, "othering": other.doing, "other_gain": other.gain, "other_cost": other.cost,
        "that": assume.that, "otherwise": assume.otherwise, "worry": worry.worry, "reply": worry.reply,
        "colleague": pick(role.colleagues, rng), "item": item.one, "items": item.many,
    }  # fmt: skip


def _some_facts(case: Case, rng: random.Random) -> frozenset[str]:
    facts = [one for one in FACTS if rng.random() < _CHANCES[one] and (one != "goal" or "count" in case.slots)]
    while len(facts) > MOST_FURTHER_FACTS:
        facts.remove(pick(facts, rng))
    return frozenset(facts)
