"""One merge in a process of its own, so that its time and peak memory can be told: make | plumbline | peft."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

_BASE_DIGEST = "0" * 64


def make(folder: Path) -> None:
    """A random bfloat16 model of Qwen3-0.6B's shape, and a random adapter of rank 16 on all linear layers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16}
    config = Qwen3Config(vocab_size=151_936, num_key_value_heads=8, head_dim=128, tie_word_embeddings=True, **shape)
    torch.set_default_dtype(torch.bfloat16)
    model = Qwen3ForCausalLM(config)
    model.save_pretrained(folder / "base")
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", init_lora_weights=False))
    model.save_pretrained(folder / "adapter")
    (folder / "adapter" / "lineage.json").write_text(
        json.dumps({"base_digest": _BASE_DIGEST, "prompt_contract": "p" * 64}), "utf-8"
    )


def plumbline(folder: Path) -> None:
    """What the stage does."""
    from tasks.core.stage import Job
    from tasks.merge_adapter import MergeConfig, merge_adapter

    with tempfile.TemporaryDirectory(dir=folder) as out:
        inputs = {"base": folder / "base", "adapter": folder / "adapter"}
        job = Job("signals", Path(out), inputs, digests={"base": _BASE_DIGEST})
        print(merge_adapter(MergeConfig(), job), file=sys.stderr)


def peft(folder: Path) -> None:
    """What its manual says."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.bfloat16)
    model = PeftModel.from_pretrained(base, str(folder / "adapter")).merge_and_unload()
    with tempfile.TemporaryDirectory(dir=folder) as out:
        model.save_pretrained(out)


if __name__ == "__main__":
    {"make": make, "plumbline": plumbline, "peft": peft}[sys.argv[1]](Path(sys.argv[2]))
