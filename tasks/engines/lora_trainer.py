"""The LoRA training loop: TRL's SFTTrainer on ready token ids, with or without Unsloth, resumable to the last bit."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.errors import ArtifactError, ConfigError
from tasks.core.stage import Job
from tasks.engines import checkpoints
from tasks.engines.qlora_bases import load_nf4
from tasks.engines.token_rows import TokenRow, read_token_rows

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel
    from trl import SFTTrainer

    from tasks.train_lora import TrainConfig

_COLLATED_ROWS = 64
"""Rows of real batches whose labels are compared with the answers before training."""


def train(config: TrainConfig, job: Job) -> dict:
    """Train and save; returns steps asked and run, where it resumed, what was refused, and what the collator made.

    Raises:
        ConfigError: Unsloth is asked for and not installed.
        ArtifactError: live weights after a resume are not those of the checkpoint.
    """
    if config.engine == "unsloth":
        _import_unsloth()  # it patches transformers, so it must come first
    from transformers import set_seed

    set_seed(config.seed)
    rows = read_token_rows(job.inputs["rows"] / "train.parquet")
    found = checkpoints.find(job.work / "checkpoints", job.key)
    for refusal in found.refused:
        print(f"train_lora: refused {refusal}", flush=True)
    trainer = _trainer(config, job, _model(config, job, rows), _dataset(rows))
    collated, right = _compare_labels(trainer, rows)
    trainer.train(resume_from_checkpoint=str(found.resume_from) if found.resume_from else None)
    _save(trainer, job)
    return {
        "engine": config.engine,
        "steps_asked": math.ceil(_steps_per_epoch(config, len(rows)) * config.epochs),
        "steps_run": trainer.state.global_step,
        "steps_run_now": trainer.state.global_step - found.step,
        "resumed_from_step": found.step,
        "refused_checkpoints": found.refused,
        "collated_rows": collated,
        "collated_rows_right": right,
        "train_tokens": sum(len(ids) for ids, _ in rows),
    }


def _import_unsloth() -> None:
    try:
        import unsloth  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"train_lora: train.engine is unsloth, which cannot be imported ({error}). "
            "Install deployments/stacks/unsloth.txt, or set train.engine to trl."
        ) from None


def _dataset(rows: list[TokenRow]) -> Dataset:
    from datasets import Dataset

    labels = [[-100] * start + ids[start:] for ids, start in rows]
    return Dataset.from_dict({"input_ids": [ids for ids, _ in rows], "labels": labels})


def _model(config: TrainConfig, job: Job, rows: list[TokenRow]) -> PreTrainedModel:
    import torch

    base = job.inputs["base"]
    dtype = getattr(torch, config.compute_dtype)
    if config.engine == "unsloth":
        from unsloth import FastLanguageModel

        model, _ = FastLanguageModel.from_pretrained(
            str(base),
            max_seq_length=max(len(ids) for ids, _ in rows),
            dtype=dtype,
            load_in_4bit=config.base_precision == "nf4",
            trust_remote_code=False,
        )
        return FastLanguageModel.get_peft_model(
            model,
            r=config.rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules=config.target_modules,
            use_gradient_checkpointing="unsloth" if config.gradient_checkpointing else False,
            random_state=config.seed,
        )
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM

    if config.base_precision == "nf4":
        model = load_nf4(base, config.compute_dtype)
    else:
        model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, use_safetensors=True, trust_remote_code=False)
    if config.base_precision == "nf4":
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=config.gradient_checkpointing)
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=config.target_modules,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, lora)


def _steps_per_epoch(config: TrainConfig, rows: int) -> int:
    return math.ceil(math.ceil(rows / config.batch_rows) / config.gradient_accumulation_steps)


def _trainer(config: TrainConfig, job: Job, model: PreTrainedModel, dataset: Dataset) -> SFTTrainer:
    import torch
    from trl import SFTConfig, SFTTrainer

    from tasks.engines.hf_engine import load_tokenizer

    cuda = torch.cuda.is_available()
    arguments = SFTConfig(
        output_dir=str(job.work / "checkpoints"),
        per_device_train_batch_size=config.batch_rows,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        gradient_checkpointing=config.gradient_checkpointing,
        num_train_epochs=config.epochs,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.schedule,
        warmup_steps=config.warmup_fraction,
        optim="adamw_torch",
        logging_steps=1,
        save_strategy="steps",
        save_steps=config.checkpoint_every_steps,
        save_total_limit=2,
        seed=config.seed,
        data_seed=config.seed,
        max_length=None,  # rows were measured by validate_dataset: nothing is cut here
        packing=False,
        bf16=cuda and config.compute_dtype == "bfloat16",
        fp16=cuda and config.compute_dtype == "float16",
        use_cpu=not cuda,
        dataloader_pin_memory=cuda,
        disable_tqdm=True,
        report_to=[],
    )
    return SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        processing_class=load_tokenizer(job.inputs["base"]),
        callbacks=[_callbacks(job)],
    )


def _callbacks(job: Job):
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        """Shows progress, marks checkpoints whole, and proves that a resume took."""

        def on_train_begin(self, args, state, control, model=None, **_):
            if state.global_step:
                _prove_resume(model, Path(args.output_dir) / f"checkpoint-{state.global_step}")

        def on_log(self, args, state, control, logs=None, **_):
            if logs and "loss" in logs:
                job.beat(state.global_step, state.max_steps, {"loss": round(logs["loss"], 4)})

        def on_save(self, args, state, control, **_):
            checkpoints.mark(Path(args.output_dir) / f"checkpoint-{state.global_step}", job.key, state.global_step)

    return Watch()


def _prove_resume(model: PreTrainedModel, folder: Path) -> None:
    """Compare the live adapter with the checkpoint's file: a resume that loads nothing looks like a fresh run (class 18)."""
    import torch
    from safetensors.torch import load_file

    saved = load_file(folder / "adapter_model.safetensors")
    live = {name.replace(".default.", "."): p.detach().cpu() for name, p in model.named_parameters() if "lora_" in name}
    different = [n for n, tensor in saved.items() if n not in live or not torch.equal(live[n].to(tensor.dtype), tensor)]
    if different or len(saved) != len(live):
        raise ArtifactError(
            f"train_lora: resuming from {folder.name} did not take: {len(different)} of {len(saved)} tensors differ from the "
            f"file (e.g. {different[:1]}). Delete the checkpoint folder to train from the start."
        )


def _compare_labels(trainer: SFTTrainer, rows: list[TokenRow]) -> tuple[int, int]:
    """(rows of real batches, those whose labels are exactly one row's answer with its end token)."""
    import torch

    answers = {tuple(ids[start:]) for ids, start in rows}
    state = torch.random.get_rng_state()
    collator, dataset = trainer.data_collator, trainer.train_dataset
    count = min(len(dataset), _COLLATED_ROWS)
    batch = collator([dataset[i] for i in range(count)])
    right = sum(tuple(row[row != -100].tolist()) in answers for row in batch["labels"])
    torch.random.set_rng_state(state)
    return count, right


def _save(trainer: SFTTrainer, job: Job) -> None:
    """Adapter and loss curve; nothing that differs between machines or between a resumed and an unbroken run."""
    trainer.model.save_pretrained(job.out, safe_serialization=True)
    for path in job.out.glob("README.md"):
        path.unlink()
    path = job.out / "adapter_config.json"
    config = json.loads(path.read_text("utf-8"))
    config["base_model_name_or_path"] = f"base-model {job.digests['base'][:16]}"
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()  # a set in PEFT: its order changes with every process
    config["inference_mode"] = True
    path.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", "utf-8")
    points = [{"step": p["step"], "train_loss": p["loss"]} for p in trainer.state.log_history if "loss" in p]
    (job.out / "training_log.jsonl").write_text("".join(json.dumps(p) + "\n" for p in points), "utf-8")
