"""What torch autograd and PEFT compute in training: test/fixtures/train, the reference of test/train/network.test.ts.

Run: pip install torch transformers==4.57.6 peft==0.21.0 safetensors onnxruntime, then python tools/make_train_fixtures.py test/fixtures
transformers 4 has an nn.Linear for every expert, which PEFT adapts as it adapts any other; version 5 fused them.

A tiny Mixtral with adapters on attention, experts and router. Batches are packed: two rows of several documents and padding, with
a block-diagonal mask. Three references: gradients of one batch on the base as it is and in NF4 (codes by ONNX Runtime's quantizer,
dequantised here), gradients of a batch of one token (most experts get none), and the adapters after ten steps of AdamW with clipping
and a cosine schedule. And for full training every tensor of a twin after ten steps.
"""
import json
import sys
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import MixtralConfig, MixtralForCausalLM, get_cosine_schedule_with_warmup
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

VOCAB, AUX, STEPS = 96, 0.02, 10
SHAPE = dict(vocab_size=VOCAB, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             num_local_experts=4, num_experts_per_tok=2, max_position_embeddings=128, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2,
             rope_theta=1e4)
LORA = dict(r=4, lora_alpha=8, target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "w1", "w2", "w3", "gate"])
TRAINING = dict(learning_rate=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, max_grad_norm=1.0, warmup_steps=3)


def batch(seed, rows=2, length=24):
    """Rows of packed documents; labels are the next token of the same document where the document is past its first third."""
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCAB, (rows, length), generator=g)
    positions, documents, labels = (torch.zeros(rows, length, dtype=torch.long) for _ in range(3))
    labels -= 100
    for row in range(rows):
        at, number = 0, 1
        while at < length:
            size = min(length - at, int(torch.randint(3, 12, (1,), generator=g)))
            pad = row == 1 and at + size >= length and length > 1
            positions[row, at:at + size] = torch.arange(size)
            documents[row, at:at + size] = 0 if pad else number
            if not pad:
                for i in range(at + size // 3, at + size - 1):
                    labels[row, i] = ids[row, i + 1]
            at, number = at + size, number + 1
    return ids, positions, documents, labels


def one_token():
    return torch.tensor([[7]]), torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.long), torch.tensor([[11]])


def losses(model, ids, positions, documents, labels):
    length = ids.shape[1]
    sees = (documents[:, :, None] == documents[:, None, :]) & (torch.arange(length)[:, None] >= torch.arange(length)[None, :])
    mask = torch.zeros(sees.shape).masked_fill(~sees, torch.finfo(torch.float32).min)[:, None]
    out = model(input_ids=ids, attention_mask=mask, position_ids=positions, output_router_logits=False, use_cache=False)
    chosen = labels != -100
    loss = torch.nn.functional.cross_entropy(out.logits[chosen], labels[chosen])
    # The block's own router logits, taken by hooks: asking the model for them makes it compute a loss with another mask.
    aux = load_balancing_loss_func(tuple(captured), 4, 2, (documents != 0).long())
    return loss, aux


captured = []


def capture(model):
    def hook(module, inputs, output):
        captured.append(output[1])
    for name, module in model.named_modules():
        if name.endswith("block_sparse_moe"):
            module.register_forward_hook(hook)


def backward(model, data):
    captured.clear()
    loss, aux = losses(model, *data)
    (loss + AUX * aux).backward()
    return loss.detach(), aux.detach()


def dequantised(model):
    """Sets every matrix of the layers but the router to what its NF4 codes stand for."""
    from onnxruntime.capi._pybind_state import quantize_matmul_bnb4
    levels = np.array([-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
                       -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
                       0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1], np.float32)
    for name, parameter in model.named_parameters():
        if "lora" in name or parameter.dim() == 1 or ".layers." not in name or "gate" in name:
            continue
        rows = parameter.detach().numpy().reshape(-1, 64)
        codes, absmax = np.zeros(rows.size // 2, np.uint8), np.zeros(len(rows), np.float32)
        quantize_matmul_bnb4(codes, np.ascontiguousarray(rows), absmax, 64, 1, 64, len(rows))
        values = levels[np.stack([codes >> 4, codes & 15], 1).reshape(-1, 64)] * absmax[:, None]
        parameter.data = torch.from_numpy(values.reshape(parameter.shape))


def named(model, pick):
    return {n.replace("base_model.model.", "").replace(".default", ""): pick(p).detach().clone().contiguous()
            for n, p in model.named_parameters() if p.requires_grad}


def store(out, key, data):
    for name, tensor in zip(("input_ids", "position_ids", "documents", "labels"), data):
        out[f"{key}.{name}"] = tensor.int()


def ten_steps(model, parameters, seeds):
    # Norms are not decayed, as in transformers' Trainer.
    groups = [{"params": [p for p in parameters if p.dim() > 1], "weight_decay": TRAINING["weight_decay"]},
              {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=TRAINING["learning_rate"], betas=TRAINING["betas"], eps=TRAINING["eps"])
    schedule = get_cosine_schedule_with_warmup(optimizer, TRAINING["warmup_steps"], STEPS)
    trace = []
    for seed in seeds:
        optimizer.zero_grad()
        loss, aux = backward(model, batch(seed))
        norm = torch.nn.utils.clip_grad_norm_(parameters, TRAINING["max_grad_norm"])
        trace.append([loss.item(), aux.item(), norm.item(), schedule.get_last_lr()[0]])
        optimizer.step()
        schedule.step()
    return torch.tensor(trace)


def main():
    root = Path(sys.argv[1])
    out = root / "train"
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = MixtralForCausalLM(MixtralConfig(**SHAPE, attn_implementation="eager")).float().eval()
    g = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=g)
        parameter.data = (1 + 0.2 * noise if parameter.dim() == 1 else 0.2 * noise).bfloat16().float()
    twin = root / "train/base"
    twin.mkdir(parents=True, exist_ok=True)
    save_file({k: v.bfloat16().contiguous() for k, v in model.state_dict().items()}, twin / "model.safetensors", {"format": "pt"})
    (twin / "config.json").write_text(json.dumps({"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", **SHAPE}, indent=1) + "\n")
    base = {k: v.clone() for k, v in model.state_dict().items()}

    lora = get_peft_model(model, LoraConfig(**LORA))
    for name, parameter in lora.named_parameters():
        if "lora" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=g)
    start = named(lora, lambda p: p)
    capture(lora)
    tensors = {f"start.{k}": v for k, v in start.items()}
    numbers = {"aux_coefficient": AUX, "lora": LORA, "training": TRAINING, "steps": STEPS}

    def one(key, data):
        lora.zero_grad()
        loss, aux = backward(lora, data)
        numbers[key] = {"loss": loss.item(), "aux_loss": aux.item()}
        tensors.update({f"{key}.grad.{k}": v for k, v in named(lora, lambda p: p.grad if p.grad is not None else torch.zeros_like(p)).items()})
        store(tensors, key, data)

    one("packed", batch(1))
    one("single", one_token())
    parameters = [p for p in lora.parameters() if p.requires_grad]
    numbers["trace"] = ten_steps(lora, parameters, range(10, 10 + STEPS)).tolist()
    for i in range(STEPS):
        store(tensors, f"step{i}", batch(10 + i))
    tensors.update({f"end.{k}": v for k, v in named(lora, lambda p: p).items()})
    with torch.no_grad():
        for name, parameter in lora.named_parameters():
            if "lora" in name:
                parameter.copy_(start[name.replace("base_model.model.", "").replace(".default", "")])
    dequantised(lora)
    one("nf4", batch(1))

    full = MixtralForCausalLM(MixtralConfig(**SHAPE | dict(hidden_size=32, intermediate_size=48), attn_implementation="eager")).float().eval()
    fused = load_file(root / "twins/mixtral-4-experts-fused/model.safetensors")
    state = {}
    for name, tensor in fused.items():
        if name.endswith(("gate_up_proj", "down_proj")) and "experts" in name:
            for e, expert in enumerate(tensor):
                parts = dict(zip(("w1", "w3"), expert.chunk(2))) if "gate_up" in name else {"w2": expert}
                for key, part in parts.items():
                    state[f"{name.split('.mlp.')[0]}.block_sparse_moe.experts.{e}.{key}.weight"] = part.contiguous()
        else:
            state[name.replace(".mlp.gate.", ".block_sparse_moe.gate.")] = tensor
    full.load_state_dict(state)
    capture(full)
    numbers["full_trace"] = ten_steps(full, list(full.parameters()), range(10, 10 + STEPS)).tolist()
    tensors.update({f"full.{k}": v.detach().clone().contiguous() for k, v in full.state_dict().items()})
    save_file(tensors, out / "reference.safetensors")
    (out / "reference.json").write_text(json.dumps(numbers, indent=1) + "\n")
    print({k: v for k, v in numbers.items() if k in ("packed", "single", "nf4")}, numbers["trace"][-1], numbers["full_trace"][-1])


if __name__ == "__main__":
    main()
