"""A release with real-looking numbers: one that passes, and one with a failed and an unmade check."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

import pytest

from data_contracts.prompting.prompt import load_prompt
from data_contracts.verdict import Verdict, check, report
from tasks.reports.data import Costs, LeaderboardRow, LossPoint, ReleaseData, Sample, Score, StageRecord

HOSTILE = '<script>alert("x")</script> & "quoted" headline'


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _stage(name: str, inputs: list[str], seconds: float, checks: list, **more: object) -> StageRecord:
    given = {one.replace(".", "_"): digest(one) for one in inputs}
    return StageRecord(
        stage=name,
        artifact_digest=digest(name),
        key=digest("key" + name),
        inputs=given,
        seconds=seconds,
        checks=checks,
        **more,
    )


def _score(right: int, n: int = 240) -> Score:
    share = right / n
    return Score(value=share, low=max(0, share - 0.03), high=min(1, share + 0.015), n=n)


def _row(
    model: str,
    json_right: int,
    sign: int,
    hard: int,
    size: int | None,
    bits: float | None,
    speed: float | None,
    verdict,
):
    scores = {
        "valid_json": _score(json_right),
        "sign_right": _score(sign),
        "sign_right_where_metric_disagrees": _score(hard, 96),
    }
    return LeaderboardRow(
        model=model,
        file_digest=digest("file" + model) if size else None,
        size_bytes=size,
        path=f"gguf/signals-nano-{model}.gguf" if model in ("f16", "q8_0", "q4_k_m") else None,
        bits_per_weight=bits,
        tokens_per_s=speed,
        scores=scores,
        verdict=verdict,
    )


def _answer(trace: str, direction: float, magnitude: float, kind: str = "official_action") -> str:
    fields = {
        "relevance": 0.9,
        "direction": direction,
        "magnitude": magnitude,
        "source_credibility": 0.95,
        "information_type": kind,
        "novelty": 0.6,
    }
    return f"<think>\n{trace}\n</think>\n\n{json.dumps(fields)}"


def _stages() -> list[StageRecord]:
    gguf = [
        check("token ids equal on held-out prompts and hard text", 1.0, "==", 1.0, detail="312 of 312 texts"),
        check("mean KL against transformers", 1.53e-7, "<=", 1e-5, unit="nats"),
        check("top-1 agreement", 0.9996, ">=", 0.999),
    ]
    merge = [
        check("largest logit difference in float32, merged against base + adapter", 2.4e-6, "<=", 1e-4),
        check("smallest cosine of a written delta with scale·B·A", 0.99998, ">=", 0.999),
        check("untouched tensors that are not bit-equal", 0, "==", 0, unit="tensors", detail="14 tensors compared"),
        report("share of the update that survives in 16-bit", 0.9931),
    ]
    return [
        _stage(
            "prepare_base",
            [],
            148.2,
            [check("token ids beyond the embeddings", 0, "==", 0)],
            facts={"parameters": 1906560},
        ),
        _stage(
            "build_dataset",
            [],
            3.1,
            [check("held-out rows whose wording is in training", 0, "==", 0, unit="rows")],
            facts={"train_rows": 1600},
        ),
        _stage(
            "validate_dataset",
            ["build_dataset", "prepare_base"],
            2.4,
            [
                check("rows that break the contract", 0, "==", 0, unit="rows", detail="1,840 rows checked"),
                check("trace length alone predicts the label", 0.53, "<=", 0.6, unit="AUC"),
            ],
        ),
        _stage(
            "train_lora",
            ["validate_dataset", "prepare_base"],
            61.7,
            [
                check("held-out loss below base", 0.214, "<", 1.861, unit="nats"),
                check("lora_B tensors that are zero", 0, "==", 0, detail="28 tensors"),
            ],
            rebuilt_because=["config.learning_rate"],
        ),
        _stage("merge_adapter", ["prepare_base", "train_lora"], 1.9, merge),
        _stage("export_gguf.f16", ["merge_adapter"], 4.2, gguf),
        _stage("export_gguf.q8_0", ["export_gguf.f16"], 2.2, gguf[1:]),
        _stage(
            "export_gguf.q4_k_m",
            ["export_gguf.f16"],
            2.3,
            [report("bits per weight", 6.21), report("share of fallback tensors", 0.62)],
        ),
        _stage(
            "evaluate_model",
            [
                "prepare_base",
                "train_lora",
                "merge_adapter",
                "export_gguf.f16",
                "export_gguf.q8_0",
                "export_gguf.q4_k_m",
                "build_dataset",
            ],
            44.8,
            [
                check("tuned: sign right where the metric disagrees", 0.979, ">=", 0.9),
                check("base: sign right where the metric disagrees", 0.031, "<=", 0.2),
            ],
        ),
    ]


def sample_release(**changes: object) -> ReleaseData:
    """A release with real-looking numbers, which passes."""
    tuned = _answer("A higher rate is up. NO needs a cut: down. Opposite, so YES is less likely.", -0.8, 0.35)
    base = _answer("Rates went up. Up is positive.", 0.8, 0.35)
    rows = [
        ("Fed raises rates by 50 basis points in surprise move", "Will mortgage rates fall below 6% this year?"),
        ("Unemployment falls to 3.4%, lowest since 1969", "Will the Fed cut rates in March?"),
        (HOSTILE, "Will it be inert?"),
    ]
    fields: dict = {
        "name": "signals-nano",
        "recipe": "signals",
        "verdict": Verdict.PASS,
        "stages": _stages(),
        "leaderboard": [
            _row("base", 238, 131, 3, 3_813_120, 16.0, 2410.4, None),
            _row("adapter", 240, 236, 94, 1_204_480, None, 2288.0, None),
            _row("merged", 240, 236, 94, 3_813_344, 16.0, 2402.9, Verdict.PASS),
            _row("f16", 240, 236, 94, 3_902_112, 16.02, 5210.7, Verdict.PASS),
            _row("q8_0", 240, 236, 94, 2_104_992, 8.5, 6034.1, Verdict.PASS),
            _row("q4_k_m", 239, 233, 92, 1_610_016, 6.21, 6120.0, Verdict.PASS),
            _row("ceiling", 240, 240, 96, None, None, None, None),
        ],
        "loss_curve": [
            LossPoint(
                step=s,
                train_loss=1.9 * 0.965**s + 0.16 + 0.05 * ((s * 7) % 5) / 5,
                heldout_loss=1.7 * 0.97**s + 0.2 if s % 20 == 0 else None,
            )
            for s in range(0, 101, 2)
        ],
        "samples": [
            Sample(
                row={"headline": headline, "question": question},
                prompt=f"Headline: {headline}\nQuestion: {question}",
                expected=tuned,
                answers={
                    "base": base,
                    "merged": tuned,
                    "f16": tuned,
                    "q8_0": tuned,
                    "q4_k_m": _answer("Opposite.", -0.8, 0.3),
                },
                correct={"base": False, "merged": True, "f16": True, "q8_0": True, "q4_k_m": None},
            )
            for headline, question in rows
        ],
        "not_proven": [
            "Headlines in languages other than English were never shown to it.",
            "No human has judged the thinking traces.",
        ],
        "prompt": load_prompt("signals"),
        "config": {
            "recipe": "signals",
            "card": {
                "license": "apache-2.0",
                "language": ["en"],
                "tags": ["prediction-markets"],
                "base_model": "plumbline/nano",
            },
            "train": {"rank": 16, "learning_rate": 0.001, "epochs": 10},
        },
        "costs": Costs(
            seconds=274.3, train_tokens=1_204_133, generated_tokens=402_118, peak_memory_bytes=1_912_602_624, price=0.0
        ),
    }
    return ReleaseData(**(fields | changes))


def failing_release() -> ReleaseData:
    """The same release with one check failed and one that could not be made."""
    stages = _stages()
    failed = check("q8_0 mean KL", 0.0041, "<=", 0.001, unit="nats", detail="worst: row 17", fix="convert it again")
    unknown = check("judge agreement", None, ">=", 0.8, detail="31 of 240 answers could not be parsed")
    stages[6] = stages[6].model_copy(update={"checks": [failed]})
    stages[8] = stages[8].model_copy(update={"checks": [unknown]})
    board = sample_release().leaderboard
    board[5] = board[5].model_copy(
        update={"scores": {"sign_right": Score(value=None, n=3)}, "verdict": Verdict.CANNOT_TELL}
    )
    return sample_release(stages=stages, leaderboard=board, verdict=Verdict.FAIL)


@pytest.fixture(name="sample_release")
def _sample_release() -> Callable[..., ReleaseData]:
    return sample_release


@pytest.fixture(name="failing_release")
def _failing_release() -> Callable[[], ReleaseData]:
    return failing_release


@pytest.fixture
def stages() -> list[StageRecord]:
    return _stages()


@pytest.fixture
def hostile() -> str:
    return HOSTILE
