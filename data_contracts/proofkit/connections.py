"""What tie to the world one sentence claims that a practice piece cannot have: a real client, pay, a job at the fictional company
or at a place that the prompt never named. Regular expressions over English; claims.py asks for them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from data_contracts.audit import sentences as prose
from data_contracts.proofkit.statements import INVENTED, NOT, PIECE, any_of, compiled


def _said(*phrases: str) -> re.Pattern[str]:
    """Any of the phrases; a space in one is any white space."""
    return compiled(*(one.replace(" ", r"\s+") for one in phrases))


_COMPANY, _ROLE, _YOU, _YOUR = "\ue0f0", "\ue0f1", "\ue0f2", "\ue0f3"
"""Stand for the company, the role and the applicant who is spoken to: one pattern then serves all, none is compiled for a row."""
_I = rf"(?:\b(?:I|we)\b|{_YOU})"
_ME = rf"(?:\b(?:me|us)\b|{_YOU})"
_MY = rf"(?:\b(?:my|our)\b|{_YOUR})"
_WORD = rf"[\w’'{_COMPANY}-{_YOUR}-]+"
_W1, _W2, _W3, _W4 = (rf"(?:{_WORD} ){{0,{most}}}?" for most in (1, 2, 3, 4))
"""Up to so many words before the next."""
_NEAR, _FAR = (rf"\b[^.;]{{0,{most}}}?" for most in (40, 80))
_AT, _FOR = (rf"\b{one} (?:the )?" for one in (r"(?:at|with)", r"(?:at|for|with|of)"))
_WAS = r"(?:am|is|are|was|were|(?:has|have|had) been)"
_A = r"(?:an?|the)"

# --- what excuses a claim ---------------------------------------------------------------------------------------------
_SETTING = _said(
    rf"\b{INVENTED}\b",
    rf"\b{any_of('simulation,imagine,as if,if I,would,mock')}\b",
    r"\bhypothetical\w*",
)
"""The sentence tells of an invented setting, or of what did not happen."""
_HONEST = compiled(_SETTING.pattern, rf"\b{any_of('work sample')}\b", rf"\bpractice\s+(?:\w+\s+)?{PIECE}\b")
"""A sentence with one of these does not claim that the job was real."""
_IMAGINED = _said(
    r"\b(?:would|could|might|should|imagin\w+|pretend\w*|hypothetical\w*)\b",
    rf"\bas (?:if|though)\b|\bif (?:an?|the|this|it|they|he|she|{_I}|{_COMPANY})",
    rf"\b(?:{INVENTED}|mock) (?:clients?|customers?|employers?|compan(?:y|ies))\b",
    r"\b(?:want|hope|wish|dream|aim|need)(?:s|ed)?\b|\bhoping\b|\b(?:ready|whether|unlike|like|than|instead)\b",
    r"\b(?:practi[cs]e|practising|rehears\w+|prepar\w+|train\w+|substitute|stand-in) (?:for|before)\b",
)
"""Up to its claim, the sentence tells a wish or a picture. "Fictional" and "practice" elsewhere do not excuse real clients."""
_DENIAL = rf"\b(?:{NOT}|nobody|hardly|rather than|instead of)\b(?! {any_of('only,just,merely,doubt,wonder,secret')}\b)"
_BELIEVED = any_of("say,says,said,claim,claims,claiming,think,thinks,thinking,believe,believes,believing,pretend,pretends,"
                   "suggest,suggests,imply,implies,mean,means")  # fmt: skip
_DENIED_BEFORE = _said(
    rf"{_DENIAL}(?: (?!(?:when|while|because|since|after|until)\b){_WORD}){{0,4}}\s*$",
    rf"{_DENIAL}[^.;:]{{0,80}}\b{_BELIEVED}(?: that)?\s*$",
    r"\bwhether\s*$",
)
_DENIED_WITHIN = _said(_DENIAL)

# --- real clients, real work ------------------------------------------------------------------------------------------
_REAL = any_of("real,actual,genuine,live,real life,real world")
_CUSTOMER = r"(?:clients?|customers?|employers?|compan(?:y|ies)|business(?:es)?|organi[sz]ations?|firms?)"
_FOR_PAY = (
    r"(?:clients?|employers?|employment|jobs?(?! (?:to|of)\b)|engagement|commission|contract|assignment|projects?)"
)
_NOUNS = rf"(?:(?!(?:by|to|for|from|in|on|with|at|of)\b){_WORD} ){{0,2}}?"
_REAL_TIE = (
    rf"(?:(?:{_REAL}|paid|paying),? {_NOUNS}{_FOR_PAY}|(?:{_REAL}|paying) {_CUSTOMER}"
    rf"|paid {_NOUNS}(?:work|consulting|position|internship|gig))\b"
)
_DID = any_of("did,made,wrote,built,ran,led,drew,sold,gave,won,worked,created,delivered,designed,developed,prepared,produced,"
              "completed,presented,tested,served,helped,advised,drafted,planned,finished,piloted,used")  # fmt: skip
_DONE = any_of("written,made,built,done,drawn,created,delivered,designed,developed,prepared,produced,completed,drafted,"
               "planned")  # fmt: skip
_ORDERED = any_of("paid,hired,asked,commissioned,used,ordered,approved,requested,bought,employed,praised,adopted")
_TELLS = any_of("reflects,describes,reports,records,documents,represents,comes from,came from,draws on,drew on,"
                "grew out of,stems from")  # fmt: skip
_THIS = rf"\b(?:it|this|that|these|which|all|everything|{PIECE})\b"
_REAL_WORK = _said(
    rf"{_THIS}(?: {_WAS}|['’]s| {_TELLS}) {_W3}{_REAL_TIE}",
    rf"{_I} {_W2}{_DID}{_FAR}\b(?:for|with|by|from|to|on|as) {_W2}{_REAL_TIE}",
    rf"\b(?:have|had|served|serving|advised|advising|helped|helping) {_W3}(?:{_REAL}|paying) (?:clients?|customers?)\b",
    rf"\b(?:{_REAL}|paying) {_CUSTOMER} {_W2}{_ORDERED}\b",
    rf"(?:^|:\s*)(?:{_A} |{_MY} )?(?:(?:(?:{_REAL}|paid) )+client|(?:{_REAL} )?paid) "
    r"(?:work|project|job|engagement|employment|assignment)(?=[.,;!)]|$| (?:for|with|at|done)\b)",
)

_NOT_PRACTICE = _said(
    rf"\b(?:it|this|that) (?:is|was)(?:n['’]t| not| no) (?:(?:just|only|merely) )?(?:an? )?(?:mere )?"
    rf"(?:practice(?: {PIECE})?|simulat(?:ion|ed {PIECE})|exercise)(?=[.,;:!]|$| but\b)"
)

# --- clients and pay --------------------------------------------------------------------------------------------------
_MY_CLIENT = _said(rf"{_MY} {_W1}clients?\b")
_FOR_A_CLIENT = _said(
    r"\bclients? of (?:mine|ours)\b",
    rf"{_I} {_W1}{_DID} (?:this|it|that|these|the|{_MY}) {_W3}for \w+ {_W1}clients?\b",
    rf"\b(?:it|this(?: {PIECE})?|my {PIECE}) {_WAS} {_W1}(?:{_DONE} for|(?:{_ORDERED}|paid for) by) \w+ {_W1}clients?\b",
    rf"{_THIS} {_WAS} {_W1}commissioned by \w",
)
_A_COMPANY = rf"(?:{_COMPANY}|\b(?:an?|the|this|that|its|my|our|their) {_W1}{_CUSTOMER}\b)"
_TAKEN_ON = any_of("hired,employed,commissioned,contracted,recruited,retained,appointed")
_I_WAS = rf"{_I}(?: (?:am|are|was|were|got|get|(?:have|had) been)|['’](?:m|ve been)) {_W1}"
_PAY = _said(
    rf"\b(?:{_TAKEN_ON}|promoted) {_ME}",
    rf"\bpaid {_ME} {_W3}(?:for|to) {_W3}(?:it|this|that|these|{PIECE})\b",
    rf"\b{_CUSTOMER} {_W1}paid (?:{_ME}|for this(?: {PIECE})?(?=[.,;:!]|$))",
    rf"{_I_WAS}(?:{_TAKEN_ON}|paid) {_W3}(?:for|to|by) (?:{_A_COMPANY}|{_W1}(?:it|this|that|these)\b)",
    rf"{_I} {_W1}(?:received|earned|got|charged|invoiced|billed) (?:an?|my|the) {_W1}"
    rf"{any_of('fee,salary,wage,payment,retainer,pay check,paycheck,bonus')}\b",
    rf"{_I} {_W1}(?:charged|invoiced|billed) (?:{_COMPANY}|(?:the|my|our|a) client\b)",
    rf"{_MY} (?:fee|salary|wage|pay|paycheck) (?:for|from|at) (?:{_A_COMPANY}|(?:it|this)\b)",
)
_GIVEN_IN_OTHER_WORDS = _said(
    rf"{_I} {_W1}(?:worked with|served|advised|helped|supported) {_W3}(client)s?\b",
    rf"\b(?:the|a) (client) {_W1}(?:signed|approved|accepted|loved|thanked|praised|was {_W1}(?:happy|pleased|delighted))\b",
    rf"{_MY} {_W1}(employer) {_W1}(?:{_ORDERED}|wanted)\b",
    rf"{_I_WAS}(hired|commissioned|contracted|retained) to\b",
    rf"{_I_WAS}(promoted)\b",
)
"""What it captures is a word that makes it no lie of one in whose prompt the word stands."""

# --- a job ------------------------------------------------------------------------------------------------------------
_HELD = any_of("work,works,worked,was employed,am employed,was hired,was promoted,serve,served,serves,intern,interned,consult,"
               "consulted,led,manage,managed,manages,ran,supervised,headed,joined")  # fmt: skip
_BULLET = any_of("Worked,Led,Managed,Served,Ran,Supervised,Headed,Joined,Employed,Hired,Consulted,Interned")
_BULLET_AT = any_of("Oversaw,Directed,Coordinated,Spearheaded,Implemented,Introduced,Launched,Delivered,Rolled out,Improved,"
                    "Increased,Reduced,Cut,Streamlined,Trained,Handled")  # fmt: skip
_WORKING = any_of("working,employed,interning,serving,consulting,being employed")
_TERM = any_of(
    "role,job,time,tenure,position,internship,employment,years,stint,months,day,days,experience,career,contract,placement"
)
_SUPERIOR = r"(?:employer|boss|manager|supervisor|coworkers?|colleagues?)"
_LEFT = r"(?:left|quit|resigned from|retired from|started at|began at)"
_STAYED = (
    r"(?:did|had|have|held|got|took|accepted|completed|finished|started|began|spent) "
    rf"{_W3}(?:{_TERM}|post|summers?|weeks?|shifts?)"
)
_POST = rf"(?:{_ROLE}|{any_of('consultant,contractor,freelancer,intern,trainee,volunteer,employee,adviser,advisor')})"
_ADOPTED = any_of("adopted,approved,accepted,implemented,rolled out,praised,bought")
_AS_EMPLOYEE = _said(
    rf"\bas (?:{_A} )?{_W3}employee\b",
    r"\bwhile (?:I was )?employed\b",
    rf"{_I} (?:{_WAS}|became) (?:an?|the|one of) {_W3}(?:employees?|staff members?)\b",
    rf"{_I} {_WAS} on (?:the|its|their) (?:payroll|staff)\b",
)
_AT_COMPANY = _said(
    rf"{_I} {_W2}{_HELD}{_FAR}\b(?:at|for|with|by|in) (?:the )?{_COMPANY}",
    rf"^{_BULLET}{_FAR}\b(?:at|for|with|by|in) (?:the )?{_COMPANY}",
    rf"^{_BULLET_AT}{_FAR}\bat (?:the )?{_COMPANY}",
    rf"\b(?:in|during) {_MY} {_W2}{_TERM} {_W4}\b(?:at|with|for) (?:the )?{_COMPANY}",
    rf"{_MY} {_W2}(?:{_TERM} {_W4}|work ){_AT}{_COMPANY}",
    rf"\bas (?:{_A} )?{_W2}{_POST} {_W1}{_FOR}{_COMPANY}",
    rf"{_I}(?: became| {_WAS}|['’]m) (?:{_W3}{_POST} {_FOR}|{_A} \w+ {_W2}at (?:the )?){_COMPANY}",
    rf"{_I_WAS}(?:employed|hired|promoted|based) {_W2}{_FOR}{_COMPANY}",
    rf"{_I} {_W1}(?:{_LEFT}|{_STAYED} {_W2}(?:at|with)) (?:the )?{_COMPANY}",
    rf"\bwe at {_COMPANY}|{_MY} {_W1}(?:customers|patients|clients|members|guests|team|staff) {_AT}{_COMPANY}",
    rf"{_COMPANY} {_W1}(?:offered|gave) {_ME} {_A} {_W1}(?:job|position|contract|role|post)\b",
    rf"{_MY} {_W1}{_SUPERIOR}{_NEAR}{_COMPANY}",
    rf"{_COMPANY}(?:,| is| was) {_MY} {_W1}(?:{_SUPERIOR}|client|customer)\b",
    rf"{_COMPANY}[^.;]{{0,20}}?\bwhere {_I} {_W1}{_HELD}\b",
    rf"\b(?:employed|hired|paid|commissioned|contracted|retained) by (?:the )?{_COMPANY}",
    rf"{_COMPANY} {_W1}(?:{_TAKEN_ON}|paid|promoted|thanked) {_ME}",
    rf"{_COMPANY} {_W1}{_ADOPTED} (?:{_MY}|(?:this|it)\b)",
    rf"\b(?:it|this|{PIECE}) (?:was|has been) {_W1}{_ADOPTED} (?:by|at) {_COMPANY}",
    rf"\b(?:while|when|after|from|since) {_W2}{_WORKING}{_NEAR}\b(?:at|for) (?:the )?{_COMPANY}.*(?:{_I}|{_ME}|{_MY})",
    rf"^(?:having (?:worked|been employed)|working){_NEAR}\b(?:at|for) (?:the )?{_COMPANY}.*(?:{_I}|{_ME}|{_MY})",
    rf"{_FOR}{_COMPANY},? {_I} {_W1}(?:{_HELD}|introduced|implemented|rolled out)\b",
)

# --- places that the prompt never named -------------------------------------------------------------------------------
_PLACE = r"(?:the )?(?P<place>(?-i:[A-Z])[\w&’'-]*(?: (?:(?:of|and|&) )?(?-i:[A-Z])[\w&’'-]*)*)"
_WORKED = any_of("worked,interned,served,consulted,freelanced,was employed,am employed,was hired")
_ELSEWHERE = (
    _said(rf"(?:{_I} {_W2}(?:work|{_WORKED})|^{_WORKED})\b[^.;,]{{0,40}}?\b(?:at|for) {_PLACE}"),
    _said(rf"{_I_WAS}{_TAKEN_ON} by {_PLACE}"),
    _said(rf"{_I} joined {_PLACE} as\b"),
    _said(rf"{_I} {_W1}{_STAYED} {_W2}at {_PLACE}"),
    _said(rf"{_MY} {_W2}{_TERM} {_W3}(?:at|with) {_PLACE}"),
    _said(rf"\bat {_PLACE},? {_I} {_W1}{_HELD}\b"),
)
_NO_PLACE = frozenset(
    prose.words(
        "i of and the mr mrs ms dr st monday tuesday wednesday thursday friday saturday sunday christmas easter january "
        "february march april may june july august september october november december"
    )
)
_MAY_WORK = ("work", "interned", "served", "consulted", "freelanced", "employed", "hired", "joined", "led ", "manage", "ran ",
             "supervised", "headed", "my ", "our ", "spent", "internship", "job", "position", "role")  # fmt: skip
_NAMES_A_PLACE = re.compile(r"\b(?:[Aa]t|for|by|with|joined)\s+(?:the\s+)?[A-Z]")
"""Cheap looks, both of which such a sentence passes."""


# --- reading a sentence -----------------------------------------------------------------------------------------------
class Told(NamedTuple):
    """What the prompt tells, beside which a sentence is read."""

    company: str
    role: str
    given: str
    """The whole prompt in small letters: what the applicant said of himself may be repeated."""
    to_applicant: bool = False
    """The text speaks to the applicant: its "you" is the one who must not lie."""


class _Kind(NamedTuple):
    claims: str
    pattern: re.Pattern[str]
    excused_by: re.Pattern[str]
    words: tuple[str, ...]
    """A cheap look before the costly one: a sentence with none of these parts of words is not searched."""
    anywhere: bool = True
    """What excuses may stand anywhere in the sentence; else only up to the end of the claim."""


_KINDS = (
    _Kind(
        "real client work", _REAL_WORK, _IMAGINED, ("real ", "actual", "genuin", "live ", "paid", "paying"), anywhere=False
    ),
    _Kind(
        "pay or a job", _PAY, _SETTING,
        ("hired", "employed", "commission", "contracted", "recruited", "retain", "appointed", "promoted", "paid", "fee ",
         "salary", "wage", "payment", "paycheck", "bonus", "my pay", "charged", "invoiced", "billed"),
    ),
    _Kind("a client", _FOR_A_CLIENT, _SETTING, ("client", "commissioned")),
    _Kind("a client", _MY_CLIENT, _HONEST, ("client",)),
    _Kind(
        "a client or a job", _GIVEN_IN_OTHER_WORDS, _HONEST,
        ("client", "employer", "hired", "commissioned", "contracted", "retained", "promoted"),
    ),
    _Kind("employment", _AS_EMPLOYEE, _HONEST, ("employe", "staff", "payroll")),
)  # fmt: skip
_MAY_TIE = sorted({word for kind in _KINDS for word in kind.words})


def claimed_tie(sentence: str, told: Told) -> str:
    """A client, pay or a job that the sentence claims and nobody gave; empty when none, or in an invented setting."""
    low = sentence.lower()
    named = prose.stands(told.company, sentence)
    may_tie = any(one in low for one in _MAY_TIE)
    may_work = _NAMES_A_PLACE.search(sentence) and any(one in low for one in _MAY_WORK)
    if not (named or may_tie or may_work):
        return ""
    marked = _marked(sentence, told)
    found = _job(marked, told) if (named or may_work) and not _HONEST.search(sentence) else None
    if not found and may_tie:
        found = _tie_to_anyone(marked, told, low)
    if not found:
        return ""
    claims, one = found
    return f"claims {claims}: {_unmarked(near(marked, one), told)!r}"


def _tie_to_anyone(marked: str, told: Told, low: str) -> tuple[str, re.Match[str]] | None:
    for kind in _KINDS:
        if not any(one in low for one in kind.words):
            continue
        for one in not_denied(kind.pattern, marked):
            word = one[one.lastindex].lower() if one.lastindex else ""
            given = re.search(rf"\b{word}", told.given) if word else repeated(one.group(), told.given)
            if not given and not kind.excused_by.search(marked if kind.anywhere else marked[: one.end()]):
                return kind.claims, one
    return None


def _job(marked: str, told: Told) -> tuple[str, re.Match[str]] | None:
    """At the company, or at a place that the prompt never named."""
    if _COMPANY in marked and (one := next(not_denied(_AT_COMPANY, marked), None)):
        return "employment", one
    for pattern in _ELSEWHERE:
        for one in not_denied(pattern, marked):
            if not _is_known(one["place"], told):
                return "employment", one
    return None


def _is_known(place: str, told: Told) -> bool:
    """No place at all, or one that the prompt names otherwise than by the company's name."""
    named = [one.removesuffix("'s").removesuffix("’s") for one in prose.words(place)]
    named = [one for one in named if one not in _NO_PLACE]
    others = prose.replaced(told.given, told.company, " ")
    return not named or any(prose.stands(one, others) for one in named)


def denied_practice(sentence: str) -> str:
    """Where the sentence says that the text is no practice; empty when it does not."""
    low = sentence.lower()
    one = _NOT_PRACTICE.search(sentence) if "practice" in low or "simulat" in low or "exercise" in low else None
    return f"claims real work: {near(sentence, one)!r}" if one and not _IMAGINED.search(sentence[: one.end()]) else ""


def not_denied(pattern: re.Pattern[str], marked: str) -> Iterator[re.Match[str]]:
    """The places that say it, but for those that a "not" before them or in them turns round."""
    for one in pattern.finditer(marked):
        if not _DENIED_WITHIN.search(one.group()) and not _DENIED_BEFORE.search(marked[: one.start()]):
            yield one


def repeated(phrase: str, given: str) -> bool:
    """The phrase stands in the prompt, whatever its white space."""
    return " ".join(phrase.lower().split()) in " ".join(given.split())


def near(text: str, found: re.Match[str]) -> str:
    """What was found, with some words around it."""
    return text[max(0, found.start() - 10) : found.end() + 20]


def _marks(told: Told) -> tuple[tuple[str, str], ...]:
    marks = ((told.company, _COMPANY), (told.role, _ROLE))
    return (*marks, ("you", _YOU), ("your", _YOUR)) if told.to_applicant else marks


def _marked(sentence: str, told: Told) -> str:
    for phrase, mark in _marks(told):
        sentence = prose.replaced(sentence, phrase, mark)
    return sentence


def _unmarked(text: str, told: Told) -> str:
    """The text as it was read: no mark of ours is for a reader's eyes."""
    for phrase, mark in _marks(told):
        text = text.replace(mark, phrase)
    return text
