"""Adapters in the forms that PEFT 0.21 writes and reads on transformers 5.17: test/fixtures/peft, for test/model/peft.test.ts.

python tools/make_peft_fixtures.py test/fixtures

Each is made on a twin (tools/make_twins.py) and loaded again by PEFT, with a changed adapter_config.json in some; the reference are the
logits of the last token. patterns.json holds what Python's re and PEFT's get_pattern_key say of patterns and names.
"""
import json
import random
import re
import shutil
import sys
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

warnings.filterwarnings("ignore")
root = Path(sys.argv[1])
out = root / "peft"
IDS = [(7 * i + 3) % 96 for i in range(20)]
MIXTURE, TIED, DENSE = "mixtral-2-experts", "llama-tied-bf16", "mistral-window"
LAYER = r"model\.layers\."
# name: twin, what LoraConfig is given, what adapter_config.json says afterwards
CASES = {
    "head": (MIXTURE, dict(target_modules=["q_proj", "lm_head"]), {}),
    "embeddings": (MIXTURE, dict(target_modules=["embed_tokens", "v_proj"], use_rslora=True), {}),
    "both-saved": (MIXTURE, dict(target_modules=["o_proj"], modules_to_save=["lm_head", "embed_tokens"]), {}),
    "norms-and-router-saved": (MIXTURE, dict(target_modules=["k_proj"], modules_to_save=["norm", "layernorm", "gate"]), {}),
    "experts-saved": (MIXTURE, dict(target_modules=["k_proj"], modules_to_save=["mlp.experts"]), {}),
    "tied-head": (TIED, dict(target_modules=["lm_head"]), {}),
    "tied-embeddings": (TIED, dict(target_modules=["embed_tokens"]), {}),
    "tied-saved": (TIED, dict(target_modules=["q_proj"], modules_to_save=["lm_head"]), {}),
    "regex": (DENSE, dict(target_modules=rf"{LAYER}\d+\.(self_attn|mlp)\.(?!gate)[a-z]+_proj"), {}),
    "lookahead": (DENSE, dict(target_modules=r"^(?!.*(?:lm_head|mlp)).*(?=_proj)(?:_proj)"), {}),
    "all-linear": (DENSE, dict(target_modules="all-linear", exclude_modules=["o_proj", "layers.1.mlp.up_proj"]), {}),
    "excluded-by-regex": (DENSE, dict(target_modules=["q_proj", "down_proj"], exclude_modules=r".*\.0\..*q_proj"), {}),
    "one-layer": (DENSE, dict(target_modules=["q_proj", "up_proj"], layers_to_transform=1, layers_pattern="layers"), {}),
    "ranks": (DENSE, dict(target_modules=["q_proj", "v_proj", "up_proj"], rank_pattern={r"layers\.1\.self_attn\.q_proj": 3, "q_proj": 1, r"^model.*up_proj": 5}, alpha_pattern={r"(q|v)_proj": 10, r"layers.0.mlp.up_proj": 7}), {}),
    "fused": (MIXTURE, dict(target_modules=["q_proj"], target_parameters=["mlp.experts.gate_up_proj", "experts.down_proj", "gate.weight"], rank_pattern={r"experts\.gate_up_proj": 3}, alpha_pattern={"gate_up_proj": 9}), {}),
    "biases-of-none": (DENSE, dict(target_modules=["q_proj"], bias="all"), {}),
    "mica": (DENSE, dict(target_modules=["q_proj"], init_lora_weights="mica"), {}),
    # What the configuration does not target, PEFT leaves out; what is not in the file does nothing.
    "fewer-targets": (DENSE, dict(target_modules=["q_proj", "v_proj"]), {"target_modules": ["v_proj"]}),
    "fewer-layers": (DENSE, dict(target_modules=["q_proj", "v_proj"]), {"layers_to_transform": [0]}),
    "more-targets": (DENSE, dict(target_modules=["q_proj"]), {"target_modules": ["q_proj", "k_proj"]}),
    "no-targets": (DENSE, dict(target_modules=["q_proj", "v_proj", "o_proj"]), {"target_modules": None}),
    "unknown-key": (DENSE, dict(target_modules=["q_proj"]), {"unsloth_fixed": True, "enable_lora": None}),
}


def base(twin):
    return AutoModelForCausalLM.from_pretrained(root / "twins" / twin, dtype=torch.float32, attn_implementation="eager").eval()


def make(name, seed):
    twin, config, change = CASES[name]
    folder = out / name
    model = get_peft_model(base(twin), LoraConfig(**{"r": 2, "lora_alpha": 4, "task_type": "CAUSAL_LM", **config}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_" in key or "modules_to_save" in key:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(noise * 0.2 if "lora_" in key else parameter + 0.1 * noise)
    model.save_pretrained(folder)
    (folder / "README.md").unlink()
    file = folder / "adapter_config.json"
    settings = {**json.loads(file.read_text()), "base_model_name_or_path": twin, **change}
    # PEFT writes sets in any order.
    settings = {key: sorted(value) if key in ("target_modules", "exclude_modules") and isinstance(value, list) else value for key, value in settings.items()}
    file.write_text(json.dumps(settings, indent=1) + "\n")
    # In bfloat16, as most are published, and half the size.
    tensors = folder / "adapter_model.safetensors"
    save_file({key: tensor.bfloat16() for key, tensor in load_file(tensors).items()}, tensors, {"format": "pt"})
    loaded = PeftModel.from_pretrained(base(twin), folder).float().eval()
    with torch.no_grad():
        logits = loaded(torch.tensor([IDS]), use_cache=False).logits[0, -1]
        plain = base(twin)(torch.tensor([IDS]), use_cache=False).logits[0, -1]
    print(name, sum(one.stat().st_size for one in folder.iterdir()), f"{(logits - plain).abs().max():.2f} from the base")
    return {"name": name, "twin": twin, "logits": [round(x, 6) for x in logits.tolist()]}


PATTERNS = [
    r"q_proj", r".*q_proj", r"model\.layers\.\d+\.self_attn\.(q|k)_proj", r"^model.*proj$", r"(?:.*\.)?mlp\.(?P<part>up|down)_proj",
    r"^(?!.*(?:lm_head|vision)).*_proj", r".*(?=up)up_proj", r".*\.[0-3]\..*", r".*\.[^.]{1,4}\.\w+", r"[a-z]+\.(?:layers|h)\.\d{1,2}\..+?proj",
    r"\bmodel\b.*\bgate\b.*", r".*experts\.\d*\.w[1-3]", r"w1|w3", r"(a+)+$", r"(\w+\.?)+!", r"(.*)*(.*)*(.*)*x", r"layers.{1,3}mlp.*", r"lm_head", r"",
    r"model\.layers\.1\.mlp\.down_proj\Z", r"\Amodel.+", r".*[.]gate", r"[\w.]+", r".*[^\d.]", r"a{,2}lm_head|x{2}", r"m{1}odel.*", r"q{a}|.*\{", r"(|q)_proj", r"()*lm_head",
]
NAMES = [
    *(f"model.layers.{layer}.self_attn.{part}_proj" for layer in (0, 1, 31) for part in "qkvo"),
    *(f"model.layers.{layer}.mlp.{part}_proj" for layer in (0, 1, 12) for part in ("up", "down", "gate")),
    "model.layers.3.block_sparse_moe.experts.7.w1", "model.layers.3.block_sparse_moe.gate", "model.layers.10.mlp.experts.gate_up_proj", "lm_head",
    "model.embed_tokens", "model.norm", "vision.layers.0.q_proj", "q_proj", "", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaab", "aalm_head",
]


def random_pattern(rng, depth=3):
    if depth == 0 or rng.random() < 0.3:
        return rng.choice(["q", "_proj", "model", r"\.", ".", r"\d", r"\w", "[a-m]", "[^.]", "layers", "mlp", "1", "0", r"\b", "self_attn", r"\D", r"[\d.]"])
    kind = rng.randrange(6)
    one = random_pattern(rng, depth - 1)
    if kind == 0:
        return f"(?:{one}){rng.choice(['*', '+', '?', '*?', '+?', '{1,2}', '{2}', '{0,}'])}"
    if kind == 1:
        return f"({one}|{random_pattern(rng, depth - 1)})"
    if kind == 2:
        return f"{rng.choice(['(?=', '(?!'])}{one}){random_pattern(rng, depth - 1)}"
    return one + random_pattern(rng, depth - 1)


def patterns():
    rng = random.Random(5)
    # Python itself would not end with some of them.
    slow = {r"(a+)+$", r"(\w+\.?)+!", r"(.*)*(.*)*(.*)*x"}
    rows = []
    for pattern in [*PATTERNS, *(f".*{random_pattern(rng)}.*" for _ in range(60)), *(random_pattern(rng, 5) for _ in range(60))]:
        if pattern in slow:
            rows.append([pattern, [], []])
            continue
        full = [i for i, name in enumerate(NAMES) if re.fullmatch(pattern, name)]
        # get_pattern_key returns the pattern where it matches, and else the name.
        suffix = [i for i, name in enumerate(NAMES) if get_pattern_key([pattern], name) == pattern and pattern != name or pattern == name]
        rows.append([pattern, full, suffix])
    text = ",\n".join(json.dumps(row) for row in rows)
    (out / "patterns.json").write_text(f'{{"names": {json.dumps(NAMES)},\n"patterns": [\n{text}\n]}}\n')


def main():
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    lines = ",\n".join(json.dumps(make(name, seed)) for seed, name in enumerate(CASES))
    (out / "reference.json").write_text(f'{{"ids": {json.dumps(IDS)},\n"cases": [\n{lines}\n]}}\n')
    patterns()


if __name__ == "__main__":
    main()
