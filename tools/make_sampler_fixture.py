"""What transformers' logits processors keep: the reference of test/engine/sampler.test.ts.

Run: pip install torch transformers, then python tools/make_sampler_fixture.py test/fixtures/sampler.json
"""
import json
import sys
from pathlib import Path

import torch
from transformers import MinPLogitsWarper, RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

CASES = [
    {}, {"temperature": 0.7}, {"top_k": 5}, {"top_p": 0.8}, {"min_p": 0.1}, {"repetition_penalty": 1.3}, {"top_p": 0.01}, {"top_k": 1},
    {"temperature": 1.5, "top_k": 20, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.1},
    {"temperature": 0.3, "top_k": 50, "top_p": 0.5, "repetition_penalty": 0.8},
]


def main():
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(1, 64, generator=generator) * 3
    seen = torch.tensor([[1, 5, 9, 5, 33, 60]])
    cases = []
    for options in CASES:
        scores = logits.clone()
        if "repetition_penalty" in options:
            scores = RepetitionPenaltyLogitsProcessor(options["repetition_penalty"])(seen, scores)
        if "temperature" in options:
            scores = TemperatureLogitsWarper(options["temperature"])(seen, scores)
        if "top_k" in options:
            scores = TopKLogitsWarper(options["top_k"])(seen, scores)
        if "top_p" in options:
            scores = TopPLogitsWarper(options["top_p"])(seen, scores)
        if "min_p" in options:
            scores = MinPLogitsWarper(options["min_p"])(seen, scores)
        cases.append({"options": options, "probabilities": torch.softmax(scores, -1)[0].tolist()})
    Path(sys.argv[1]).write_text(json.dumps({"logits": logits[0].tolist(), "seen": seen[0].tolist(), "cases": cases}) + "\n")


if __name__ == "__main__":
    main()
