"""Random tiny models and what transformers computes with them: the reference of test/model/twins.test.ts.

Run: pip install torch transformers==5.17.0 safetensors, then python tools/make_twins.py test/fixtures/twins
Each folder holds a checkpoint in one of the layouts found in the wild and reference.safetensors: for each of three
sequences the ids, the float32 logits at every position, the router's choice and probabilities, and a greedy continuation.
Matrices are large enough (standard deviation 0.25) that routing is decisive and logits are not flat.
"""
import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, MixtralConfig, MixtralForCausalLM

VOCAB = 96
BASE = dict(vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=128, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2, attn_implementation="eager")
ROPE = dict(rope_theta=1e4, rope_type="default")
LLAMA3 = dict(rope_theta=5e5, rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)

# name: (class, config changes, stored dtype, layout, changes to config.json)
TWINS = {
    "mixtral-2-experts": (MixtralForCausalLM, dict(num_local_experts=2), torch.float32, "classic", {}),
    "mixtral-4-experts-bf16": (MixtralForCausalLM, dict(num_local_experts=4, num_key_value_heads=4), torch.bfloat16, "classic", {}),
    "mixtral-8-experts-sharded": (MixtralForCausalLM, dict(num_local_experts=8), torch.float32, "sharded", {}),
    "mixtral-4-experts-tied": (MixtralForCausalLM, dict(num_local_experts=4, tie_word_embeddings=True), torch.float32, "classic", {}),
    "mixtral-4-experts-fused": (MixtralForCausalLM, dict(num_local_experts=4), torch.float32, "fused", "v5"),
    "mixtral-as-bimedix-eng": (MixtralForCausalLM, dict(num_local_experts=8, num_key_value_heads=1), torch.float16, "classic",
                               dict(architectures=["MixtralModel"], output_router_logits=True, use_cache=False)),
    "llama-tied-bf16": (LlamaForCausalLM, dict(tie_word_embeddings=True, head_dim=16), torch.bfloat16, "classic", {}),
    "llama3-rope": (LlamaForCausalLM, dict(rope_parameters=LLAMA3), torch.float32, "classic", "v5"),
    "mistral-window": (MistralForCausalLM, dict(sliding_window=8), torch.float32, "classic", {}),
}


def randomize(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = 1 + 0.2 * noise if parameter.dim() == 1 else 0.25 * noise


def classic(state):
    """Per-expert names, as every published Mixtral has them."""
    tensors = {}
    for name, tensor in state.items():
        name = name.replace(".mlp.gate.weight", ".block_sparse_moe.gate.weight")
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            prefix = name.split(".mlp.")[0] + ".block_sparse_moe.experts"
            for e, expert in enumerate(tensor):
                parts = dict(zip(("w1", "w3"), expert.chunk(2))) if "gate_up" in name else {"w2": expert}
                tensors.update({f"{prefix}.{e}.{key}.weight": part for key, part in parts.items()})
        else:
            tensors[name] = tensor
    return tensors


def save(model, out, dtype, layout, changes):
    state = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    tensors = {name: tensor.contiguous() for name, tensor in (state if layout == "fused" else classic(state)).items()}
    if layout == "sharded":
        names = sorted(tensors)
        shards = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
        for file, chosen in shards.items():
            save_file({name: tensors[name] for name in chosen}, out / file, {"format": "pt"})
        index = {"metadata": {}, "weight_map": {name: file for file, chosen in shards.items() for name in chosen}}
        (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    else:
        save_file(tensors, out / "model.safetensors", {"format": "pt"})
    config = model.config.to_dict()
    kept = [key for key in {**BASE, "head_dim": 0, "num_local_experts": 0, "num_experts_per_tok": 0, "sliding_window": 0, "tie_word_embeddings": 0} if key in config]
    written = {"architectures": [type(model).__name__], "model_type": config["model_type"], **{key: config[key] for key in kept}}
    rope = dict(model.config.rope_parameters)
    if changes == "v5":
        written |= {"rope_parameters": rope, "dtype": str(dtype).removeprefix("torch.")}
    else:
        written |= {"rope_theta": rope["rope_theta"], "torch_dtype": str(dtype).removeprefix("torch."), **changes}
    (out / "config.json").write_text(json.dumps(written, indent=1) + "\n")


GRADIENTS = ["mixtral-4-experts-fused", "llama3-rope"]


@torch.no_grad()
def reference(model):
    generator = torch.Generator().manual_seed(7)
    tensors = {}
    for n, length in enumerate((24, 9, 1)):
        ids = torch.randint(3, VOCAB, (1, length), generator=generator)
        mixture = model.config.model_type == "mixtral"
        output = model(ids, use_cache=False, **(dict(output_router_logits=True) if mixture else {}))
        tensors[f"{n}.input_ids"] = ids[0].int()
        tensors[f"{n}.logits"] = output.logits[0].float()
        if mixture:
            probabilities = torch.stack([torch.softmax(logits.float(), -1) for logits in output.router_logits])
            tensors[f"{n}.router_probabilities"] = probabilities
            tensors[f"{n}.router_choice"] = probabilities.topk(2).indices.int()
        # A window that drops tokens while decoding is the cache's business in transformers; full passes leave no doubt.
        greedy = ids
        for _ in range(16):
            greedy = torch.cat([greedy, model(greedy, use_cache=False).logits[:, -1:].argmax(-1)], 1)
        tensors[f"{n}.greedy"] = greedy[0, length:].int()
    return tensors


def gradients(model):
    """Of the mean cross-entropy of the next token on 24 tokens, under the classic names; torch autograd."""
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(3, VOCAB, (1, 24), generator=generator)
    model.zero_grad()
    loss = model(ids, labels=ids, use_cache=False).loss
    loss.backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {"loss": loss.detach().reshape(1), **{name: grad.contiguous() for name, grad in classic(found).items()}}


def main():
    root = Path(sys.argv[1])
    for seed, (name, (cls, changes, dtype, layout, config_changes)) in enumerate(TWINS.items()):
        out = root / name
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        config_class = {MixtralForCausalLM: MixtralConfig, LlamaForCausalLM: LlamaConfig, MistralForCausalLM: MistralConfig}[cls]
        model = cls(config_class(**{**BASE, "rope_parameters": ROPE, **changes})).eval().float()
        randomize(model, seed)
        # The reference computes with the weights as stored, in float32.
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype).float()
        if model.config.tie_word_embeddings:
            model.tie_weights()
        save(model, out, dtype, layout, config_changes)
        save_file(reference(model), out / "reference.safetensors")
        if name in GRADIENTS:
            save_file(gradients(model), out / "gradients.safetensors")
        print(name, sum(file.stat().st_size for file in out.iterdir()), "bytes")


if __name__ == "__main__":
    main()
