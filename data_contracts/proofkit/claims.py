"""What one sentence says about itself: that a company is fictional, what is assumed, what is traded for what, that it is a
practice piece; and what it must not claim. Regular expressions over English; see house_rules.py for what they are for."""

from __future__ import annotations

import re

from data_contracts import prose

_NOT = r"(?:not|no|never|none|nothing|without|nor|neither|cannot|\w+n[’']t)"
_NOT_BEFORE = re.compile(rf"\b{_NOT}\b(?:\s+\w+){{0,2}}\s*$|\bnon-?\s*$", re.IGNORECASE)
"""A denial within the last three words."""

# --- the company is fictional -----------------------------------------------------------------------------------------
_MARK = re.compile(
    r"\b(?:fictional|fictitious|invented|made[- ]up|imaginary|imagined|simulated|pretend)\b", re.IGNORECASE
)
_NUMBERS = frozenset(
    "number numbers figure figures metric metrics data statistic statistics result results percentage percentages amount "
    "amounts price prices total totals count counts estimate estimates date dates quote quotes".split()
)
_PLACES = frozenset(
    "company companies employer employers business businesses firm organisation organization hospital clinic pharmacy "
    "school shop store agency charity team workplace client customer scenario setting case everything all both".split()
)
_BY_ME = re.compile(r"\b(?:I|we|they|who|he|she)(?:\s+(?:have|had|just|also))?\s*$", re.IGNORECASE)
_PREDICATE = re.compile(r"^(.*)\b(?:is|are|was|were|be|remains?)\b(?:\s+\w+){0,2}\s*$", re.IGNORECASE | re.DOTALL)


def calls_fictional(sentence: str, company: re.Pattern[str]) -> bool:
    """The sentence says of the company, or of the whole setting, that it is fictional; not only of its numbers."""
    names_it = bool(company.search(sentence))
    some = prose.words(sentence)
    if len(some) < 4 and not names_it:
        return False
    if not names_it and len({one for one in some if not _MARK.fullmatch(one)}) < 3:
        return False
    return any(_of_the_setting(sentence, found, company) for found in _MARK.finditer(sentence))


def _of_the_setting(sentence: str, mark: re.Match[str], company: re.Pattern[str]) -> bool:
    before, after = sentence[: mark.start()], sentence[mark.end() :]
    if _NOT_BEFORE.search(before):
        return False
    near = prose.words(before)[-5:] + prose.words(after)[:5]
    if _BY_ME.search(before):  # "a clinic I invented", but not "I invented a checklist"
        return bool(company.search(sentence)) and (bool(company.search(after[:80])) or bool(_PLACES & set(near)))
    if predicate := _PREDICATE.match(before):
        subject = re.split(r"[,;:]", predicate[1])[-1]
        return _is_setting(subject, company)
    for word in prose.words(after)[:3]:
        if word in _PLACES:
            return True
        if word in _NUMBERS:
            return False
    return True


def _is_setting(subject: str, company: re.Pattern[str]) -> bool:
    """Whether what "is fictional" is more than numbers: "the figures at X are" is not, "X and its figures are" is."""
    head = re.split(r"\b(?:and|as well as)\b", subject, flags=re.IGNORECASE)
    for part in head:
        bare = re.split(r"\b(?:of|at|for|from|in|on|by|about)\b", part, maxsplit=1, flags=re.IGNORECASE)[0]
        some = prose.words(bare)
        if some and some[-1] not in _NUMBERS:
            return True
        if not some and company.search(part):
            return True
    return False


# --- assumptions ------------------------------------------------------------------------------------------------------
_ASSUMPTION_LABEL = re.compile(r"\bassumptions?\b[^:.]{0,40}:\s*(.*)$", re.IGNORECASE)
_ASSUMPTION_IS = re.compile(r"\bassumptions?\b(?:\s+\w+){0,4}?\s+(?:is|was)\s+(?:that\s+)?(.+)$", re.IGNORECASE)
_ASSUME = re.compile(r"\bassum(?:e|es|ed|ing)\b(\s+that\b)?[\s,]+(.+)$", re.IGNORECASE)
_TAKEN_ON = re.compile(
    r"^(?:\w+\s+){0,2}(?:responsibilit\w+|ownership|roles?|charge|control|command|leadership|dut(?:y|ies)|office|position)\b",
    re.IGNORECASE,
)
_EMPTY = re.compile(r"^(?:none|nothing|n/?a|no|not)\b", re.IGNORECASE)
_KEYWORD = re.compile(r"assum\w*|trade-?offs?|trade|tradeoffs?|disclosures?|fictional|anchors?|keywords?")
MIN_STATED_WORDS = 4
MIN_STATED_CONTENT = 3


def assumed(sentence: str, following: str = "") -> list[str]:
    """What the sentence assumes, by each form it may take; a bare label "Assumptions:" takes the sentence after it."""
    found = []
    if label := _ASSUMPTION_LABEL.search(sentence):
        found.append(label[1].strip() or following)
    if one := _ASSUMPTION_IS.search(sentence):
        found.append(one[1])
    if (one := _ASSUME.search(sentence)) and not _NOT_BEFORE.search(sentence[: one.start()]):
        taken_on = not one[1] and _TAKEN_ON.match(one[2])
        found += [] if taken_on else [one[2]]
    return [one for one in found if not _EMPTY.match(one)]


def has_content(some: list[str]) -> bool:
    """Words that say something: prose, long enough, and more than keywords of these rules."""
    meant = {one for one in prose.content_words(some) if not _KEYWORD.fullmatch(one)}
    return len(some) >= MIN_STATED_WORDS and len(meant) >= MIN_STATED_CONTENT and prose.is_prose(some)


# --- trade-offs -------------------------------------------------------------------------------------------------------
_CHOICE = r"\b(?:cho(?:se|ose|oses|sen|osing)|pick(?:s|ed|ing)?|prefer(?:s|red)?|favou?r(?:s|ed|ing)?|prioriti[sz](?:e|es|ed|ing)|puts?|putting|t(?:ake|ook)|kept|keeps?|keeping|select(?:s|ed)?|opt(?:s|ed)?|went)\b"  # fmt: skip
_GIVE = r"\b(?:trad(?:e|es|ed|ing)(?![- ]?offs?)|swap(?:s|ped|ping)?|g(?:ive|ives|iving|ave)\s+(?:up|away))\b"
_LOSE = r"\b(?:los(?:e|es|ing)|lost|sacrific\w+|forgo\w*|g(?:ive|ives|iving|ave)\s+up|accept(?:s|ed|ing)?)\b"
_WEIGHED = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"^(.+?)\bin exchange for\b(.+)$",
        r"^(.+?)\bat the (?:cost|expense|price) of\b(.+)$",
        rf"{_CHOICE}(.+?)\b(?:over|rather than|instead of|ahead of|before)\b(.+)$",
        rf"{_GIVE}(.+?)\b(?:for|to (?:get|gain|keep|buy|win|have|protect|make|save)|so that|in return)\b(.+)$",
        rf"{_LOSE}(.+?)\b(?:but|yet|so that|in return|to (?:get|gain|keep|buy|win|protect|save))\b(.+)$",
        r"^(.+?)\bthe (?:price|cost|downside|catch)(?: of (?:it|that|this))? (?:is|was)\b(.+)$",
        r"\btrade-?\s?offs?\b(.+?)\b(?:but|while|yet|although|though|whereas|for|against|versus|vs|in return|so that|to gain|means|buys|costs)\b(.+)$",  # fmt: skip
    )
]
_NO_TRADEOFF = re.compile(rf"\b{_NOT}\b(?:\s+\w+){{0,2}}\s+trade-?\s?offs?\b", re.IGNORECASE)
_WEIGHING = re.compile(r"trade-?offs?|trade|tradeoffs?|exchange|cost|costs|expense|price|side|sides|thing|something|one|other|another|chose|choose|choice|decision|because|again")  # fmt: skip
MIN_WEIGHING_WORDS = 6


def weighs(sentence: str) -> bool:
    """The sentence names two different things, one of which is given up for the other."""
    some = prose.words(sentence)
    if len(some) < MIN_WEIGHING_WORDS or not prose.is_prose(some) or _NO_TRADEOFF.search(sentence):
        return False
    return any(_two_sides(found[1], found[2]) for one in _WEIGHED if (found := one.search(sentence)))


def _two_sides(one: str, other: str) -> bool:
    left, right = (
        {word for word in prose.content_words(prose.words(side)) if not _WEIGHING.fullmatch(word)}
        for side in (one, other)
    )
    return bool(left - right) and bool(right - left)


# --- disclosure -------------------------------------------------------------------------------------------------------
_PIECE = r"(?:samples?|exercises?|pieces?|projects?|cases?|stud(?:y|ies)|simulations?|challenges?|briefs?|drafts?|memos?|documents?|plans?|portfolios?|scenarios?|posts?|bullets?|work|assignments?|artifacts?|examples?|write-?ups?)"  # fmt: skip
_PRACTICE = re.compile(
    rf"\b(?:practice|simulated|fictional|fictitious|hypothetical|self-(?:initiated|directed|set)|mock|sample|portfolio|invented|made-up|imaginary|training)(?:[\s,-]+\w+){{0,3}}?[\s,-]+{_PIECE}\b"
    rf"|\b{_PIECE}\b(?:\s+\w+){{0,4}}?\s+(?:is|are|was|were)\s+(?:\w+\s+){{0,2}}?(?:simulated|fictional|fictitious|hypothetical|practice|invented|made[- ]up)\b"
    rf"|\b(?:as|for)\s+(?:\w+\s+)?practice\b|\bsimulation\b",
    re.IGNORECASE,
)  # fmt: skip
_REAL = r"(?:real|actual|paid|genuine|live|true)"
_TIE = r"(?:clients?|employers?|employment|jobs?|customers?|compan(?:y|ies)|engagements?|assignments?|projects?|organi[sz]ations?|businesses|business|positions?|roles?|work|experience|teams?|staff|patients?|commissions?)"  # fmt: skip
_NOT_REAL = re.compile(
    rf"\b(?:{_NOT}|rather than|instead of|outside)\b(?P<between>(?:\s+[\w’'-]+){{0,5}}?)\s+(?:{_REAL}(?:[\s,-]+\w+){{0,2}}?[\s,-]+{_TIE}|client work|client project|employment|employed|hired|commissioned|paid work|(?:worked|work) (?:there|for|at)|on (?:its|their|the) (?:staff|payroll))\b"
    rf"|\bno\s+(?:\w+\s+)?(?:client|employer|company|customer|organi[sz]ation)\s+(?:\w+\s+)?(?:asked|paid|commissioned|hired|employed|ordered|requested|is behind|was involved|stands behind)\b",
    re.IGNORECASE,
)  # fmt: skip
_ONLY = re.compile(r"\b(?:but|only|just|merely|simply)\b", re.IGNORECASE)
MIN_DISCLOSING_WORDS = 6


def discloses(text: str) -> bool:
    """One sentence, or two, that call the piece a practice piece and deny real client work or employment."""
    some = prose.words(text)
    if len(some) < MIN_DISCLOSING_WORDS or not any(word in prose.FUNCTION_WORDS - {"not", "no"} for word in some):
        return False
    if not any(not _NOT_BEFORE.search(text[: one.start()]) for one in _PRACTICE.finditer(text)):
        return False
    return any(not _ONLY.search(one["between"] or "") for one in _NOT_REAL.finditer(text))


# --- false claims -----------------------------------------------------------------------------------------------------
_HONEST = re.compile(
    rf"\b(?:fictional|fictitious|simulated|simulation|hypothetical\w*|invented|made[- ]up|imaginary|imagined?|pretend|as if|if I|would|mock|work sample)\b|\bpractice\s+(?:\w+\s+)?{_PIECE}\b",
    re.IGNORECASE,
)  # fmt: skip
_LABEL = re.compile(
    r"\b(?:hypothetical\w*|illustrati(?:ve|on|vely)|estimat\w+|assum\w+|project(?:ed|ion|ions)|placeholders?|notional)\b"
    r"|\b(?:made[- ]up|invented|fictional|simulated|imaginary|practice|sample|example)\s+(?:\w+\s+){0,2}?(?:numbers?|figures?|metrics?|data|amounts?|percentages?|totals?|counts?|results?|volumes?)\b"
    r"|\b(?:numbers?|figures?|metrics?|amounts?|percentages?|totals?|counts?|results?|volumes?)\s+(?:\w+\s+){0,3}?(?:is|are|was|were)\s+(?:\w+\s+)?(?:made[- ]up|invented|fictional|simulated|imaginary)\b",
    re.IGNORECASE,
)
_CLIENT = re.compile(r"\b(?:our|my)\s+(?:\w+\s+)?(clients?)\b", re.IGNORECASE)
_AS_EMPLOYEE = re.compile(r"\bas (?:an? |the )?(?:\w+ ){0,3}employee\b|\bwhile (?:I was )?employed\b", re.IGNORECASE)
_HELD = r"(?:work(?:ed|s)?|was employed|am employed|was hired|was promoted|serve[ds]?|intern(?:ed)?|consult(?:ed)?|led|manage[ds]?|ran|supervised|headed|joined)"  # fmt: skip
_BULLET_START = r"^(?:Worked|Led|Managed|Served|Ran|Supervised|Headed|Joined|Employed|Hired|Consulted|Interned)\b"
_RESULT = re.compile(
    r"\b(?P<verb>increased|reduced|cut|grew|raised|boosted|improved|saved|lowered|shortened|lifted|decreased|slashed)\b[^.;]{0,60}?\bby\s+(?:\w+\s+){0,2}?(?:half|third|quarter|fifth|ten|fifteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|percent|per cent|\d[\d.,]*\s*(?:%|percent|per cent))"
    r"|\b(?:doubled|tripled|halved|quadrupled)\b",
    re.IGNORECASE,
)  # fmt: skip
_NOT_CLAIMED = re.compile(
    r"\b(?:would|could|should|might|may|will|can|to|aims?|hopes?|expects?|if|be|have to)\b(?:\s+\w+)?\s*$",
    re.IGNORECASE,
)
_NUMBER = re.compile(
    r"(?P<money>[$€£])?(?<![\w.])(?P<digits>\d[\d,]*(?:[.:/]\d+)*)(?P<unit>\s*(?:%|percent\b|per cent\b))?"
)
_FREE_NUMBER = re.compile(
    r"\b(?:24/7|1:1)\b|\b(?:steps?|weeks?|days?|options?|phases?|parts?|points?|tiers?|levels?|rounds?|priority|questions?|items?|versions?|stages?|shifts?|months?|quarters?)\s+(?:[1-9]|1[0-2])\b(?:\s*(?:-|–|to|and)\s*(?:[1-9]|1[0-2])\b)?|\bQ[1-4]\b",
    re.IGNORECASE,
)  # fmt: skip


def false_claim(sentence: str, company: str, role: str, given: str) -> str:
    """What a sentence claims that cannot be true of a practice piece; empty when nothing. `given` is the prompt in small
    letters: what the applicant said of himself may be repeated."""
    if not _HONEST.search(sentence):
        if (client := _CLIENT.search(sentence)) and client[1].lower() not in given and not _denied(sentence, client):
            return f"claims a client: {_near(sentence, client)}"
        for pattern in (_AS_EMPLOYEE, *_employment(company, role)):
            if (found := pattern.search(sentence)) and not _denied(sentence, found):
                return f"claims employment: {_near(sentence, found)}"
    if _LABEL.search(sentence):
        return ""
    if (found := _RESULT.search(sentence)) and not _NOT_CLAIMED.search(sentence[: found.start()]):
        if " ".join(found.group().lower().split()) not in " ".join(given.split()):
            return f"claims a result without calling it hypothetical: {_near(sentence, found)}"
    return _unlabelled(sentence, given)


_EMPLOYMENT: dict[tuple[str, str], tuple[re.Pattern[str], ...]] = {}


def _employment(company: str, role: str) -> tuple[re.Pattern[str], ...]:
    """Patterns of being employed by this company, or holding this role in it."""
    key = (company.lower(), role.lower())
    if key not in _EMPLOYMENT:
        if len(_EMPLOYMENT) > 4096:
            _EMPLOYMENT.clear()
        gap = r"\s+"
        name = rf"(?:the\s+)?{gap.join(map(re.escape, company.split()))}(?!\w)"
        job = gap.join(map(re.escape, role.split()))
        _EMPLOYMENT[key] = tuple(
            re.compile(pattern, re.IGNORECASE)
            for pattern in (
                rf"\b(?:I|we)\b(?:\s+\w+){{0,2}}?\s+{_HELD}\b[^.;]{{0,60}}?\b(?:at|for|with|by|in)\s+{name}",
                rf"{_BULLET_START}[^.;]{{0,80}}?\b(?:at|for|with|by|in)\s+{name}",
                rf"\b(?:in|during)\s+my\s+(?:\w+\s+){{0,2}}?(?:role|job|time|tenure|position|internship|employment|years|stint)\b(?:\s+\w+){{0,4}}?\s+(?:at|with|for)\s+{name}",
                rf"\bas\s+(?:an?\s+|the\s+)?(?:\w+\s+){{0,2}}?(?:{job})(?:\s+\w+)?\s+(?:at|for|of|with)\s+{name}",
                rf"\b(?:my|our)\s+(?:\w+\s+)?(?:employer|boss|manager|supervisor|coworkers?|colleagues?)\b[^.;]{{0,30}}?{name}",
                rf"\b(?:employed|hired|paid|commissioned|contracted|retained)\s+by\s+{name}",
            )
        )
    return _EMPLOYMENT[key]


def _denied(sentence: str, found: re.Match[str]) -> bool:
    return bool(re.search(rf"\b{_NOT}\b(?:\s+[\w’']+){{0,4}}\s*$", sentence[: found.start()], re.IGNORECASE)) or bool(
        re.search(rf"\b{_NOT}\b", found.group(), re.IGNORECASE)
    )


def _near(sentence: str, found: re.Match[str]) -> str:
    return repr(sentence[max(0, found.start() - 10) : found.end() + 20])


def _unlabelled(sentence: str, given: str) -> str:
    for number in _NUMBER.finditer(_FREE_NUMBER.sub(" ", sentence)):
        if not _is_given(number, given):
            return f"{number.group().strip()!r} is not in the prompt and not called hypothetical: {sentence[:80]!r}"
    return ""


def _is_given(number: re.Match[str], given: str) -> bool:
    wanted = number["digits"].rstrip(",").replace(",", "")
    for one in _NUMBER.finditer(given):
        if one["digits"].rstrip(",").replace(",", "") != wanted or bool(one["unit"]) < bool(number["unit"]):
            continue
        if not number["money"] or one["money"] == number["money"]:
            return True
    return False
