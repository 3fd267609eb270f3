"""The training loop: TRL's SFTTrainer on ready token ids, with or without Unsloth, an adapter or every weight, resumable to
the last bit."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from data_contracts.verdict import Verdict
from tasks.core.errors import ArtifactError, ConfigError
from tasks.core.progress import UNIT
from tasks.core.stage import Job
from tasks.formats.jsonl import write_json, write_lines
from tasks.formats.lora_file import EXPERTS_IN_OUT, EXPERTS_OUT_IN, OUT_IN
from tasks.formats.safetensors_file import TensorEntry, read_entries, torch_dtype
from tasks.formats.token_rows import TokenRow, read_token_rows
from tasks.runtimes.loading import loading_beats
from tasks.runtimes.nf4 import load_nf4
from tasks.training import batches as train_batches
from tasks.training import checkpoints, full_weights
from tasks.training import memory as training_memory
from tasks.training.targets import refuse_unmatched_targets

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedModel
    from trl import SFTTrainer

    from tasks.training.config import TrainConfig


def train(config: TrainConfig, job: Job) -> dict:
    """Train and save; returns steps asked and run, where it resumed, what was refused, and what the collator made.

    `training_s` of it: seconds of all steps, at the pace of those that ran now where it resumed.

    Raises:
        ConfigError: Unsloth is asked for and not installed; a target is not in the base; the card's memory is too small.
        ArtifactError: rows in a pack see one another; live weights after a resume are not those of the checkpoint.
    """
    if config.engine == "unsloth":
        _import_unsloth()  # it patches transformers, so it must come first
    from transformers import set_seed

    set_seed(config.seed)
    if config.method == "lora":
        refuse_unmatched_targets(job.inputs["base"], config.target_modules, config.target_parameters)
    rows = read_token_rows(job.inputs["rows"] / "train.parquet")
    about = json.loads((job.inputs["base"] / "config.json").read_text("utf-8"))
    memory = training_memory.fit_on_this_machine(about, config, max(len(ids) for ids, _ in rows))
    found = checkpoints.find(job.work / "checkpoints", job.key)
    for refusal in found.refused:
        print(f"train_lora: refused {refusal}", flush=True)
    dataset = train_batches.dataset_of(rows, config.completion_only_loss)
    with loading_beats(job.beat, "the base to train"):
        model = _model(config, job, rows)
    trainer = _trainer(config, job, model, dataset)
    collated = train_batches.count_collated(trainer, rows, config.completion_only_loss)
    packs = _refuse_leaking_packs(trainer, config) if config.packing_tokens else None
    trained = trainer.train(resume_from_checkpoint=str(found.resume_from) if found.resume_from else None)
    _save(config, trainer, job)
    steps_now = trainer.state.global_step - found.step
    return {
        "engine": config.engine,
        "method": config.method,
        "steps_asked": math.ceil(_steps_per_epoch(config, len(trainer.train_dataset)) * config.epochs),
        "steps_run": trainer.state.global_step,
        "steps_run_now": steps_now,
        "training_s": round(trained.metrics["train_runtime"] * trainer.state.global_step / max(steps_now, 1), 3),
        "resumed_from_step": found.step,
        "refused_checkpoints": found.refused,
        "sequences": len(trainer.train_dataset),
        **collated,
        "packs": packs,
        "memory": {**memory, "peak_gib": training_memory.peak_gib()},
        "wrapped_parameters": _wrapped_parameters(trainer.model),
    }


def _refuse_leaking_packs(trainer: SFTTrainer, config: TrainConfig) -> dict:
    """Before the first step: what packing mixes up, no later check could take apart."""
    found = train_batches.check_packs(trainer, config)
    if found.verdict is not Verdict.PASS:
        raise ArtifactError(f"train_lora: rows must not be packed here. {found.sentence()}")
    return found.model_dump(mode="json")


def _import_unsloth() -> None:
    try:
        import unsloth  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"train_lora: train.engine is unsloth, which cannot be imported ({error}). "
            "Install deployments/stacks/unsloth.txt, or set train.engine to trl."
        ) from None


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
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=config.gradient_checkpointing)
    else:
        held = torch.float32 if config.method == "full" else dtype
        model = AutoModelForCausalLM.from_pretrained(base, dtype=held, use_safetensors=True, trust_remote_code=False)
    if config.method == "full":
        return model
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=config.target_modules,
        target_parameters=list(config.target_parameters) or None,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, lora)


def _steps_per_epoch(config: TrainConfig, sequences: int) -> int:
    """Optimizer steps of one pass; a sequence is a row, or a pack of rows."""
    return math.ceil(math.ceil(sequences / config.batch_rows) / config.gradient_accumulation_steps)


def _trainer(config: TrainConfig, job: Job, model: PreTrainedModel, dataset: Dataset) -> SFTTrainer:
    import torch
    from trl import SFTConfig, SFTTrainer

    from tasks.runtimes.hf_model import load_tokenizer

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
        max_length=config.packing_tokens,  # None: rows were measured by validate_dataset, nothing is cut here
        packing=config.packing_tokens is not None,
        packing_strategy="bfd",  # the only one that cuts no row and keeps their boundaries
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
                job.beat(state.global_step, state.max_steps, {UNIT: "steps", "loss": round(logs["loss"], 4)})

        def on_save(self, args, state, control, **_):
            checkpoints.mark(Path(args.output_dir) / f"checkpoint-{state.global_step}", job.key, state.global_step)

    return Watch()


def _prove_resume(model: PreTrainedModel, folder: Path) -> None:
    """Compare the live weights with the checkpoint's file: a resume that loads nothing looks like a fresh run (class 18)."""
    import torch

    saved, live = _saved_and_live(model, folder)
    different = [
        n for n, entry in saved.items() if n not in live or not torch.equal(_as_saved(live[n], entry), entry.read())
    ]
    if different or len(saved) != len(live):
        raise ArtifactError(
            f"train_lora: resuming from {folder.name} did not take: {len(different)} of {len(saved)} tensors differ from the "
            f"file (e.g. {different[:1]}). Delete the checkpoint folder to train from the start."
        )


def _saved_and_live(model: PreTrainedModel, folder: Path) -> tuple[dict[str, TensorEntry], dict[str, torch.Tensor]]:
    """What the checkpoint holds and what the model does, under the same names: of an adapter its factors, else everything."""
    saved = {n: entry for path in folder.glob("*.safetensors") for n, entry in read_entries(path).items()}
    live = dict(model.named_parameters())  # tied weights are one parameter, and one entry
    if (folder / "adapter_model.safetensors").is_file():
        live = {name.replace(".default.", "."): p for name, p in live.items() if "lora_" in name}
    return saved, live


def _as_saved(tensor: torch.Tensor, entry: TensorEntry) -> torch.Tensor:
    return tensor.detach().cpu().to(torch_dtype(entry.dtype))


def _wrapped_parameters(model: PreTrainedModel) -> dict[str, dict]:
    """Key of an adapter's factors -> the parameter that they move: only the live model knows (adapter_file.py)."""
    found = {}
    for name, module in model.named_modules():
        if hasattr(module, "parameter_name") and hasattr(module, "lora_A"):
            key = name.removeprefix("base_model.model.")
            owner = key.replace(".base_layer", "")
            layout = EXPERTS_OUT_IN if module._did_swap_in_out_features else EXPERTS_IN_OUT
            found[key] = {
                "name": f"{owner}.{module.parameter_name}",
                "experts": module.num_experts,
                "layout": layout if module._param_ndim == 3 else OUT_IN,
            }
    return found


def _save(config: TrainConfig, trainer: SFTTrainer, job: Job) -> None:
    """Weights and loss curve; nothing that differs between machines or between a resumed and an unbroken run."""
    if config.method == "full":
        full_weights.save_whole(trainer.model, job.inputs["base"], job.out)
    else:
        _save_adapter(trainer, job)
    points = [{"step": p["step"], "train_loss": p["loss"]} for p in trainer.state.log_history if "loss" in p]
    write_lines(job.out / "training_log.jsonl", points)


def _save_adapter(trainer: SFTTrainer, job: Job) -> None:
    trainer.model.save_pretrained(job.out, safe_serialization=True)
    for path in job.out.glob("README.md"):
        path.unlink()
    path = job.out / "adapter_config.json"
    config = json.loads(path.read_text("utf-8"))
    config["base_model_name_or_path"] = f"base-model {job.digests['base'][:16]}"
    for name in ("target_modules", "target_parameters"):
        if isinstance(config.get(name), list):
            config[name].sort()  # a set in PEFT: its order changes with every process
    config["inference_mode"] = True
    write_json(path, config, sort_keys=True)
