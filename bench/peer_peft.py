"""Trains a LoRA with PEFT on the CPU: the peer of scripts/bench_train.mjs.

Run: python bench/peer_peft.py MODEL --dtype bfloat16 [--rank 16 --batch 4 --length 256 --steps 5]
Adapters on attention, every expert and the router. transformers 5 has fused experts, which PEFT adapts as parameters; on
transformers 4 every expert is an nn.Linear. One step is a forward and a backward pass with the load-balancing loss, and AdamW.
Prints one JSON object: tokens a second of the steps after the first, and the peak memory of the process.
"""
import argparse
import json
import resource
import time

import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("--dtype", default="bfloat16")
parser.add_argument("--rank", type=int, default=16)
parser.add_argument("--batch", type=int, default=4)
parser.add_argument("--length", type=int, default=256)
parser.add_argument("--steps", type=int, default=5)
parser.add_argument("--experts", default=None, help="transformers' experts_implementation")
args = parser.parse_args()

torch.manual_seed(0)
dtype = getattr(torch, args.dtype)
options = {"experts_implementation": args.experts} if args.experts else {}
model = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype, low_cpu_mem_usage=True, **options)
attention = ["q_proj", "k_proj", "v_proj", "o_proj"]
if int(transformers.__version__.split(".")[0]) >= 5:
    lora = LoraConfig(r=args.rank, lora_alpha=args.rank, target_modules=attention,
                      target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj", "mlp.gate.weight"])
else:
    lora = LoraConfig(r=args.rank, lora_alpha=args.rank, target_modules=[*attention, "w1", "w2", "w3", "gate"])
model = get_peft_model(model, lora)
model.train()
trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=1e-4)
generator = torch.Generator().manual_seed(1)
times, loss = [], None
for step in range(args.steps):
    ids = torch.randint(3, model.config.vocab_size, (args.batch, args.length), generator=generator)
    began = time.time()
    loss = model(input_ids=ids, labels=ids, output_router_logits=True, use_cache=False).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    times.append(time.time() - began)
seconds = sorted(times[1:])[len(times[1:]) // 2]
print(json.dumps({"transformers": transformers.__version__, "dtype": args.dtype, "trained": sum(p.numel() for p in trained), "loss": loss.item(),
                  "tokens_per_second": args.batch * args.length / seconds, "seconds": times,
                  "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
