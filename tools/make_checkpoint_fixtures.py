"""Odd but published forms of checkpoints and what transformers 5.17 makes of them: test/fixtures/checkpoints.json, for
test/model/forms.test.ts.

python tools/make_checkpoint_fixtures.py test/fixtures

A case is a twin (tools/make_twins.py) with another config.json, and perhaps other tensors; the test makes the same folder. Logits are
those of the last token. `defaults` are the fields of a configuration that says nothing but its model_type.
"""
import json
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

root = Path(sys.argv[1])
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
IDS = [(7 * i + 3) % 96 for i in range(60)]
TENSORS = {
    # tie_word_embeddings beside an lm_head that is another matrix, that is the same, or that stands alone
    "another_head": lambda t: {**t, HEAD: t[EMBEDDING] * 2},
    "same_head": lambda t: {**t, HEAD: t[EMBEDDING].clone()},
    "head_alone": lambda t: {(HEAD if name == EMBEDDING else name): tensor for name, tensor in t.items()},
    "f64": lambda t: {name: tensor.double() for name, tensor in t.items()},
    "inv_freq": lambda t: {**t, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)},
}
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
DROP = object()
# name: twin, changes of config.json, change of the tensors
CASES = {
    "yarn": ("llama3-rope", {"rope_parameters": DROP, "rope_theta": 10000.0, "rope_scaling": YARN}, None),
    "yarn, every key": ("llama3-rope", {"rope_parameters": {"rope_theta": 5000.0, "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 16, "beta_fast": 4, "beta_slow": 0.5, "mscale": 1.2, "mscale_all_dim": 0.7, "truncate": False, "finetuned": True}}, None),
    "yarn, attention_factor": ("mixtral-2-experts", {"head_dim": 8, "rope_scaling": {**YARN, "attention_factor": 1.3}}, None),
    "dynamic": ("llama3-rope", {"rope_parameters": DROP, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, None),
    "rope_scaling before rope_parameters": ("llama3-rope", {"rope_scaling": {"type": "linear", "factor": 4}}, None),
    "rope_type before type": ("llama3-rope", {"rope_scaling": {"type": "linear", "rope_type": "default", "factor": 4.0}}, None),
    "empty rope_parameters": ("mixtral-2-experts", {"rope_theta": DROP, "rope_parameters": {}}, None),
    "llama3 without original length": ("llama3-rope", {"rope_parameters": DROP, "rope_scaling": LLAMA3}, None),
    "original length outside": ("llama3-rope", {"rope_parameters": DROP, "original_max_position_embeddings": 16, "rope_scaling": {**LLAMA3, "original_max_position_embeddings": 64}}, None),
    "partial_rotary_factor, which these families do not look at": ("mixtral-2-experts", {"partial_rotary_factor": 0.5}, None),
    "swish": ("mixtral-2-experts", {"hidden_act": "swish"}, None),
    "num_experts": ("mixtral-2-experts", {"num_local_experts": DROP, "num_experts": 2}, None),
    "model_type before architectures": ("mixtral-2-experts", {"architectures": ["MistralForCausalLM"]}, None),
    "NaN and Infinity": ("mixtral-2-experts", {"router_jitter_noise": float("nan"), "note": [float("inf"), -float("inf"), "NaN, \"Infinity"]}, None),
    "ids outside the vocabulary": ("mixtral-2-experts", {"bos_token_id": 96, "eos_token_id": [2, 96, -1], "pad_token_id": -1}, None),
    "a Mistral without sliding_window": ("mistral-window", {"sliding_window": DROP}, None),
    "a Mistral without a window": ("mistral-window", {"sliding_window": None}, None),
    "another head beside tied embeddings": ("llama-tied-bf16", {}, "another_head"),
    "the same head beside tied embeddings": ("llama-tied-bf16", {}, "same_head"),
    "a head alone for tied embeddings": ("llama-tied-bf16", {}, "head_alone"),
    "F64": ("mixtral-2-experts", {}, "f64"),
    "tables of angles": ("llama3-rope", {}, "inv_freq"),
}


def main():
    cases = []
    for name, (twin, changes, tensors) in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(root / "twins" / twin, folder, dirs_exist_ok=True)
            config = {**json.loads((Path(folder) / "config.json").read_text()), **changes}
            text = json.dumps({key: value for key, value in config.items() if value is not DROP})
            (Path(folder) / "config.json").write_text(text)
            file = Path(folder) / "model.safetensors"
            if tensors:
                save_file(TENSORS[tensors](load_file(file)), file, {"format": "pt"})
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
            with torch.no_grad():
                logits = model(torch.tensor([IDS]), use_cache=False).logits[0, -1]
            cases.append({"name": name, "twin": twin, "config": text, "tensors": tensors, "logits": [round(x, 6) for x in logits.tolist()]})
    fields = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "rms_norm_eps",
              "max_position_embeddings", "sliding_window", "tie_word_embeddings", "bos_token_id", "eos_token_id", "num_local_experts", "num_experts_per_tok"]
    defaults = {}
    for model_type in ("mixtral", "mistral", "llama"):
        config = AutoConfig.for_model(model_type)
        defaults[model_type] = {key: getattr(config, key) for key in fields if hasattr(config, key)}
        defaults[model_type]["rope_theta"] = config.rope_parameters["rope_theta"]
    # A line a case.
    lines = ",\n".join(json.dumps(case) for case in cases)
    text = f'{{"ids": {json.dumps(IDS)},\n"defaults": {json.dumps(defaults)},\n"cases": [\n{lines}\n]}}\n'
    (root / "checkpoints.json").write_text(text)


if __name__ == "__main__":
    main()
