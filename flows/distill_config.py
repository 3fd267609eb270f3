"""The configuration of a distillation: the teacher, the student that is made twice, and the stages around them."""

from __future__ import annotations

import os
from typing import Literal

from pydantic import Field

from flows.config import (
    ReleasingConfig,
    experts_problems,
    hardware_problems,
    limits_problems,
    release_problems,
    training_problems,
)
from flows.preflight import dataset_problems
from flows.setting_names import in_blocks, setting_names
from tasks.build_dataset import DatasetConfig
from tasks.core.settings import Settings
from tasks.distill_rows import DistillConfig as DistillRowsConfig
from tasks.evaluate_model import EvaluateConfig
from tasks.export_gguf import ExportConfig
from tasks.generate_teacher import GenerateConfig
from tasks.judge_answers import JudgeConfig
from tasks.merge_adapter import MergeConfig
from tasks.prepare_base import BaseConfig
from tasks.training.config import TrainConfig
from tasks.validate_dataset import ValidateConfig


class TunedConfig(Settings):
    """A model that is fine-tuned here: where, from what, on which rows, and how it is merged."""

    hardware: str | None = None
    """Card that its training is meant for, an entry of configs/hardware.yaml: refused beforehand when it is too small."""
    base: BaseConfig
    validate_rows: ValidateConfig = ValidateConfig()
    merge: MergeConfig = MergeConfig()


class TeacherConfig(TunedConfig):
    """The model that is fine-tuned first, and whose answers the student learns from."""

    train: TrainConfig = TrainConfig()


class StudentConfig(TunedConfig):
    """The small model, made twice from one base: from the built rows directly, and from the teacher's answers."""

    direct: TrainConfig = TrainConfig()
    """Training on the built rows."""
    distilled: TrainConfig = TrainConfig()
    """Training on the teacher's answers."""
    export: ExportConfig = ExportConfig()


class DistillConfig(ReleasingConfig):
    """Everything about one distillation."""

    flow: Literal["distill"] = "distill"
    """Which flow the file is for."""
    dataset: DatasetConfig = DatasetConfig()
    teacher: TeacherConfig | None = Field(default=None, title="Teacher")
    """Left out where the teacher is not trained here: `generate` then names a server, a folder or a GGUF file, and nothing
    holds the students beside it."""
    generate: GenerateConfig = GenerateConfig()
    distill: DistillRowsConfig = DistillRowsConfig()
    student: StudentConfig
    evaluate: EvaluateConfig = EvaluateConfig()
    judge: JudgeConfig = JudgeConfig()
    released: Literal["best", "direct", "distilled"] = "best"
    """Which student is released. best: the one that passes its gates; if both do, the one that every judge puts above the
    other; if they do not agree, the one that is better by the gates of each row beyond the noise; else the direct one."""

    @property
    def blocks(self) -> list[tuple[str, TunedConfig, TrainConfig]]:
        """Every training: field, the block that it stands in, its settings."""
        teacher: list[tuple[str, TunedConfig, TrainConfig]]
        teacher = [("teacher.train", self.teacher, self.teacher.train)] if self.teacher else []
        students: list[tuple[str, TunedConfig, TrainConfig]]
        students = [(f"student.{name}", self.student, getattr(self.student, name)) for name in ("direct", "distilled")]
        return teacher + students

    def named(self, part: str, message: str) -> str:
        """A stage's message with its settings under the names that they have here: `train.epochs` of the teacher is
        `teacher.train.epochs`, that of the direct student `student.direct.epochs`."""
        block = "teacher" if part == "teacher" else "student"
        blocks = {name: f"{block}.{name}" for name in ("base", "validate_rows", "train", "merge", "export")}
        if part in ("direct", "distilled"):
            blocks["train"] = f"student.{part}"
        return in_blocks(message, blocks, setting_names(DistillConfig))

    @property
    def validations(self) -> dict[str, ValidateConfig]:
        """Part of the run -> how it validates the built rows."""
        teacher = {"teacher": self.teacher.validate_rows} if self.teacher else {}
        return teacher | {"direct": self.student.validate_rows}

    def problems(self) -> list[str]:
        """All that is wrong before anything runs, each with its field."""
        trained = {"teacher": self.teacher} if self.teacher else {}
        found = [*super().problems(), *limits_problems(self.recipe, "distill.limits", self.distill.limits)]
        limits = {f"{name}.validate_rows.limits": b.validate_rows.limits for name, b in trained.items()}
        limits |= {
            "student.validate_rows.limits": self.student.validate_rows.limits,
            "distill.limits": self.distill.limits,
        }
        found += dataset_problems(self.recipe, self.dataset, limits, ("trained", self.generate.prompt_set))
        for name, block in {**trained, "student": self.student}.items():
            found += limits_problems(self.recipe, f"{name}.validate_rows.limits", block.validate_rows.limits)
            found += hardware_problems(f"{name}.hardware", block.hardware)
            found += [f"  {name}.merge: {problem}." for problem in block.merge.problems()]
        for field, block, train in self.blocks:
            found += training_problems(field, train, block.validate_rows)
            found += experts_problems(field, block.base, train)
        found += [f"  generate: {one}." for one in self.generate.problems(handed_over=self.teacher is not None)]
        return [
            *found,
            *self._words_problems(),
            *self._judge_problems(),
            *(self.named("", line) for line in release_problems(self.publish, self.student.export)),
        ]

    def _words_problems(self) -> list[str]:
        """A teacher that is asked in other words than it was trained on, or read as if asked in others."""
        asked, read = self.generate.prompt_set, self.distill.prompt_set
        found = []
        if self.teacher and asked != "trained":
            found.append(f"  generate.prompt_set: found {asked!r}. The teacher of this run is trained on 'trained'.")
        if asked != read:
            found.append(
                f"  distill.prompt_set: found {read!r}, and generate.prompt_set is {asked!r}. Make them the same."
            )
        return found

    def _judge_problems(self) -> list[str]:
        """Keys that the panel needs and the environment lacks; models that no evaluation of this run will hold."""
        keys = [one.api_key_env for one in self.judge.judges if one.base_url and one.api_key_env]
        found = [
            f"  judge: {name} is not in the environment. Export the judge's key."
            for name in keys
            if not os.environ.get(name)
        ]
        made = {"ceiling", "teacher", "base", "adapter", "merged", *self.student.export.names}
        for field, names in (("models", self.judge.models), ("families", self.judge.families)):
            if strange := [one for one in names if one.rpartition("/")[2] not in made]:
                found.append(
                    f"  judge.{field}: no model is called {', '.join(strange)}. Known: {', '.join(sorted(made))}."
                )
        if self.judge.models and self.publish.serve_quantization not in {
            one.rpartition("/")[2] for one in self.judge.models
        }:
            found.append(
                f"  judge.models: {self.publish.serve_quantization} is missing, the file that is served. Add it."
            )
        return found
