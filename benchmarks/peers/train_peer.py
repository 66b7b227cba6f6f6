"""One training of a peer for ``benchmarks/train_cpu.py``: LitGPT's or Hugging Face's own model and step, timed by step.

    PYTHON benchmarks/peers/train_peer.py {litgpt|hf} FOLDER OUT --micro 4 --precision bf16-mixed --compile

``PYTHON`` is that of an environment with the peer. ``FOLDER`` holds ``rows.npz`` (tokens of each step), ``start/`` (the
weights to start from, in the Hugging Face layout) and ``recipe.json``. Writes a JSON object to ``OUT.json`` and, with
``--save``, the trained weights in the Hugging Face layout to ``OUT/``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch


class Rows(torch.utils.data.Dataset):
    """The rows of a training in order: one item a row, labels shifted by whoever reads them."""

    def __init__(self, tokens: np.ndarray) -> None:
        self.tokens = tokens.reshape(-1, tokens.shape[-1])

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, at: int) -> dict[str, torch.Tensor]:
        row = torch.from_numpy(self.tokens[at].astype(np.int64))
        return {"input_ids": row, "labels": row}


def run_litgpt(folder: Path, recipe: dict[str, Any], tokens: np.ndarray, options: argparse.Namespace) -> dict[str, Any]:
    """LitGPT's model and chunked loss under Fabric, accumulation and clipping as in its pretraining."""
    import lightning as fabric_of
    from litgpt.config import Config
    from litgpt.model import GPT
    from litgpt.scripts.convert_hf_checkpoint import copy_weights_hf_llama
    from litgpt.scripts.convert_lit_checkpoint import copy_weights_llama
    from litgpt.utils import chunked_cross_entropy
    from safetensors.torch import load_file, save_file

    shape = recipe["shape"]
    config = Config(
        name="bench",
        block_size=shape["context"],
        vocab_size=shape["vocab_size"],
        padded_vocab_size=shape["vocab_size"],
        n_layer=shape["layers"],
        n_head=shape["heads"],
        n_query_groups=shape["kv_heads"],
        n_embd=shape["hidden_size"],
        head_size=shape["head_dim"],
        intermediate_size=shape["intermediate_size"],
        norm_class_name="RMSNorm",
        norm_eps=shape["rms_eps"],
        mlp_class_name="LLaMAMLP",
        parallel_residual=False,
        bias=False,
        rotary_percentage=1.0,
        rope_base=int(shape["rope_base"]),
    )
    model = GPT(config)
    lit: dict[str, torch.Tensor] = {}
    copy_weights_hf_llama(config, {}, lit, load_file(folder / "start" / "model.safetensors"))
    model.load_state_dict(lit)
    model.max_seq_length = recipe["length"]
    fabric = fabric_of.Fabric(accelerator="cpu", devices=1, precision=options.precision)
    plain = model
    if options.compile:
        model = torch.compile(model)
    model = fabric.setup(model)
    optimizer = fabric.setup_optimizers(
        torch.optim.AdamW(
            groups(plain.named_parameters(), ("wte", "lm_head"), recipe),
            lr=recipe["lr"],
            betas=tuple(recipe["betas"]),
            eps=recipe["eps"],
            fused=True,
        )
    )
    times, losses = [], []
    parts = tokens.shape[1] // options.micro
    for step in range(options.steps):
        started = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = recipe["lr"] * recipe["factors"][step]
        total = 0.0
        for part in np.split(tokens[step], parts):
            ids = torch.from_numpy(part.astype(np.int64))
            logits = model(ids[:, :-1].contiguous())
            loss = chunked_cross_entropy(logits, ids[:, 1:].contiguous(), chunk_size=options.chunk)
            fabric.backward(loss / parts)
            total += float(loss.detach()) / parts
        fabric.clip_gradients(model, optimizer, max_norm=recipe["clip"])
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - started)
        losses.append(total)
    if options.save:
        hf: dict[str, torch.Tensor] = {}
        copy_weights_llama(config, hf, {k: v.float() for k, v in plain.state_dict().items()})
        shutil.copytree(folder / "start", options.out, dirs_exist_ok=True)
        save_file({k: v.contiguous() for k, v in hf.items()}, options.out / "model.safetensors", {"format": "pt"})
    return {"step_seconds": times, "loss": losses}


def run_hf(folder: Path, recipe: dict[str, Any], tokens: np.ndarray, options: argparse.Namespace) -> dict[str, Any]:
    """The Hugging Face Trainer on its Llama, with a sampler that keeps the order."""
    from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

    dtype = torch.bfloat16 if options.precision == "bf16-true" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(folder / "start", dtype=dtype, attn_implementation="sdpa")
    model.config.use_cache = False
    stamps: list[float] = []
    losses: list[float] = []

    class Watch(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            stamps.append(time.perf_counter())

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
            if logs and "loss" in logs:
                losses.append(float(logs["loss"]))

    class InOrder(Trainer):
        def _get_train_sampler(self, *args: Any, **rest: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    arguments = TrainingArguments(
        output_dir=str(options.out) + "-trainer",
        per_device_train_batch_size=options.micro,
        gradient_accumulation_steps=tokens.shape[1] // options.micro,
        max_steps=options.steps,
        bf16=options.precision == "bf16-mixed",
        use_cpu=True,
        torch_compile=options.compile,
        optim="adamw_torch_fused",
        learning_rate=recipe["lr"],
        max_grad_norm=recipe["clip"],
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_num_workers=0,
    )
    optimizer = torch.optim.AdamW(
        groups(model.named_parameters(), ("embed_tokens", "lm_head"), recipe),
        lr=recipe["lr"],
        betas=tuple(recipe["betas"]),
        eps=recipe["eps"],
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: recipe["factors"][min(step, options.steps - 1)]
    )
    trainer = InOrder(
        model=model,
        args=arguments,
        train_dataset=Rows(tokens[: options.steps]),
        callbacks=[Watch()],
        optimizers=(optimizer, schedule),
    )
    trainer.train()
    stamps.append(time.perf_counter())
    if options.save:
        shutil.copytree(folder / "start", options.out, dirs_exist_ok=True)
        trainer.model.float().save_pretrained(options.out)
    return {"step_seconds": list(np.diff(stamps)), "loss": losses[: options.steps]}


def groups(named: Any, outer: tuple[str, ...], recipe: dict[str, Any]) -> list[dict[str, Any]]:
    """Weight decay on the matrices inside the layers alone, as ours."""
    inner, rest = [], []
    for name, weight in named:
        (inner if weight.dim() == 2 and not any(o in name for o in outer) else rest).append(weight)
    return [{"params": inner, "weight_decay": recipe["weight_decay"]}, {"params": rest, "weight_decay": 0.0}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=["litgpt", "hf"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--micro", type=int, default=4, help="rows a pass")
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--chunk", type=int, default=128, help="LitGPT's chunked loss; 0: whole")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--steps", type=int, default=0, help="0: all")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    recipe = json.loads((options.folder / "recipe.json").read_text())
    tokens = np.load(options.folder / "rows.npz")["tokens"]
    options.steps = options.steps or len(tokens)
    run = {"litgpt": run_litgpt, "hf": run_hf}[options.peer]
    result = run(options.folder, recipe, tokens, options)
    result["versions"] = {"torch": torch.__version__}
    for name in ("litgpt", "transformers"):
        try:
            result["versions"][name] = __import__("importlib.metadata", fromlist=["version"]).version(name)
        except Exception as error:  # the other peer's package is not in this environment
            result["versions"][name] = f"none ({type(error).__name__})"
    options.out.with_suffix(".json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
