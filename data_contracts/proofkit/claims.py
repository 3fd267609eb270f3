"""What one sentence must not claim in a practice piece: a client, a job at the fictional company, a result, a number that nobody
gave. Regular expressions over English; house_rules.py says what they are asked for."""

from __future__ import annotations

import re

from data_contracts.proofkit import connections as ties
from data_contracts.proofkit.statements import GAP, INVENTED, NOT, PIECE, WORDS_2, WORDS_3, any_of, compiled

_AMOUNT = any_of("number,numbers,figure,figures,metric,metrics,data,amount,amounts,percentage,percentages,total,totals,"
                 "count,counts,result,results,volume,volumes")  # fmt: skip
_LABEL = compiled(
    r"\b(?:hypothetical\w*|illustrati(?:ve|on|vely)|estimat\w+|assum\w+|project(?:ed|ion|ions)|placeholders?|notional)\b",
    rf"\b(?:{INVENTED}|practice|sample|example){WORDS_2}{GAP}{_AMOUNT}\b",
    rf"\b{_AMOUNT}\b(?:\s+\w+){{0,3}}?\s+(?:is|are|was|were)\s+(?:\w+\s+)?{INVENTED}\b",
)
"""A sentence with one of these tells that its numbers are no facts. "Fictional" alone may speak of the company."""
_TENS = any_of(
    "half,third,quarter,fifth,ten,fifteen,twenty,thirty,forty,fifty,sixty,seventy,eighty,ninety,percent,per cent"
)
_CUT = any_of("increased,reduced,cut,grew,raised,boosted,improved,saved,lowered,shortened,lifted,decreased,slashed")
_FELL = any_of("fell,dropped,rose,declined,shrank,sank,climbed,jumped,grew,went up,went down,came down")
_PART = r"(?:(?:an?\s+|one\s+)?(?:half|third|quarter|fifth)|zero|nothing)"
_COUNT = (
    rf"(?:\d[\d.,]*|half|an?(?={GAP}(?:hour|day|week|month|million|fortune))|{_TENS}|(?:hundred|thousand|million|dozen)s?|"
    rf"{any_of('one,two,three,four,five,six,seven,eight,nine,eleven,twelve,several')})"
)
_UNIT = any_of("dollars?,pounds?,euros?,minutes?,hours?,days?,weeks?,months?,millions?,thousands?,fortune,jobs,lives")
_RESULT = compiled(
    rf"\b{_CUT}\b[^.;]{{0,60}}?\bby\s+(?:\w+\s+){{0,2}}?(?:{_TENS}|\d[\d.,]*\s*(?:%|percent|per cent))",
    r"\b(?:doubled|tripled|halved|quadrupled)\b",
)
_AMOUNT_OF_RESULT = compiled(
    rf"(?<!\bis )(?<!\bare )\b{_CUT}\b[^.;]{{0,60}}?\b(?P<cut>in\s+half(?!\s+an?\b)|to\s+{_PART})\b",
    rf"\b{_FELL}\b[^.;]{{0,40}}?\b(?P<fell>to\s+{_PART}|by\s+(?:\w+\s+){{0,2}}?(?:{_TENS}|\d[\d.,]*\s*%)"
    rf"|{_COUNT}\s*(?:%|{GAP}per\s?cent))",
    rf"\b(?:saved|earned|gained|generated|brought\s+in|won){WORDS_3}{GAP}(?P<saved>{_COUNT}(?:{GAP}\w+)?{GAP}{_UNIT})\b",
    rf"\b(?:{_CUT}|{_FELL}|brought)\b[^.;]{{0,60}}?\b(?P<span>from\s+{_COUNT}\s+(?:\w+\s+)?to\s+{_COUNT})\b",
    rf"\b(?:{_CUT}|{_FELL})\b[^.;]{{0,40}}?\b(?P<fold>(?:two|three|four|five|ten|many)(?:{GAP})?fold|by\s+a\s+factor\s+of\s+\w+)",
    rf"\b(?:it|this|which|{PIECE})\s+(?:was|proved|has\s+been)\s+(?P<success>(?:an?\s+)?(?:\w+\s+)?success(?:ful)?)\b",
)
"""What the prompt gives of the amount may be repeated in a sentence of other words."""
_MAY_TELL = ("increas", "reduced", "cut", "grew", "raised", "boosted", "improved", "saved", "lowered", "shortened", "lifted",
             "decreas", "slashed", "fell", "dropped", "rose", "declined", "shrank", "sank", "climbed", "jumped", "went", "came",
             "doubled", "tripled", "halved", "quadrupled", "earned", "gained", "generated", "brought", "won",
             "success")  # fmt: skip
"""A cheap look before the costly ones."""
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
_QUOTE = re.compile(r"(?<!\w)['‘\"“](.{3,}?)['’\"”](?!\w)")
_BLAMED = compiled(
    rf"\b(?:{any_of('false,untrue,not true,dishonest,misleading,lie,lies,claims,claim,overclaims,never happened,nobody,no one')}"
    rf"|{any_of('delete,remove,strike,cut,take out,take back,withdraw,replace,drop,must go,has to go,cannot stay')})\b"
)


def without_blamed_quotes(sentence: str, draft: str) -> str:
    """A reviewer's sentence without the draft's own words that it finds fault with: to name a false claim is not to make it."""
    rest = _QUOTE.sub(lambda one: " " if ties.repeated(one[1], draft) else one[0], sentence)
    return rest if rest != sentence and _BLAMED.search(rest) else sentence


def false_claim(sentence: str, told: ties.Told) -> str:
    """What a sentence claims that cannot be true of a practice piece; empty when nothing."""
    if problem := ties.claimed_tie(sentence, told) or ties.denied_practice(sentence):
        return problem
    problem = _unlabelled_result(sentence, told.given) or _unlabelled_number(sentence, told.given)
    return "" if not problem or _LABEL.search(sentence) else problem


def _unlabelled_result(sentence: str, given: str) -> str:
    low = sentence.lower()
    if not any(one in low for one in _MAY_TELL):
        return ""
    found = [one for one in [_RESULT.search(sentence)] if one] + list(ties.not_denied(_AMOUNT_OF_RESULT, sentence))
    for one in found:
        if not _NOT_CLAIMED.search(sentence[: one.start()]) and not ties.repeated(one[one.lastgroup or 0], given):
            return f"claims a result without calling it hypothetical: {ties.near(sentence, one)!r}"
    return ""


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
