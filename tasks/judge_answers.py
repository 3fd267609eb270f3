"""Let a panel of judges score the answers of one or more evaluations, and make the board of it.

Reads:    one or more evaluations (answers.jsonl, scores.json) or comparisons (answers.jsonl, comparison.json), under any input
          names; optionally `older_board`, a judgement of before.
Writes:   verdicts.jsonl (every verdict of every judge as it came, with the reason when it is unscored), judgement.json,
          judgement.md, judgement.png, answers.html (prompt by prompt, with every judge's scores), panel.json (who was
          asked how); diff.md beside an older board.
Verifies: every judge was asked exactly what rubric, task and answer make, about each different answer once, and nothing
          that names a model; each verdict follows from the judge's raw words; unscored has a reason; the board follows
          from the verdicts on disk, by the formula. A judge that failed, a bias or thin coverage is told, not an error.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

from pydantic import Field, field_validator

from data_contracts.prompting.prompt import PromptSet, load_prompt
from data_contracts.prompting.rubric import load_rubric
from data_contracts.verdict import Check, check, report
from tasks.clients.response_log import AnswerLog
from tasks.core.artifact import canonical_json
from tasks.core.errors import ConfigError
from tasks.core.settings import Settings
from tasks.core.stage import Job, Stage
from tasks.core.stage_process import child_main
from tasks.formats.jsonl import read_lines, write_json, write_lines
from tasks.judging.answer_table import AnswerTable, read_answers, self_judging
from tasks.judging.judge import Family, Heard, Identity, JudgeSettings, identity_of, twice_on_the_panel
from tasks.judging.panel import FLOOR, GATE_SHARE, JUDGE_SHARE, YARDSTICK, Limits
from tasks.judging.panel_run import Plan, ask_panel, board_from, follows, log_path, problems_of
from tasks.recipes import load_recipe
from tasks.reports.answers_page import render_answers
from tasks.reports.judging_chart import draw_board
from tasks.reports.judging_text import board_diff, board_markdown

OLDER = "older_board"
"""The one input that is no evaluation: a judgement, or a board kept from before."""
VERDICTS, PANEL, BOARD = "verdicts.jsonl", "panel.json", "judgement.json"


class JudgeConfig(Settings):
    """Who judges, what, and when the panel says nothing."""

    judges: list[JudgeSettings] = Field(default_factory=list, title="Judges")
    """The panel, best of several families. Empty: everything else works, and what only a judge can tell is "cannot tell"."""
    prompts: int = Field(default=24, ge=1)
    """Prompts that are judged, drawn by seed from those that every model answered."""
    models: list[str] = Field(default_factory=list)
    """Models that are judged; all of the evaluations when empty."""
    task_words: PromptSet = "trained"
    """Which words of the task a judge reads: those that small models are trained on, or the rich ones."""
    seed: int = Field(default=0, ge=0)
    """Draws the prompts, shuffles what each judge sees, marks what is quoted."""
    compared_pairs: int = Field(default=12, ge=0)
    """Answers that each judge compares with themselves, and pairs that it compares in both orders, to measure what the
    order does to it; 0 measures nothing."""
    ceiling: list[str] = Field(default_factory=lambda: ["ceiling", "teacher"])
    """Models that are a yardstick and no competitor."""
    floor: list[str] = Field(default_factory=lambda: ["base"])
    """Untuned models: the floor."""
    families: dict[str, Family] = Field(default_factory=dict)
    """Model -> family, as the judges name theirs: what lets a board say that a judge prefers its own."""
    min_coverage_fraction: float = Field(default=Limits.min_coverage_fraction, gt=0, le=1)
    """A model of which a judge scored less than this gets no rank; a judge that scored less of most models does not count."""
    max_coverage_gap_fraction: float = Field(default=Limits.max_coverage_gap_fraction, ge=0, le=1)
    """The same for a model that a judge scored so much less of than of another."""
    tie_points: float = Field(default=Limits.tie_points, ge=0)
    """Averages closer than this, of models that the judges do not agree on, are called all but tied; in points of 100."""
    interval_fraction: float = Field(default=Limits.interval_fraction, gt=0.5, lt=1)
    """Coverage of the bootstrap intervals over the prompts."""
    ask_again: int = Field(default=0, ge=0)
    """Raise it to send again what a judge that stopped answering left open; verdicts that came are kept. No code reads it: its
    value in the work key is what has the judgement made again."""

    @field_validator("judges")
    @classmethod
    def _one_column_each(cls, judges: list[JudgeSettings]) -> list[JudgeSettings]:
        names = [one.name.lower() for one in judges]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"judges named more than once: {', '.join(twice)}; give each a name of its own")
        return judges

    @property
    def limits(self) -> Limits:
        """What the board needs before it says anything."""
        named = ("min_coverage_fraction", "max_coverage_gap_fraction", "tie_points", "interval_fraction")
        return Limits(**{name: getattr(self, name) for name in named})


def judge_answers(config: JudgeConfig, job: Job) -> dict:
    """Ask the panel and write the board.

    Raises:
        ConfigError: the chart cannot be drawn; a judge is a model under test or sits twice; a name fits no model;
            the evaluations were asked different prompts; every judge refuses.
        TransientError: not one judge answered anything, and one of them may yet.
    """
    if find_spec("matplotlib") is None:
        raise ConfigError("judge_answers: matplotlib is not installed. Run: python deployments/setup.py")
    plan, identities = _plan(config, job), [identity_of(one) for one in config.judges]
    _refuse_judges(config, job, plan.table, identities)
    heard, records = ask_panel(plan, config.judges, identities, lambda name: _log(job, name), job.beat)
    told = [
        {"name": judge.name, "structured": one.structured, "died": one.died}
        for judge, one in zip(config.judges, heard, strict=True)
    ]
    write_lines(job.out / VERDICTS, records)
    write_json(job.out / PANEL, told)
    board = board_from(plan, config.judges, identities, told, records, load_recipe(job.recipe), config.limits)
    write_json(job.out / BOARD, board)
    _text(job.out / "judgement.md", board_markdown(board))
    draw_board(board, job.out / "judgement.png")
    _text(job.out / "answers.html", render_answers(board, records, plan.table, load_recipe(job.recipe), plan.rubric))
    if OLDER in job.inputs:
        _text(job.out / "diff.md", board_diff(_board(job.inputs[OLDER]), board))
    return _facts(config, heard, records)


def _plan(config: JudgeConfig, job: Job) -> Plan:
    evaluations = {name: folder for name, folder in job.inputs.items() if name != OLDER}
    if not evaluations:
        raise ConfigError("judge_answers: there is no evaluation among its inputs. Give one or more.")
    table = read_answers(
        evaluations,
        _manifests(job),
        load_prompt(job.recipe, config.task_words),
        prompts=config.prompts,
        seed=config.seed,
        only=config.models,
        roles={YARDSTICK: config.ceiling, FLOOR: config.floor},
        families=config.families,
    )
    return Plan(table, load_rubric(job.recipe), config.seed, config.compared_pairs)


def _manifests(job: Job) -> dict[str, dict]:
    return {name: json.loads(path.read_text("utf-8")) for name, path in job.manifests.items()}


def _refuse_judges(config: JudgeConfig, job: Job, table: AnswerTable, identities: list[Identity]) -> None:
    """Before anything is asked: a model that judges its own run, whether or not it is judged; one opinion that sits twice."""
    kinds = {one["kind"] for manifest in _manifests(job).values() for one in manifest.get("inputs", {}).values()}
    wrong = self_judging(config.judges, identities, table.evaluated, sorted(kinds))
    wrong += twice_on_the_panel(config.judges, identities)
    if wrong:
        raise ConfigError([f"judge_answers: {one}. Take another judge; nothing was asked." for one in wrong])


def _log(job: Job, judge: str) -> AnswerLog:
    """Verdicts by digest of judge, rubric, task and answer. Those of earlier builds are read too, under whatever name: a
    digest holds the model that was asked, not what its column is called."""
    earlier = job.work.parent.glob(f"*/{log_path(Path(), '*')}")
    return AnswerLog(log_path(job.work, judge), [one for one in earlier if one.parent != job.work])


def _facts(config: JudgeConfig, heard: list[Heard], records: list[dict]) -> dict:
    """What asking cost, in tokens as the servers count them."""
    tokens = {
        judge.name: {
            "prompt_tokens": sum(one.prompt_tokens for one in some.answers if one),
            "completion_tokens": sum(one.completion_tokens for one in some.answers if one),
        }
        for judge, some in zip(config.judges, heard, strict=True)
    }
    return {"verdicts": len(records), "tokens": tokens}


def _text(path: Path, text: str) -> None:
    path.write_bytes(text.encode("utf-8", "replace"))  # half a surrogate pair of a model becomes a question mark


def _board(folder: Path) -> dict:
    return json.loads((folder / BOARD).read_text("utf-8"))


def verify_judgement(config: JudgeConfig, job: Job) -> list[Check]:
    """Measure the judgement itself, from disk; see the module's docstring."""
    plan, identities = _plan(config, job), [identity_of(one) for one in config.judges]
    records = read_lines(job.out / VERDICTS)
    told, board = json.loads((job.out / PANEL).read_text("utf-8")), _board(job.out)
    recipe = load_recipe(job.recipe)
    wrong: dict[str, int] = {}
    for judge, identity, one in zip(config.judges, identities, told, strict=True):
        mine = [record for record in records if record["judge"] == judge.name]
        for name, count in problems_of(plan, judge, identity.where, one["structured"], mine).items():
            wrong[name] = wrong.get(name, 0) + count
    strangers = {one["judge"] for one in records} - {one.name for one in config.judges}
    again = board_from(plan, config.judges, identities, told, records, recipe, config.limits)
    canonical_json(board)
    scored = sum(one["levels"] is not None for one in records)
    judged = sum(row["rank"] is not None or row["judge_mean"] is not None for row in board["rows"])
    return [
        *(check(name, count, "==", 0) for name, count in wrong.items()),
        check(
            "verdicts of judges that are not on the panel", len(strangers), "==", 0, detail=", ".join(sorted(strangers))
        ),
        check(
            "verdicts that do not follow from the judge's own words",
            sum(not follows(one, plan.rubric) for one in records),
            "==",
            0,
        ),
        check("board computed again from the verdicts on disk", json.loads(canonical_json(again)) == board, "==", True),
        check("final scores that the formula does not give", _off_formula(board, plan.rubric.top), "==", 0),
        check("models on the board", len(board["rows"]), "==", len(plan.table.models)),
        *_page_checks(job.out, plan),
        report("verdicts", scored, detail=f"{scored} of {len(records)} questions got one; {len(config.judges)} judges"),
        report(
            "models that the panel could tell about",
            judged,
            detail="cannot tell" if not judged else f"of {len(board['rows'])}",
        ),
    ]


def _off_formula(board: dict, top: float) -> int:
    """Rows whose final score is not 100 * (0.6 * mean of the counting judges / top + 0.4 * gates), within rounding."""
    told = [row for row in board["rows"] if row["final"]["value"] is not None]
    expected = [100 * (JUDGE_SHARE * row["judge_mean"] / top + GATE_SHARE * row["gate_pass_rate"]) for row in told]
    return sum(abs(row["final"]["value"] - value) > 0.02 for row, value in zip(told, expected, strict=True))


def _page_checks(out: Path, plan: Plan) -> list[Check]:
    page = (out / "answers.html").read_text("utf-8")
    image = (out / "judgement.png").read_bytes()
    style = page.partition("</style>")[0]  # an answer may well speak of @import: there it is a word
    outside = sum(page.count(one) for one in ('src="http', 'href="http', '<link rel="stylesheet'))
    outside += sum(style.count(one) for one in ("@import", "url(http"))
    return [
        check("prompts on the page of answers", page.count('class="sample"'), "==", len(plan.table.rows)),
        check("things that the page of answers asks a server for", outside, "==", 0),
        check("judgement.png is a picture", image[:8] == b"\x89PNG\r\n\x1a\n" and len(image) > 2000, "==", True),
    ]


_LOCAL_STACK = ("torch", "transformers", "llama_cpp_python")

STAGE = Stage(
    name="judge_answers",
    kind="judgement",
    version=1,
    redo_failed=lambda _: True,
    work=judge_answers,
    verify=verify_judgement,
    stack=("scipy", "numpy", "matplotlib"),
    optional_stack=lambda config: _LOCAL_STACK if any(one.local_model for one in config.judges) else (),
    contract=("prompt.md", "prompt_rich.md", "output.py", "rubric.md"),
    texts=tuple(f"tasks/reports/{name}" for name in ("answers.html.j2", "report.css", "answers.css", "report.js")),
    outside=lambda config: [path for one in config.judges for path in one.model_files],
    named_secrets=lambda config: [one.api_key_env for one in config.judges if one.base_url],
)

if __name__ == "__main__":
    raise SystemExit(child_main(STAGE, JudgeConfig))
