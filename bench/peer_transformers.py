"""transformers on the CPU in bfloat16 beside the engine. Run: python bench/peer_transformers.py CHECKPOINT  (one JSON line on stdout)

Every implementation of the experts that transformers offers is tried: the best of each figure is what counts.
"""
import json
import statistics
import sys
import time

import torch
import transformers
from transformers import AutoModelForCausalLM


@torch.no_grad()
def main():
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(len(__import__("os").sched_getaffinity(0)))
    result = {"name": f"transformers {transformers.__version__}, torch {torch.__version__}, bf16", "prefill": 0, "decode_500": 0, "decode_4000": 0, "settings": {}}
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16).eval()
    for experts in ("eager", "batched_mm", "grouped_mm"):
        try:
            model.set_experts_implementation(experts)
        except Exception:
            continue

        def keep(key, value):
            if value > result[key]:
                result[key], result["settings"][key] = value, experts

        def prefill(ids):
            start = time.perf_counter()
            output = model(ids, use_cache=True, logits_to_keep=1)
            return output, time.perf_counter() - start

        def decode(length, count):
            cache = None
            ids = torch.randint(300, 31000, (1, length))
            for at in range(0, length, 500):
                cache = model(ids[:, at : at + 500], past_key_values=cache, use_cache=True, logits_to_keep=1).past_key_values
            token, times = torch.tensor([[400]]), []
            for _ in range(count):
                start = time.perf_counter()
                output = model(token, past_key_values=cache, use_cache=True, logits_to_keep=1)
                token = output.logits[:, -1:].argmax(-1)
                times.append(time.perf_counter() - start)
            return 1 / statistics.median(times)

        # batched_mm copies the experts of every token: at 512 tokens that does not fit into memory.
        if experts != "batched_mm":
            ids = torch.randint(300, 31000, (1, 512))
            times = [prefill(ids)[1] for _ in range(4)]
            keep("prefill", 512 / statistics.median(times[1:]))
            keep("decode_500", decode(500, 16))
            keep("decode_4000", decode(4000, 8))
    print(json.dumps(result))


main()
