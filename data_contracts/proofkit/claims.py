"""What one sentence must not claim in a practice piece: a client, a job at the fictional company, a result, a number that nobody
gave. Regular expressions over English; house_rules.py says what they are asked for."""

from __future__ import annotations

import re

from data_contracts import prose
from data_contracts.proofkit.statements import GAP, INVENTED, NOT, PIECE, WORDS_2, any_of, compiled

_HONEST = compiled(
    rf"\b{any_of('fictional,fictitious,simulated,simulation,invented,made up,imaginary,imagine,imagined,pretend,as if,if I,would,mock,work sample')}\b",  # noqa: E501
    r"\bhypothetical\w*",
    rf"\bpractice\s+(?:\w+\s+)?{PIECE}\b",
)
"""A sentence with one of these does not claim that the job was real."""
_AMOUNT = any_of("number,numbers,figure,figures,metric,metrics,data,amount,amounts,percentage,percentages,total,totals,"
                 "count,counts,result,results,volume,volumes")  # fmt: skip
_LABEL = compiled(
    r"\b(?:hypothetical\w*|illustrati(?:ve|on|vely)|estimat\w+|assum\w+|project(?:ed|ion|ions)|placeholders?|notional)\b",
    rf"\b(?:{INVENTED}|practice|sample|example){WORDS_2}{GAP}{_AMOUNT}\b",
    rf"\b{_AMOUNT}\b(?:\s+\w+){{0,3}}?\s+(?:is|are|was|were)\s+(?:\w+\s+)?{INVENTED}\b",
)
"""A sentence with one of these tells that its numbers are no facts. "Fictional" alone may speak of the company."""
_CLIENT = compiled(r"\b(?:our|my)\s+(?:\w+\s+)?(?:clients?)\b")
_AS_EMPLOYEE = compiled(r"\bas (?:an? |the )?(?:\w+ ){0,3}employee\b", r"\bwhile (?:I was )?employed\b")
_HELD = any_of("work,works,worked,was employed,am employed,was hired,was promoted,serve,served,serves,intern,interned,consult,"
               "consulted,led,manage,managed,manages,ran,supervised,headed,joined")  # fmt: skip
_BULLET = any_of("Worked,Led,Managed,Served,Ran,Supervised,Headed,Joined,Employed,Hired,Consulted,Interned")
_TENS = any_of(
    "half,third,quarter,fifth,ten,fifteen,twenty,thirty,forty,fifty,sixty,seventy,eighty,ninety,percent,per cent"
)
_RESULT = compiled(
    r"\b(?:increased|reduced|cut|grew|raised|boosted|improved|saved|lowered|shortened|lifted|decreased|slashed)\b"
    rf"[^.;]{{0,60}}?\bby\s+(?:\w+\s+){{0,2}}?(?:{_TENS}|\d[\d.,]*\s*(?:%|percent|per cent))",
    r"\b(?:doubled|tripled|halved|quadrupled)\b",
)
_NOT_CLAIMED = compiled(
    rf"\b(?:{any_of('would,could,should,might,may,will,can,to,aims,hopes,expects,if,be,have to')}|{NOT})\b(?:\s+\w+)?\s*$"
)
_NUMBER = re.compile(
    r"(?P<money>[$€£])?(?<![\w.])(?P<digits>\d[\d,]*(?:[.:/]\d+)*)(?P<percent>\s*(?:%|percent\b|per cent\b))?",
    re.IGNORECASE,
)
_DIGIT = re.compile(r"\d")
_ORDINAL = any_of("step,steps,week,weeks,day,days,option,options,phase,phases,part,parts,point,points,tier,level,round,priority,"
                  "question,item,version,stage,shift,month,months,quarter")  # fmt: skip
_FREE_NUMBER = compiled(
    r"\b(?:24/7|1:1|Q[1-4])\b",
    rf"\b{_ORDINAL}\s+(?:[1-9]|1[0-2])\b(?:\s*(?:-|–|to|and)\s*(?:[1-9]|1[0-2])\b)?",
)
"""Numbers that count off parts of the text itself and measure nothing."""


_COMPANY, _ROLE = "\ue0f0", "\ue0f1"
"""Stand for the company and the role: one pattern then serves all, and none is compiled for each row."""
_EMPLOYMENT = compiled(
    rf"\b(?:I|we)\b(?:\s+\w+){{0,2}}?\s+{_HELD}\b[^.;]{{0,60}}?\b(?:at|for|with|by|in)\s+(?:the\s+)?{_COMPANY}",
    rf"^{_BULLET}\b[^.;]{{0,80}}?\b(?:at|for|with|by|in)\s+(?:the\s+)?{_COMPANY}",
    rf"\b(?:in|during)\s+my\s+(?:\w+\s+){{0,2}}?(?:role|job|time|tenure|position|internship|employment|years|stint)\b"
    rf"(?:\s+\w+){{0,4}}?\s+(?:at|with|for)\s+(?:the\s+)?{_COMPANY}",
    rf"\bas\s+(?:an?\s+|the\s+)?(?:\w+\s+){{0,2}}?{_ROLE}(?:\s+\w+)?\s+(?:at|for|of|with)\s+(?:the\s+)?{_COMPANY}",
    rf"\b(?:my|our)\s+(?:\w+\s+)?(?:employer|boss|manager|supervisor|coworkers?|colleagues?)\b[^.;]{{0,30}}?{_COMPANY}",
    rf"\b(?:employed|hired|paid|commissioned|contracted|retained)\s+by\s+(?:the\s+)?{_COMPANY}",
)


def false_claim(sentence: str, company: str, role: str, given: str) -> str:
    """What a sentence claims that cannot be true of a practice piece; empty when nothing.

    `given` is the prompt in small letters: what the applicant said of himself may be repeated.
    """
    problem = _claimed_tie(sentence, company, role, given)
    if problem and not _HONEST.search(sentence):
        return problem
    problem = _unlabelled_result(sentence, given) or _unlabelled_number(sentence, given)
    return "" if not problem or _LABEL.search(sentence) else problem


def _claimed_tie(sentence: str, company: str, role: str, given: str) -> str:
    """A client or a job that the sentence claims, whatever it calls them."""
    if (one := _CLIENT.search(sentence)) and "client" not in given and not _denied(sentence, one):
        return f"claims a client: {_near(sentence, one)}"
    if one := _AS_EMPLOYEE.search(sentence):
        return "" if _denied(sentence, one) else f"claims employment: {_near(sentence, one)}"
    if not prose.stands(company, sentence):
        return ""
    marked = prose.replaced(prose.replaced(sentence, company, _COMPANY), role, _ROLE)
    if (one := _EMPLOYMENT.search(marked)) and not _denied(marked, one):
        return f"claims employment: {_near(marked, one).replace(_COMPANY, company).replace(_ROLE, role)}"
    return ""


def _denied(sentence: str, found: re.Match[str]) -> bool:
    before = rf"\b{NOT}\b(?:\s+[\w’']+){{0,4}}\s*$"
    return bool(re.search(before, sentence[: found.start()], re.IGNORECASE)) or bool(
        re.search(rf"\b{NOT}\b", found.group(), re.IGNORECASE)
    )


def _near(sentence: str, found: re.Match[str]) -> str:
    return repr(sentence[max(0, found.start() - 10) : found.end() + 20])


def _unlabelled_result(sentence: str, given: str) -> str:
    found = _RESULT.search(sentence)
    if not found or _NOT_CLAIMED.search(sentence[: found.start()]):
        return ""
    repeated = " ".join(found.group().lower().split()) in " ".join(given.split())
    return "" if repeated else f"claims a result without calling it hypothetical: {_near(sentence, found)}"


def _unlabelled_number(sentence: str, given: str) -> str:
    if not _DIGIT.search(sentence):
        return ""
    for number in _NUMBER.finditer(_FREE_NUMBER.sub(" ", sentence)):
        if not _is_given(number, given):
            return f"{number.group().strip()!r} is not in the prompt and not called hypothetical: {sentence[:80]!r}"
    return ""


def _is_given(number: re.Match[str], given: str) -> bool:
    """The same number stands in the prompt; as a percentage or as money, where it is one here."""
    wanted = number["digits"].rstrip(",").replace(",", "")
    return any(
        one["digits"].rstrip(",").replace(",", "") == wanted
        and bool(one["percent"]) >= bool(number["percent"])
        and (not number["money"] or one["money"] == number["money"])
        for one in _NUMBER.finditer(given)
    )
