"""Adapters that PEFT made, and the logits it computes with them: test/fixtures/train/peft4 and peft5, for test/model/adapter.test.ts.

Run once with transformers 4.57.6 and once with 5.17.0: python tools/make_adapter_fixtures.py test/fixtures
On version 4 every expert is an nn.Linear and the file has the classic layout; on version 5 experts are fused parameters, and so are the
adapter's keys. Both adapt attention, experts and router of the model train/base. From version 4 there is a second adapter, with
rsLoRA, on attention and w2 alone; from version 5 there is the classic one of version 4, converted.
"""
import json
import shutil
import sys
from pathlib import Path

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

root = Path(sys.argv[1])
version = int(transformers.__version__.split(".")[0])
attention = ["q_proj", "k_proj", "v_proj", "o_proj"]
experts = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj", "mlp.gate.weight"]
CONFIGS = {
    4: {"peft4": dict(r=4, lora_alpha=8, target_modules=[*attention, "w1", "w2", "w3", "gate"]),
        "peft4-rslora": dict(r=9, lora_alpha=6, use_rslora=True, target_modules=["q_proj", "v_proj", "w2"])},
    5: {"peft5": dict(r=4, lora_alpha=8, target_modules=attention, target_parameters=experts), "peft5-converted": None},
}[version]
for seed, (name, config) in enumerate(CONFIGS.items()):
    base = AutoModelForCausalLM.from_pretrained(root / "train/base", dtype=torch.float32).eval()
    if config is None:
        # The classic file as version 5 takes it in and writes it out: w1 and w3 become one pair of twice the rank.
        model = PeftModel.from_pretrained(base, root / "train/peft4").eval()
    else:
        model = get_peft_model(base, LoraConfig(**config)).eval()
    generator = torch.Generator().manual_seed(20 + seed + version)
    for key, parameter in model.named_parameters():
        if "lora" in key and config is not None:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    out = root / "train" / name
    shutil.rmtree(out, ignore_errors=True)
    model.save_pretrained(out)
    (out / "README.md").unlink()
    settings = json.loads((out / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = "base"
    (out / "adapter_config.json").write_text(json.dumps(settings, indent=1) + "\n")
    ids = torch.randint(3, 96, (1, 20), generator=generator)
    with torch.no_grad():
        save_file({"input_ids": ids[0].int(), "logits": model(ids, use_cache=False).logits[0]}, out / "reference.safetensors")
    print(name, sorted(p.name for p in out.iterdir()))
