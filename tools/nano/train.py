"""Trains models/nano with transformers on the CPU. Resumable: run the same command again after an interruption.

Run: python tokenizer.py --data DIR --out MODEL && python train.py --data DIR --out MODEL --steps 3000
The checkpoint on disk has the classic Mixtral tensor names, as every published Mixtral has.
Rejected: bf16 autocast (slower than fp32 for matrices this small), dropout (the model is too small to overfit its corpus).
"""
import argparse
import json
import math
import os
import random
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedTokenizerFast
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from data import load

SHAPE = dict(
    vocab_size=5120, hidden_size=256, intermediate_size=160, num_hidden_layers=5, num_attention_heads=8,
    num_key_value_heads=4, head_dim=32, num_local_experts=4, num_experts_per_tok=2, max_position_embeddings=1024,
    rms_norm_eps=1e-5, tie_word_embeddings=True, router_aux_loss_coef=0.02, bos_token_id=1, eos_token_id=2,
)
REPEAT = {"tico19": 2, "covid_faq": 3, "mentalqa": 4}
USER_WEIGHT = 0.3  # a user's tokens teach the language, the assistant's teach the task
LENGTH, BATCH, PEAK_LR, WARMUP = 512, 4, 3e-3, 200


def encode(tokenizer, item):
    """(ids, weights) of one conversation in the chat format of the model."""
    ids, weights = [1], [0.0]
    for message in item["messages"]:
        text = tokenizer(message["content"], add_special_tokens=False, split_special_tokens=True).input_ids
        user = message["role"] == "user"
        ids += [3, *text, 4] if user else [*text, 2]
        weights += [USER_WEIGHT] * (len(text) + 2) if user else [1.0] * (len(text) + 1)
    return ids, weights


def batches(tokenizer, items, steps, seed):
    """Packed windows of one shuffled stream; the same seed gives the same stream, so a resumed run skips what it saw."""
    rng = random.Random(seed)
    encoded = [encode(tokenizer, item) for item in items for _ in range(REPEAT.get(item["source"], 1))]
    ids, weights = [], []
    for _ in range(steps):
        need = BATCH * LENGTH + 1
        while len(ids) < need:
            order = rng.sample(range(len(encoded)), 512)
            for index in order:
                ids += encoded[index][0]
                weights += encoded[index][1]
        x = torch.tensor(ids[: need - 1]).view(BATCH, LENGTH)
        y = torch.tensor(ids[1:need]).view(BATCH, LENGTH)
        w = torch.tensor(weights[1:need]).view(BATCH, LENGTH)
        del ids[: need - 1], weights[: need - 1]
        yield x, y, w


def loss_of(model, x, y, w):
    out = model(x, output_router_logits=True, use_cache=False)
    nll = torch.nn.functional.cross_entropy(out.logits.flatten(0, 1), y.flatten(), reduction="none")
    aux = load_balancing_loss_func(out.router_logits, SHAPE["num_local_experts"], SHAPE["num_experts_per_tok"])
    return (nll * w.flatten()).sum() / w.sum(), aux


@torch.no_grad()
def evaluate(model, tokenizer, items):
    """Mean nats a token of the assistant's words, and bits a byte, by language."""
    model.eval()
    result = {}
    for language in ("en", "ar"):
        chosen = [item for item in items if item["language"] == language and item["source"] != "templates"][:300]
        total = count = size = 0
        for item in chosen:
            ids, weights = (torch.tensor(v[:LENGTH]) for v in encode(tokenizer, item))
            logits = model(ids[None, :-1]).logits[0]
            nll = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")
            answer = weights[1:] == 1.0
            total += nll[answer].sum().item()
            count += answer.sum().item()
            size += len(tokenizer.decode(ids[1:][answer], skip_special_tokens=True).encode())
        result[language] = {"documents": len(chosen), "nats_per_token": total / count, "bits_per_byte": total / size / math.log(2)}
    model.train()
    return result


def save(model, out):
    """model.safetensors in bf16 and config.json, written aside and renamed."""
    tensors = {}
    for name, tensor in model.state_dict().items():
        name = name.replace(".mlp.gate.", ".block_sparse_moe.gate.")
        if name == "lm_head.weight":
            continue
        if name.endswith("experts.gate_up_proj") or name.endswith("experts.down_proj"):
            prefix = name.split(".mlp.")[0] + ".block_sparse_moe.experts"
            for e, expert in enumerate(tensor):
                parts = dict(zip(("w1", "w3"), expert.chunk(2))) if "gate_up" in name else {"w2": expert}
                tensors.update({f"{prefix}.{e}.{key}.weight": part for key, part in parts.items()})
        else:
            tensors[name] = tensor
    save_file({k: v.to(torch.bfloat16).contiguous() for k, v in tensors.items()}, out / "model.safetensors.part", {"format": "pt"})
    os.replace(out / "model.safetensors.part", out / "model.safetensors")
    config = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", **SHAPE, "rope_theta": 10000.0, "hidden_act": "silu",
              "attention_dropout": 0.0, "initializer_range": 0.02, "output_router_logits": False, "sliding_window": None,
              "torch_dtype": "bfloat16", "use_cache": True}
    config["transformers.js_config"] = {"use_external_data_format": True}
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    generation = {"bos_token_id": 1, "eos_token_id": 2, "do_sample": True, "temperature": 0.4, "top_k": 20, "repetition_penalty": 1.1, "max_new_tokens": 200}
    (out / "generation_config.json").write_text(json.dumps(generation, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--state", default="train_state.pt")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--experts", default="grouped_mm", choices=["eager", "batched_mm", "grouped_mm"])
    args = parser.parse_args()
    torch.manual_seed(0)
    out = Path(args.out)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(out / "tokenizer.json"), bos_token="<s>", eos_token="</s>", unk_token="<unk>", additional_special_tokens=["[INST]", "[/INST]"])
    train, held_out = load(args.data)
    config = MixtralConfig(**SHAPE, rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
    config._experts_implementation = args.experts
    model = MixtralForCausalLM(config)
    decay = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}], lr=PEAK_LR, betas=(0.9, 0.95))
    first, seconds = 0, 0.0
    if os.path.exists(args.state):
        state = torch.load(args.state)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first, seconds = state["step"], state["seconds"]
    print(sum(p.numel() for p in model.parameters()), "parameters,", len(train), "conversations,", len(held_out), "held out", flush=True)
    smooth, began = None, time.time()
    for step, (x, y, w) in enumerate(batches(tokenizer, train, args.steps, 1)):
        if step < first:
            continue
        rate = min(1, (step + 1) / WARMUP) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / args.steps)))
        for group in optimizer.param_groups:
            group["lr"] = PEAK_LR * rate
        loss, aux = loss_of(model, x, y, w)
        (loss + SHAPE["router_aux_loss_coef"] * aux).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        smooth = loss.item() if smooth is None else 0.95 * smooth + 0.05 * loss.item()
        if step % 20 == 0:
            speed = (step - first + 1) * BATCH * LENGTH / (time.time() - began)
            print(f"step {step} loss {smooth:.3f} aux {aux.item():.3f} {speed:.0f} tokens/s", flush=True)
        if step % 250 == 249 or step + 1 == args.steps:
            elapsed = seconds + time.time() - began
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1, "seconds": elapsed}, args.state + ".part")
            os.replace(args.state + ".part", args.state)
            save(model, out)
            print("held out", json.dumps(evaluate(model, tokenizer, held_out)), "tokens", (step + 1) * BATCH * LENGTH, f"after {elapsed:.0f} s", flush=True)


if __name__ == "__main__":
    main()
