"""What the words of a trace conclude about YES: the sign of the update and the range of its size, or nothing.

The patterns are Rust regular expressions (polars). Precision comes first: a sentence that supposes ("if", "would") or denies
decides nothing, by its words or by the percentages in it, and neither do two that disagree. The lists were calibrated on the
hand-written examples, where none may contradict.
"""

from __future__ import annotations

import polars as pl

SENTENCE = r"(?:[^.;!?]|\.\d)+"
SUPPOSED = (
    r"(?i)\b(?:if|unless|whether|assuming|provided|otherwise|would|could|might|should|suppose|imagine|were|whoever|anyone"
    r"|somebody|wants?)\b|^\W*had\b"
)
CONDITION = r"(?i)\b(?:if|unless|should|suppose|imagine|were)\b|\bwould have\b"
"""What supposes a whole sentence, from its end as well: "YES drops to 20% should the vote fail"."""
OWN_ESTIMATE = r"\bI would\b"
"""How a trace states the move it makes ("I would move from 58% to 50%"); with a condition it is a supposition again."""
DENIED = r"(?i)\b(?:not|never|no|nothing|neither|nor|without|hardly|cannot)\b|n['’]t\b"

_BETWEEN = r"(?:,? (?:is|has|now|thus|then|so|therefore|also|hence|itself|only|just|the non-meeting,))*,? "
_RISES = (
    r"(?:ris|climb|gain|grow|improv|jump|leap|advanc|increas|surg|soar)(?:es|s|e)\b"
    r"|(?:rose|grew|leapt|climbed|gained|jumped|advanced|improved)\b"
    r"|(?:goes|moves|edges|creeps|drifts|inches|nudges|ticks|comes) (?:up|higher)|up (?:to|from)\b"
    r"|(?:(?:a (?:bit|little|hair|shade)|somewhat|slightly|much|far) )?(?:likelier|more likely)"
)
_FALLS = (
    r"(?:fall|drop|sink|slip|slid|declin|shrink|weaken|reced|eas|collaps|plung|retreat|tumbl|decreas|cool)(?:es|s|e)\b"
    r"|(?:fell|dropped|sank|slid|shrank|shrunk|collapsed|plunged|declined|weakened|slipped)\b"
    r"|sliding\b|going down|loses?\b|lost\b|gives up|comes (?:off|down)|(?:goes|moves|edges|drifts|inches|ticks) (?:down|lower)"
    r"|down (?:to|from)\b|(?:(?:a (?:bit|little|hair|shade)|somewhat|slightly|much|far) )?less likely"
)
RISING = (
    rf"\bYES{_BETWEEN}(?:{_RISES})"
    r"|\b(?:lifts?|raises?|boosts?|helps?) (?:the (?:odds|chance|probability) of )?YES\b"
    r"|\b(?:push|pull|mark|edge|nudge|move|take|bring)(?:es|s)? YES (?:up|upward|higher)\b"
    r"|\b(?:good|better|gain) for (?:[a-z]+ )?YES\b|\bspeaks for YES\b"
)
FALLING = (
    rf"\bYES{_BETWEEN}(?:{_FALLS})"
    r"|\b(?:lowers?|hurts?|weakens?|depress(?:es)?|dents?) (?:the (?:odds|chance|probability) of )?YES\b"
    r"|\b(?:push|pull|mark|edge|nudge|move|take|bring)(?:es|s)? YES (?:down|downward|lower)\b"
    r"|\blet(?:s)? YES (?:slip|sink|drift down|fall|ease|drop)\b|\bbad for YES\b|\bloss of [\w ]+ for YES\b"
)
STAYING = (
    r"\bYES (?:is |was |may |must )?(?:therefore |exactly )?(?:stays?|holds|rests|remains|idles|untouched|unaltered|unchanged"
    r"|left (?:alone|untouched|where)|where (?:it|the|they) |neither|gets neither|gains? neither|keeps that value)"
    r"|\bleaves? YES (?:untouched|alone|at that|where|as it)|\bkeep YES at\b|\bno push on YES\b"
)
"""Said of YES alone; one of RISING or FALLING elsewhere in the trace takes the decision away."""

_NUMBER = r"(?:about |around |roughly |some |nearly |perhaps |under |at most |a |something like )*(\d{1,2}(?:\.\d+)?)%"
MOVED = (
    r"(?:\bYES\b|\bI\b|\b(?:chance|probability|odds|likelihood)\b)(?:[^.;!?%]|\.\d){0,60}?"
    rf"\bfrom {_NUMBER}(?:[^.;!?%]|\.\d){{0,60}}? to {_NUMBER}"
)
"""`YES ... from 40% to 54%`: both ends of the update, in percent."""

_STEP = r"(?:step|move|gain|loss|change|increase|improvement|rise|cut|shift|retreat|markdown)"
_BIT = r"(?:(?:only )?a (?:little|bit|touch|hair|sliver|shade)|slightly|somewhat)"
_NEAR_RESOLVING = (
    r"\bYES is (?:now )?(?:as good as|all but|practically|virtually) (?:settled|certain|dead|decided|resolved)"
    r"|\bcall (?:this|it) near-resolving|\bclose to certainty\b|\ball but (?:closes|settles|decides)\b"
    r"|\bYES (?:collapses|plunges)\b"
)
_LARGE = rf"\ba (?:very )?large {_STEP}\b"
_MODERATE = rf"\ba (?:small|smallish|slight|modest|moderate) (?:{_STEP}|one)\b|\bmoderate {_STEP}\b"
_SLIGHT = (
    rf"\bYES (?:gives up|climbs|rises|falls|cools|slips|gains|drops|loses) {_BIT}\b"
    rf"|\bYES (?:is )?{_BIT} (?:likelier|more likely|less likely)"
    r"|\bYES (?:edges|creeps|nudges)\b|\b(?:nudge|edge)s? YES\b"
)
SIZES = {
    "near-resolving": (_NEAR_RESOLVING, 0.3, 1.0),
    "large": (_LARGE, 0.13, 1.0),
    "moderate": (_MODERATE, 0.0, 0.25),
    "slight": (_SLIGHT, 0.0, 0.15),
}
"""Words of size, and the magnitudes they can mean (0.1 is moderate and 0.4 near-resolving in the contract; a margin each way)."""
MOVED_TOLERANCE = 0.05
"""How far the magnitude may lie from the points that the trace counts: traces round, and fields do."""


def concluded(traces: pl.Series) -> pl.DataFrame:
    """`sign` (-1, 0, +1 or null), `size_from` and `size_to` (null or magnitudes) of each trace, (traces,) rows in order."""
    frame = pl.DataFrame({"row": pl.int_range(len(traces), eager=True), "trace": traces})
    sentences = frame.select("row", s=pl.col("trace").str.extract_all(SENTENCE)).explode("s")
    said = sentences.with_columns(
        meant=~pl.col("s").str.contains(SUPPOSED) & ~pl.col("s").str.contains(DENIED),
        before=pl.col("s").str.extract(MOVED, 1).cast(pl.Float64) / 100,
        after=pl.col("s").str.extract(MOVED, 2).cast(pl.Float64) / 100,
    ).with_columns(points=pl.when(_meant(MOVED)).then(pl.col("after") - pl.col("before")))
    told = said.group_by("row", maintain_order=True).agg(
        up=(pl.col("meant") & pl.col("s").str.contains(RISING)).any() | (pl.col("points") > 0).any(),
        down=(pl.col("meant") & pl.col("s").str.contains(FALLING)).any() | (pl.col("points") < 0).any(),
        stays=(~pl.col("s").str.contains(SUPPOSED) & pl.col("s").str.contains(STAYING)).any(),
        moved=pl.col("points").abs().drop_nulls().unique(),
        **{name: _meant(words).any() for name, (words, _, _) in SIZES.items()},
    )
    return frame.select("row").join(told, on="row", how="left", maintain_order="left").select(_sign(), *_size())


def _meant(words: str) -> pl.Expr:
    """Whether the sentence says these words of what is: nothing up to their end supposes or denies them, and it has no
    condition. What follows them only comments on them ("..., a large step that one game could undo")."""
    told = pl.col("s").str.extract(rf"(?s)^(.*?(?:{words}))")
    supposed = told.str.replace_all(OWN_ESTIMATE, "I").str.contains(SUPPOSED) | pl.col("s").str.contains(CONDITION)
    return (~supposed & ~told.str.contains(DENIED)).fill_null(False)


def _sign() -> pl.Expr:
    up, down, stays = (pl.col(name).fill_null(False) for name in ("up", "down", "stays"))
    only = pl.when(up.cast(pl.Int8) + down.cast(pl.Int8) + stays.cast(pl.Int8) == 1)
    return only.then(up.cast(pl.Int8) - down.cast(pl.Int8)).alias("sign")


def _size() -> list[pl.Expr]:
    """Counted points where the trace gives one move; else the words, where one size alone is named."""
    named = pl.sum_horizontal(pl.col(name).fill_null(False).cast(pl.Int8) for name in SIZES) == 1
    counted = pl.when(pl.col("moved").list.len() == 1).then(pl.col("moved").list.first())
    bounds = []
    for index, margin in ((1, -MOVED_TOLERANCE), (2, MOVED_TOLERANCE)):
        words = pl.coalesce(*(pl.when(named & pl.col(name)).then(pl.lit(size[index])) for name, size in SIZES.items()))
        bounds.append(pl.coalesce(counted + margin, words).alias("size_from" if index == 1 else "size_to"))
    return bounds
