"""transformers on the CPU in bfloat16 beside the engine. Run: python bench/peer_transformers.py CHECKPOINT  (one JSON line on stdout)

Every implementation of the experts that transformers offers is tried: the best of each figure is what counts.
"""
import json
import os
import statistics
import sys
import time

import torch
import transformers
from transformers import AutoModelForCausalLM


@torch.no_grad()
def main():
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16).eval()
    name = f"transformers {transformers.__version__}, torch {torch.__version__}, bf16"
    result = {"name": name, "prefill": 0, "decode_500": 0, "decode_4000": 0, "settings": {}}

    def forward(ids, cache=None):
        return model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)

    def prefill():
        ids = torch.randint(300, 31000, (1, 512))
        start = time.perf_counter()
        forward(ids)
        return time.perf_counter() - start

    def decode(length, count, experts):
        ids, cache = torch.randint(300, 31000, (1, length)), None
        model.set_experts_implementation("eager")
        for part in ids.split(500, 1):
            cache = forward(part, cache).past_key_values
        model.set_experts_implementation(experts)
        token, times = torch.tensor([[400]]), []
        for _ in range(count):
            start = time.perf_counter()
            token = forward(token, cache).logits[:, -1:].argmax(-1)
            times.append(time.perf_counter() - start)
        return 1 / statistics.median(times)

    for experts in ("eager", "batched_mm", "grouped_mm"):
        def keep(key, value):
            if value > result[key]:
                result[key], result["settings"][key] = value, experts

        try:
            model.set_experts_implementation(experts)
            # batched_mm copies the experts of every token: 512 tokens of this shape take 22 GB.
            if experts != "batched_mm":
                prefill()
                keep("prefill", 512 / statistics.median(prefill() for _ in range(3)))
            keep("decode_500", decode(500, 32, experts))
            keep("decode_4000", decode(4000, 16, experts))
        except Exception as error:
            print(f"{experts} fails: {error}", file=sys.stderr)
            result["settings"][f"without_{experts}"] = str(error)[:200]
    print(json.dumps(result))


main()
