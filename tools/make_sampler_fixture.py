"""What transformers' logits processors keep: the reference of test/engine/sampler.test.ts.

Run: pip install torch transformers, then python tools/make_sampler_fixture.py test/fixtures/sampler.json
"""
import json
import sys
from pathlib import Path

import torch
from transformers import GenerationConfig, MinPLogitsWarper, RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper
from transformers.generation.utils import GenerationMixin

CASES = [
    {}, {"temperature": 0.7}, {"top_k": 5}, {"top_p": 0.8}, {"min_p": 0.1}, {"repetition_penalty": 1.3}, {"top_p": 0.01}, {"top_k": 1},
    {"temperature": 1.5, "top_k": 20, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.1},
    {"temperature": 0.3, "top_k": 50, "top_p": 0.5, "repetition_penalty": 0.8},
]

# Of a text of which the first PROMPT tokens are the prompt.
TOKENS, PROMPT, EOS = [1, 5, 9, 5, 33, 60, 9, 5], 4, [2, 7]
PROCESSORS = [
    {"no_repeat_ngram_size": 1}, {"no_repeat_ngram_size": 2}, {"no_repeat_ngram_size": 3}, {"no_repeat_ngram_size": 20},
    {"bad_words_ids": [[3], [2], [9, 5, 11], [5, 12], [6, 13]]},
    {"sequence_bias": [[[4], -3.5], [[9, 5, 14], 2.0], [[5, 14], 1.5], [[1, 5, 9, 5, 33, 60, 9, 5, 20], 8.0], [[4], 1.25]]},
    {"suppress_tokens": [0, 10, 63]}, {"begin_suppress_tokens": [0, 10]},
    {"min_new_tokens": 4}, {"min_new_tokens": 5}, {"min_length": 8}, {"min_length": 9},
    {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "sequence_bias": [[[5], 4.0]], "bad_words_ids": [[5]], "suppress_tokens": [33]},
]


def processed(logits, options, length):
    """The logits after the processors that `generate` makes of these options, in its order."""
    config = GenerationConfig(**options, do_sample=False)
    config._eos_token_tensor = torch.tensor(EOS)
    mixin = type("Model", (), {"config": type("Config", (), {"is_encoder_decoder": False})(), "_merge_criteria_processor_list": GenerationMixin._merge_criteria_processor_list})()
    processors = GenerationMixin._get_logits_processor(mixin, config, input_ids_seq_length=PROMPT, device="cpu")
    return processors(torch.tensor([TOKENS[:length]]), logits.clone())[0].tolist()


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
    finite = lambda values: [None if value == float("-inf") else round(value, 6) for value in values]
    after = [
        {"options": options, "length": length, "logits": finite(processed(logits, options, length))}
        for options in PROCESSORS for length in (PROMPT, len(TOKENS))
    ]
    Path(sys.argv[1]).write_text(json.dumps({
        "logits": logits[0].tolist(), "seen": seen[0].tolist(), "cases": cases,
        "processors": {"tokens": TOKENS, "prompt": PROMPT, "eos_token_id": EOS, "cases": after},
    }) + "\n")


if __name__ == "__main__":
    main()
