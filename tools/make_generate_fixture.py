"""What transformers' generate writes with models/nano: the reference of test/engine/generate.test.ts.

Run: pip install torch transformers, then python tools/make_generate_fixture.py models/nano test/fixtures/generate.json
"""
import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, TextStreamer, __version__

GREEDY = {"do_sample": False, "repetition_penalty": 1.0}


def main():
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], padding_side="left")
    tokenizer.pad_token = tokenizer.unk_token
    # What the file says of sampling and lengths is not what is tested.
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    one = tokenizer("Asthma is", return_tensors="pt")["input_ids"]
    length = one.shape[1]
    plain = model.generate(one, max_new_tokens=24, **GREEDY)[0].tolist()
    words = tokenizer.decode(plain)[len(tokenizer.decode(one[0])):]
    # Of the continuation: a word in its middle, a part of one, and one that the prompt begins.
    middle = words.split()[3]
    cases = [
        {"max_new_tokens": 24}, {"max_length": length + 5}, {"max_length": 200, "max_new_tokens": 4},
        {"stop_strings": [middle], "max_new_tokens": 24}, {"stop_strings": [middle[1:3]], "max_new_tokens": 24},
        {"stop_strings": ["is" + words[:2]], "max_new_tokens": 24}, {"stop_strings": ["Asthma"], "max_new_tokens": 6},
        {"stop_strings": ["never", " " + middle], "max_new_tokens": 24}, {"stop_strings": "e", "max_new_tokens": 24},
        {"eos_token_id": [2, plain[length + 6]], "max_new_tokens": 24},
        {"eos_token_id": [2, plain[length + 2]], "min_new_tokens": 8, "max_new_tokens": 12},
        {"eos_token_id": [plain[length + 2]], "min_length": length + 5, "max_new_tokens": 12},
        {"no_repeat_ngram_size": 1, "max_new_tokens": 24}, {"repetition_penalty": 1.5, "max_new_tokens": 24},
        {"bad_words_ids": [[plain[length]], plain[length + 1:length + 3]], "max_new_tokens": 12},
        {"suppress_tokens": plain[length:length + 4], "max_new_tokens": 12},
        {"begin_suppress_tokens": [plain[length]], "max_new_tokens": 12},
        {"sequence_bias": [[[plain[length]], -2.5], [plain[length:length + 2], -9.5]], "max_new_tokens": 12},
    ]
    outputs = []
    for options in cases:
        kwargs = {**GREEDY, **options, **({"tokenizer": tokenizer} if "stop_strings" in options else {})}
        outputs.append({"options": options, "output": model.generate(one, **kwargs)[0].tolist()})
    pad = tokenizer(["Asthma is", "What are the signs of anaemia? The signs"], return_tensors="pt", padding=True)
    batch = model.generate(**pad, max_length=pad["input_ids"].shape[1] + 6, eos_token_id=[], **GREEDY)

    class Kept(TextStreamer):
        text = ""

        def on_finalized_text(self, text, stream_end=False):
            self.text += text

    streamed = {}
    for skip_prompt in (False, True):
        streamer = Kept(tokenizer, skip_prompt=skip_prompt, skip_special_tokens=True)
        model.generate(one, max_new_tokens=24, streamer=streamer, **GREEDY)
        streamed[str(skip_prompt).lower()] = streamer.text
    Path(sys.argv[2]).write_text(json.dumps({
        "transformers": __version__, "input_ids": one.tolist(), "cases": outputs,
        "batch": {**{name: value.tolist() for name, value in pad.items() if name != "token_type_ids"}, "outputs": batch.tolist()},
        "streamed": streamed,
    }, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
