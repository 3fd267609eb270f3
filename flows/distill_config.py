"""The configuration of a distillation: the teacher, the student that is made twice, and the stages around them."""

from __future__ import annotations

from typing import Literal

from flows.config import (
    ReleasingConfig,
    experts_problems,
    hardware_problems,
    limits_problems,
    release_problems,
    training_problems,
)
from tasks.build_dataset import DatasetConfig
from tasks.core.stage import Settings
from tasks.distill_rows import DistillConfig as DistillRowsConfig
from tasks.evaluate_model import EvaluateConfig
from tasks.export_gguf import ExportConfig
from tasks.generate_teacher import GenerateConfig
from tasks.judge_answers import JudgeConfig
from tasks.merge_adapter import MergeConfig
from tasks.prepare_base import BaseConfig
from tasks.train_lora import TrainConfig
from tasks.validate_dataset import ValidateConfig


class TeacherConfig(Settings):
    """The model that is fine-tuned first, and whose answers the student learns from."""

    hardware: str | None = None
    """Card that its training is meant for, an entry of configs/hardware.yaml: refused beforehand when it is too small."""
    base: BaseConfig
    validate_rows: ValidateConfig = ValidateConfig()
    train: TrainConfig = TrainConfig()
    merge: MergeConfig = MergeConfig()


class StudentConfig(Settings):
    """The small model, made twice from one base: from the built rows directly, and from the teacher's answers."""

    hardware: str | None = None
    """As the teacher's."""
    base: BaseConfig
    validate_rows: ValidateConfig = ValidateConfig()
    direct: TrainConfig = TrainConfig()
    """Training on the built rows."""
    distilled: TrainConfig = TrainConfig()
    """Training on the teacher's answers."""
    merge: MergeConfig = MergeConfig()
    export: ExportConfig = ExportConfig()


class DistillConfig(ReleasingConfig):
    """Everything about one distillation."""

    flow: Literal["distill"] = "distill"
    """Which flow the file is for."""
    dataset: DatasetConfig = DatasetConfig()
    teacher: TeacherConfig
    generate: GenerateConfig = GenerateConfig()
    distill: DistillRowsConfig = DistillRowsConfig()
    student: StudentConfig
    evaluate: EvaluateConfig = EvaluateConfig()
    judge: JudgeConfig = JudgeConfig()
    released: Literal["best", "direct", "distilled"] = "best"
    """Which student is released. best: of those whose gates pass the one with the higher score on the board, which is the
    panel's, or the share of gates passed where no panel can tell; the direct one when both have the same."""

    def problems(self) -> list[str]:
        """All that is wrong before anything runs, each with its field."""
        teacher, student = self.teacher, self.student
        blocks = {
            "teacher.train": (teacher.train, teacher),
            "student.direct": (student.direct, student),
            "student.distilled": (student.distilled, student),
        }
        return [
            *super().problems(),
            *limits_problems(self.recipe, "teacher.validate_rows.limits", teacher.validate_rows.limits),
            *limits_problems(self.recipe, "distill.limits", self.distill.limits),
            *limits_problems(self.recipe, "student.validate_rows.limits", student.validate_rows.limits),
            *hardware_problems("teacher.hardware", teacher.hardware),
            *hardware_problems("student.hardware", student.hardware),
            *(one for name, (train, of) in blocks.items() for one in training_problems(name, train, of.validate_rows)),
            *(one for name, (train, of) in blocks.items() for one in experts_problems(name, of.base, train)),
            *(f"  generate: {one}." for one in self.generate.problems(handed_over=True)),
            *self._other_words(),
            *release_problems(self.publish, student.export),
        ]

    def _other_words(self) -> list[str]:
        """A teacher that is asked in other words than it was trained on."""
        sets = {"generate": self.generate.prompt_set, "distill": self.distill.prompt_set}
        return [
            f"  {name}.prompt_set: found {one!r}. The teacher of this flow was trained on the set trained: leave it out."
            for name, one in sets.items()
            if one != "trained"
        ]
