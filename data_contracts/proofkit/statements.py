"""What one sentence says about its own text: that a company is fictional, what is assumed, what is traded for what, and that it
is a practice piece. Regular expressions over English; house_rules.py says what each is asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence

from data_contracts.audit import sentences as prose


def any_of(phrases: str) -> str:
    """One alternative a phrase of a comma-separated list; a space in a phrase is any white space or a hyphen."""
    return "(?:" + "|".join(r"[\s-]+".join(one.split()) for one in phrases.split(",")) + ")"


def compiled(*patterns: str) -> re.Pattern[str]:
    """Any of the patterns, in any case."""
    return re.compile("|".join(patterns), re.IGNORECASE)


NOT = r"(?:not|no|never|none|nothing|without|nor|neither|cannot|\w+n[’']t)"
_NOT_BEFORE = compiled(rf"\b{NOT}\b(?:\s+\w+){{0,2}}\s*$", r"\bnon-?\s*$")
"""A denial within the last three words."""
WORDS_2, WORDS_3, WORDS_5 = (rf"(?:[\s,-]+[\w’']+){{0,{most}}}?" for most in (2, 3, 5))
"""Up to so many words in between."""
GAP = r"[\s,-]+"

# --- the company is fictional -----------------------------------------------------------------------------------------
INVENTED = any_of("fictional,fictitious,invented,made up,imaginary,imagined,simulated,pretend")
_MARK = compiled(rf"\b{INVENTED}\b", r"\bmade\s+(?:[\w&’']+\s+){1,5}up\b", r"\bdo(?:es)? not exist\b")
_NUMBERS = frozenset(
    prose.words(
        "number numbers figure figures metric metrics data statistic statistics result results percentage percentages "
        "amount amounts price prices total totals count counts estimate estimates date dates quote quotes"
    )
)
_PLACES = frozenset(
    prose.words(
        "company companies employer employers business businesses firm organisation organization hospital clinic pharmacy "
        "school shop store office agency charity team workplace client customer scenario setting case everything all both"
    )
)
_BY_ME = compiled(r"\b(?:I|we|they|who|he|she)(?:\s+(?:have|had|just|also))?\s*$")
_PREDICATE = re.compile(r"^(.*)\b(?:is|are|was|were|be|remains?)\b(?:\s+\w+){0,2}\s*$", re.IGNORECASE | re.DOTALL)
_DETERMINERS = frozenset(
    prose.words("a an the this that these those my our your their his her its all every each some any")
)
_BEFORE_NOUN = re.compile(r"\b(?:of|at|for|from|in|on|by|about)\b", re.IGNORECASE)
MIN_LONE_WORDS = 4
"""Words of a sentence that calls something fictional without naming the company: "Fictional." says it of nothing."""


def calls_fictional(sentence: str, company: str) -> bool:
    """The sentence says of the company, or of the whole setting, that it is fictional; not only of its numbers."""
    if not (marks := list(_MARK.finditer(sentence))) or not prose.is_prose(sentence):
        return False
    if not prose.stands(company, sentence):
        some = prose.words(sentence)
        others = {one for one in some if not _MARK.fullmatch(one)}
        if len(some) < MIN_LONE_WORDS or len(others) < MIN_LONE_WORDS - 1:
            return False
    return any(_of_the_setting(sentence, one, company) for one in marks)


def _of_the_setting(sentence: str, mark: re.Match[str], company: str) -> bool:
    before, after = sentence[: mark.start()], sentence[mark.end() :]
    near_after = prose.words(after)[:5]
    if "exist" in mark.group().lower():
        return _is_setting(re.split(r"[,;:]", before)[-1], company)
    if _NOT_BEFORE.search(before):
        return False
    if _BY_ME.search(
        before
    ):  # "I invented X", "X, which I made up", "I made the company up"; not "I invented a checklist"
        made = " ".join(mark.group().split()[1:-1]) or _object(after) or before[-80:]
        return bool(prose.stands(company, made)) or not _PLACES.isdisjoint(prose.words(made)[-6:])
    if predicate := _PREDICATE.match(before):
        return _is_setting(re.split(r"[,;:]", predicate[1])[-1], company)
    for word in near_after[:3]:
        if word in _PLACES:
            return True
        if word in _NUMBERS:
            return False
    return True


def _object(after: str) -> str:
    """What a verb acts on, by the words behind it; empty when they begin another phrase ("made up to practise on")."""
    clause = re.split(r"[,;:.]", after)[0]
    first = next(iter(prose.words(clause)), "")
    return "" if first in prose.FUNCTION_WORDS - _DETERMINERS else _BEFORE_NOUN.split(clause, maxsplit=1)[0].strip()


def _is_setting(subject: str, company: str) -> bool:
    """Whether what "is fictional" is more than numbers: "the figures at X are" is not, "X and its figures are" is."""
    for part in re.split(r"\b(?:and|as well as)\b", subject, flags=re.IGNORECASE):
        head = prose.words(_BEFORE_NOUN.split(part, maxsplit=1)[0])
        if (head and head[-1] not in _NUMBERS) or (not head and prose.stands(company, part)):
            return True
    return False


# --- assumptions ------------------------------------------------------------------------------------------------------
_ASSUMPTION_LABEL = re.compile(r"\bassumptions?\b[^:.]{0,40}:\s*(.*)$", re.IGNORECASE)
_ASSUMPTION_IS = re.compile(
    r"\bassumptions?\b(?:\s+[\w’']+){0,5}?\s*(?:is|was|:)?\s+(?:that|is|was)\s+(.+)$", re.IGNORECASE
)
_ASSUME = re.compile(r"\bassum(?:e|es|ed|ing)\b(\s+that\b)?[\s,]+(.+)$", re.IGNORECASE)
_TAKEN_ON = compiled(
    r"^(?:\w+\s+){0,2}"
    + any_of("responsibility,responsibilities,ownership,role,roles,charge,control,command,leadership,duty,duties,office,position")
    + r"\b"
)  # fmt: skip
_EMPTY = compiled(
    r"^(?:none|n/?a)\b", r"^no assumptions?\b", r"^(?:nothing|no|not)\W*(?:$|needed|required|necessary|applicable)"
)
_KEYWORDS = compiled(r"assum\w*|trade-?offs?|trade|disclosures?|fictional|anchors?|keywords?")
MIN_STATED_WORDS = 4
MIN_STATED_CONTENT = 3


def assumed(sentence: str, following: str = "") -> list[str]:
    """What the sentence assumes, by each form it may take; a bare label "Assumptions:" takes the sentence after it."""
    is_label = sentence.rstrip().endswith(":")
    if "assum" not in sentence.lower() or not (is_label or prose.is_prose(sentence)):
        return []
    found = []
    if label := _ASSUMPTION_LABEL.search(sentence):
        found.append(label[1].strip() or following)
    if one := _ASSUMPTION_IS.search(sentence):
        found.append(one[1])
    if (one := _ASSUME.search(sentence)) and not _NOT_BEFORE.search(sentence[: one.start()]):
        found += [] if not one[1] and _TAKEN_ON.match(one[2]) else [one[2]]
    return [one for one in found if not _EMPTY.match(one)]


def has_content(stated: str) -> bool:
    """Words that say something: prose, long enough, and more than keywords of these rules."""
    some = prose.words(stated)
    meant = {one for one in prose.content_words(some) if not _KEYWORDS.fullmatch(one)}
    return len(some) >= MIN_STATED_WORDS and len(meant) >= MIN_STATED_CONTENT and prose.is_prose(stated)


# --- trade-offs -------------------------------------------------------------------------------------------------------
_CHOOSE = any_of("choose,chooses,chose,chosen,choosing,pick,picks,picked,picking,prefer,prefers,preferred,favour,favours,favor,"
                 "favors,favoured,favored,prioritise,prioritises,prioritised,prioritize,prioritizes,prioritized,put,puts,putting,"
                 "take,took,keep,keeps,kept,keeping,select,selects,selected,opt,opted,went")  # fmt: skip
_GIVE = r"(?:trad(?:e|es|ed|ing)(?![\s-]?offs?\b)|swap(?:s|ped|ping)?|g(?:ive|ives|iving|ave)\s+(?:up|away))"
_LOSE = any_of("lose,loses,losing,lost,sacrifice,sacrifices,sacrificing,forgo,forgoes,forgoing,give up,gives up,giving up,"
               "gave up,accept,accepts,accepted,accepting,cost,costs")  # fmt: skip
_GAIN = any_of("get,gain,keep,buy,win,have,protect,make,save")
_WEIGHED = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"^(.+?)\bin exchange for\b(.+)$",
        r"^(.+?)\bat the (?:cost|expense|price) of\b(.+)$",
        rf"\b{_CHOOSE}\b(.+?)\b(?:over|rather than|instead of)\b(.+)$",
        r"\b(?:put|puts|putting|place|places|placed)\b(.+?)\b(?:before|ahead of|above)\b(.+)$",
        rf"\b{_GIVE}\b(.+?)\b(?:for|to {_GAIN}|so that|in return)\b(.+)$",
        rf"\b{_LOSE}\b(.+?)\b(?:but|yet|so that|in return|and (?:buys|spares|saves|gains|wins|gives)|to {_GAIN})\b(.+)$",
        r"^(.+?)\bthe (?:price|cost|downside|catch)(?: of (?:it|that|this))? (?:is|was)\b(.+)$",
        r"\btrade-?\s?offs?\b(.+?)\b"
        + any_of(
            "but,while,yet,although,though,whereas,for,against,versus,vs,in return,so that,to gain,means,buys,costs"
        )
        + r"\b(.+)$",
    )
]
_WEIGHED_LAST = [re.compile(one.pattern.replace("(.+?)", "(.+)"), re.IGNORECASE) for one in _WEIGHED]
_MAY_WEIGH = compiled(
    rf"\b(?:exchange|expense|price|costs?|downside|catch|trade-?\s?offs?|{_CHOOSE}|{_GIVE}|{_LOSE})\b"
)
_NO_TRADEOFF = compiled(rf"\b{NOT}\b(?:\s+\w+){{0,2}}\s+trade-?\s?offs?\b")
_WEIGHING = frozenset(
    prose.words(
        "trade-off trade-offs trade tradeoff tradeoffs exchange cost costs expense side sides thing something one other "
        "another chose choose choice decision again keyword keywords"
    )
)
_PRONOUN = compiled(r"^\s*(?:it|that|this|them|those|these)\s*(?:$|[,;.]|because|since|as)")
_REASON = compiled(r"\b(?:because|since|as|when|while|although|though|whereas)\b")
MIN_WEIGHING_WORDS = 6


def weighs(sentence: str) -> bool:
    """The sentence names two different things, one of which is given up for the other."""
    if not _MAY_WEIGH.search(sentence) or _NO_TRADEOFF.search(sentence):
        return False
    if len(prose.words(sentence)) < MIN_WEIGHING_WORDS or not prose.is_prose(sentence):
        return False
    found = [one for pattern in _WEIGHED if (one := pattern.search(sentence))]  # at the first word that divides, ...
    found += [one for pattern in _WEIGHED_LAST if (one := pattern.search(sentence))]  # ... or at the last
    return any(_two_sides(one[1], _meant(one[2], sentence[: one.start()])) for one in found)


def _meant(side: str, before: str) -> str:
    """A side that is only a pronoun stands for what was said before: "X would be kinder, and still I choose Y over it"."""
    return before if _PRONOUN.match(side) else side


def _two_sides(one: str, other: str) -> bool:
    """Each side, its reason cut off, says something that the other does not."""
    sides = (_REASON.split(side, maxsplit=1)[0] for side in (one, other))
    left, right = (set(prose.content_words(prose.words(side))) - _WEIGHING for side in sides)
    return bool(left - right) and bool(right - left)


# --- disclosure -------------------------------------------------------------------------------------------------------
PIECE = any_of("sample,samples,exercise,exercises,piece,pieces,project,projects,case,cases,study,simulation,challenge,brief,"
               "draft,memo,document,plan,portfolio,scenario,post,bullet,bullets,work,assignment,artifact,example,write up,"
               "workshop,outline,guide,audit,report,test,sketch,dashboard,call,course,note,notes,notice,map,proposal,analysis,text,page,"
               "summary,script,checklist,schedule,review,application,material")  # fmt: skip
_PRACTICE = compiled(
    rf"\b{any_of('practice,simulated,fictional,fictitious,hypothetical,self initiated,self directed,self set,mock,sample,portfolio,invented,made up,imaginary,training')}{WORDS_3}{GAP}{PIECE}\b",  # noqa: E501
    rf"\b{PIECE}\b(?:\s+\w+){{0,4}}?\s+(?:is|are|was|were)\s+(?:\w+\s+){{0,2}}?{any_of('simulated,fictional,fictitious,hypothetical,practice,invented,made up')}\b",  # noqa: E501
    rf"\b{PIECE}\b(?:\s+\w+){{0,2}}?\s+(?:for|from|in|of)\s+(?:my|a|the)\s+portfolio\b",
    r"\b(?:as|for|is)\s+(?:\w+\s+)?practice\b",
    r"\bsimulation\b",
)
_TIE = any_of("client,clients,employer,employers,employment,job,jobs,customer,customers,company,companies,engagement,assignment,"
              "project,organisation,organization,business,position,role,work,experience,team,staff,patient,patients,family,"
              "families,office,agency,hospital,product")  # fmt: skip
_WORKED = any_of("client work,client project,employment,employed,hired,commissioned,paid work,worked there,worked for,worked at,"
                 "work there,work for,work at,on the payroll,on the staff,on its staff,a job")  # fmt: skip
_NOT_REAL = compiled(
    rf"\b(?:{NOT}|rather\s+than|instead\s+of|outside)\b(?P<between>(?:\s+[\w’'-]+){{0,5}}?)\s+"
    rf"(?:{any_of('real,actual,paid,genuine,live,true')}{WORDS_5}{GAP}{_TIE}|{_WORKED})\b",
    rf"\bno(?:body)?\b{WORDS_5}{GAP}"
    rf"{any_of('asked,paid,commissioned,hired,employed,ordered,requested,is behind,was involved,is involved,stands behind')}\b",
    r"\bno\s+(?:client|employer|customer)s?(?=\s*(?:$|[.,;:!?)]|(?:and|or|nor|behind|here|involved)\b))",
)
_MAY_PRACTISE = compiled(
    r"practice|simulat|ficti|hypothetical|self|mock|sample|portfolio|invented|made|imaginary|training"
)
_MAY_DENY = compiled(r"client|employ|job|customer|compan|engagement|assignment|project|organi|business|position|role|work|"
                     r"experience|team|staff|patient|famil|office|agency|hospital|product|hired|commission|payroll")  # fmt: skip
"""Cheap looks before the costly ones: most sentences hold nothing of the kind."""
_ONLY = compiled(r"\b(?:but|only|just|merely|simply)\b")
MIN_DISCLOSING_WORDS = 6


def is_practice(sentence: str) -> bool:
    """The sentence calls the piece a practice piece."""
    if not _MAY_PRACTISE.search(sentence):
        return False
    return any(not _NOT_BEFORE.search(sentence[: one.start()]) for one in _PRACTICE.finditer(sentence))


def denies_real_work(sentence: str) -> bool:
    """The sentence denies a real client, or that anyone was employed."""
    if not _MAY_DENY.search(sentence):
        return False
    return any(not _ONLY.search(one["between"] or "") for one in _NOT_REAL.finditer(sentence))


def discloses(some: Sequence[str]) -> bool:
    """In one sentence, or in two neighbours, the text is called a practice piece and real work is denied."""
    for place in (index for index, one in enumerate(some) if is_practice(one)):
        for first in (place - 1, place):
            pair = some[max(first, 0) : first + 2]
            if any(map(denies_real_work, pair)) and _is_said(pair):
                return True
    return False


def _is_said(pair: Sequence[str]) -> bool:
    said = prose.words(" ".join(pair))
    enough = len(said) >= MIN_DISCLOSING_WORDS and not prose.FUNCTION_WORDS.difference(("not", "no")).isdisjoint(said)
    return enough and all(map(prose.is_prose, pair))
