"""Whether PEFT reads an adapter that was trained here: its logits beside the engine's.

Run: node tools/check_peft.mjs MODEL ADAPTER, which calls this with BIMEDIX_PYTHON. Prints the largest difference as JSON.
"""
import json
import sys
import warnings

import peft
import torch
import transformers
from peft import PeftModel
from transformers import AutoModelForCausalLM

given = json.load(sys.stdin)
base = AutoModelForCausalLM.from_pretrained(given["model"], dtype=torch.float32).eval()
ids = torch.tensor([given["input_ids"]])
with torch.no_grad():
    before = base(ids, use_cache=False).logits[0].clone()
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    model = PeftModel.from_pretrained(base, given["adapter"]).eval()
with torch.no_grad():
    logits = model(ids, use_cache=False).logits[0]
expected = torch.tensor(given["logits"]).reshape(logits.shape)
print(json.dumps({"transformers": transformers.__version__, "peft": peft.__version__, "max_difference": (logits - expected).abs().max().item(),
                  "moved_by_adapter": (logits - before).abs().max().item(),
                  "warnings": [str(w.message)[:120] for w in warned if "adapter" in str(w.message) or "key" in str(w.message)]}))
