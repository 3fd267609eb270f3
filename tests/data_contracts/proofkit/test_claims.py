"""What may not be claimed in a practice piece: lies as a small model words them, honest sentences that come near, and every
dishonest sentence that the world of the built rows plants in drafts."""

import json
import re

import pytest
import yaml

from data_contracts.paths import CONTRACTS_FOLDER
from data_contracts.proofkit import house_rules
from data_contracts.rows.rows_file import read_rows

FOLDER = CONTRACTS_FOLDER / "proofkit"
GOLD = read_rows(FOLDER / "examples" / "gold.jsonl").to_dicts()
BY_TASK = {row["task"]: row for row in reversed(GOLD)}
FLAWS = yaml.safe_load((FOLDER / "world" / "shared" / "moves_short.yaml").read_text(encoding="utf-8"))
SLOTS = {"measure": "lost boxes", "share": "35", "count": "413", "low": "137", "span": "two months"}

LIES = """
I did this for a real client. | I worked with real clients on this plan. | Real clients asked for this plan.
A real client commissioned this memo. | This was a real project. | Paid client work for {company}.
This practice plan was written for a client of mine. | I wrote this plan for a client. | I have served paying clients for years.
My clients include three hospitals. | I billed the client for every hour. | The client signed off on the plan.
I have advised clients for years. | The project was commissioned by a hospital. | It was approved by {company} in May.
They hired me after the first week. | I got paid for this. | I received a fee for this plan. | The client paid me for the draft.
I was paid to write this plan. | I was hired to redesign the shelves. | I was promoted to lead after this plan.
I was on the payroll of the hospital. | I am an employee of the hospital. | My employer asked for this plan.
{company} was my employer. | {company} offered me a job. | {company} paid me for it. | {company}, where I worked, lost two boxes.
My two years at {company} taught me to count. | My experience at {company} shows here. | I left {company} last spring.
I spent three years at {company}. | I'm employed at {company}. | I was the {role} at {company}. | We at {company} count every box.
Working at {company} taught me to count. | Having worked at {company}, I know the shelves. | I got the job at {company}.
Improved the stock count at {company} and trained the night team | As a consultant for {company}, I cut the queue.
I was hired by Microsoft. | My time at Deloitte taught me this. | At Amazon I managed three teams. | Google hired me.
I joined Google as an analyst. | Worked at Google for three years. | I did an internship at Pfizer.
Errors fell by half. | Complaints dropped to zero within weeks. | We saved forty hours a month. | Sales rose tenfold.
Revenue went up twenty percent. | Waiting times went down by a third. | The plan was a great success. | This is no exercise.
"""
HONEST = """
I have never been an employee there. | Neither a client nor an employer asked for it. | There was no fee for this plan.
I wrote this without being paid. | The project was never commissioned by a hospital. | I have no real clients and claim none.
Rather than real client work, this is a practice piece. | It stands for no real job and no real client.
It is a rehearsal, not a real job. | What is real is the thinking, not the job. | It is a real problem for the porters.
It is easy to take this for real client work. | I hope to work with real clients one day. | The client desk closes at noon.
As if a real client had asked, I kept it short. | Imagine that a real client paid us for this plan.
{company} has never employed me. | The staff at {company} count every box. | At {company} the barrier sticks.
Nobody should think that I worked at {company}. | A recruiter may ask whether you worked at {company}.
The piece never says that you were hired by {company}. | I would be glad to work for {company} if it existed.
The nurse who was hired in May counts twice. | Whoever is hired next should read it. | The supplier was paid twice.
I was told by the porter that the shelf leans. | I worked on this for two evenings. | I worked for Monday's deadline.
My time on the ward taught me to count. | At noon I led the walk. | I joined the choir as a tenor.
I expect errors to fall by half. | The hope is that errors fall by half. | It could save the company two hours a day.
Nobody has saved two hours yet. | The error count is not yet halved. | I went from two lists to one. | Success is a full shelf.
It is paid by contract, not by the hour. | It was a real job to move the shelf. | Real work at night is slow work.
A customer paid for it twice. | We charged the customers twice. | The call was made by a client at noon.
Work starts at Pier Two at six. | Watch how real customers use the form. | The bill was paid by the client.
The plan is not a success until the shelf is full. | It is an exercise, not a job. | No result was measured.
"""


def each(some: str) -> list[str]:
    return [one.strip() for one in re.split(r"[|\n]", some) if one.strip()]


def problem(task: str, text: str, **columns: str) -> str:
    """What the gate finds in the gold answer to a task with one more sentence, in JSON as one of its fields."""
    row = {**BY_TASK[task], **columns}
    field = {"talking_points": "honesty_note", "review": "reasoning"}.get(task)
    said = text.format(**{**SLOTS, **row})
    target = json.dumps({**json.loads(row["target"]), field: said}) if field else f"{row['target']}\n\n{said}"
    return house_rules.judge(row, target)["no_false_claims"]


def wordings(pattern: str) -> list[str]:
    """Every one of a pattern of the world: [a|b] is one of several."""
    choice = re.search(r"\[([^\[\]]*)\]", pattern)
    if not choice:
        return [pattern]
    before, after = pattern[: choice.start()], pattern[choice.end() :]
    return [one for part in choice[1].split("|") for one in wordings(before + part + after)]


@pytest.mark.parametrize("lie", each(LIES))
@pytest.mark.parametrize("task", ["draft", "talking_points"])
def test_a_lie_is_refused_in_a_text_and_in_a_field(task, lie):
    assert problem(task, lie)


@pytest.mark.parametrize("sentence", each(HONEST))
@pytest.mark.parametrize("task", ["draft", "review", "talking_points"])
def test_an_honest_sentence_that_comes_near_passes(task, sentence):
    assert problem(task, sentence) == ""


@pytest.mark.parametrize("move", ["flaw_overclaim", "flaw_number", "flaw_result"])
def test_every_dishonest_sentence_of_the_world_is_refused(move):
    said = [one for pattern in FLAWS[move]["any"] for one in wordings(pattern)]
    assert len(said) >= 7
    assert not [one for one in said for task in ("draft", "post", "talking_points") if not problem(task, one)]


def test_the_message_names_the_company_and_the_reader():
    company = BY_TASK["draft"]["company"]
    assert problem("draft", "I was hired by {company}.") == f"claims employment: 'I was hired by {company}.'"
    told = problem("talking_points", "Say that you were hired by {company} as a {role}.")
    assert f"you were hired by {BY_TASK['talking_points']['company']} as a {BY_TASK['talking_points']['role']}" in told


def test_what_the_applicant_gave_may_be_repeated_and_nothing_beside_it():
    given = {
        "profile": "A former client adviser, hired to sort shelves at Penrose Bakery; my clients saved two hours a week."
    }
    for text in (
        "My clients liked it.", "I have advised clients before.", "I was hired to sort shelves.", "I worked at Penrose Bakery.",
        "The old ledger saved two hours.",
    ):  # fmt: skip
        assert problem("draft", text) and not problem("draft", text, **given), text
    for text in (
        "Our client paid us for this plan.", "My clients paid me for this plan.", "I was hired to solve this by the company.",
        "I worked at Halden House.", "The new ledger saved three hours.",
    ):  # fmt: skip
        assert problem("draft", text, **given), text


def test_a_review_may_quote_a_false_claim_only_to_blame_it():
    quote = "I was hired by {company} to fix this"
    drafted = {"draft": f"The box leans. {quote.format(**BY_TASK['review'])}. It cut errors in half."}
    for text in (
        f"Cut '{quote}', for nobody was.",
        "'It cut errors in half' is not true.",
        f"False as it stands: '{quote}'",
    ):
        assert problem("review", text) and not problem("review", text, **drafted), text
    for text in (
        f"'{quote}' shows initiative.",
        f"Nobody could doubt it: {quote}.",
        "Cut 'I worked at {company}', a false line.",
    ):
        assert problem("review", text, **drafted), text
