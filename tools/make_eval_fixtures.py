"""What lm-evaluation-harness 0.4.13 (hf backend, float32, CPU) says: test/fixtures/eval/*.json, which test/eval/harness.test.ts
compares with. Run: python tools/make_eval_fixtures.py SHARED [LIMIT [FOLDER]], where SHARED holds data/ and tokenizers/mixtral/.

Two checkpoints: models/nano, and a random Mixtral with the real tokenizer, whose weights follow from a formula that the test
knows too (test/eval/random_mixtral.ts). Its context is short, so that long prompts are truncated.
"""
import hashlib
import inspect
import json
import logging
import re
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from lm_eval_offline import HFLM, SUBJECTS, evaluate, use_local_data
import lm_eval._cli.run
from lm_eval.loggers import EvaluationTracker
from safetensors.numpy import save_file

ROOT = Path(__file__).parent.parent
CONFIG = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "vocab_size": 32000,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "max_position_embeddings": 640,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "float32",
}


def shapes(c):
    h, f, kv = c["hidden_size"], c["intermediate_size"], c["hidden_size"] // 2
    yield "model.embed_tokens.weight", (c["vocab_size"], h)
    for n in range(c["num_hidden_layers"]):
        layer = f"model.layers.{n}"
        for name, rows in (("q", h), ("k", kv), ("v", kv), ("o", h)):
            yield f"{layer}.self_attn.{name}_proj.weight", (rows, h)
        yield f"{layer}.block_sparse_moe.gate.weight", (c["num_local_experts"], h)
        for e in range(c["num_local_experts"]):
            for name, shape in (("w1", (f, h)), ("w3", (f, h)), ("w2", (h, f))):
                yield f"{layer}.block_sparse_moe.experts.{e}.{name}.weight", shape
        yield f"{layer}.input_layernorm.weight", (h,)
        yield f"{layer}.post_attention_layernorm.weight", (h,)
    yield "model.norm.weight", (h,)
    yield "lm_head.weight", (c["vocab_size"], h)


def random_mixtral(tokenizer):
    """Weight i of the model, counted through all tensors: a hash of i as a number from -1 to 1, by the tensor's width."""
    folder = Path(tempfile.mkdtemp(), "random-mixtral")
    folder.mkdir()
    at, tensors = 0, {}
    for name, shape in shapes(CONFIG):
        size = int(np.prod(shape))
        x = np.arange(at, at + size, dtype=np.uint32)
        at += size
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
            x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
        x ^= x >> np.uint32(16)
        uniform = (x >> np.uint32(8)).astype(np.float64) / 2**23 - 1
        values = 1 + 0.1 * uniform if len(shape) == 1 else uniform * (3 / shape[1]) ** 0.5
        tensors[name] = values.astype(np.float32).reshape(shape)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG))
    for file in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model"):
        shutil.copy(tokenizer / file, folder / file)
    return folder


def run(model, limit, num_fewshot, add_bos, chat=False):
    arabic = [f"mmlu_{s}_ar" for s in SUBJECTS] + [f"arabic_leaderboard_arabic_mmlu_{s}" for s in SUBJECTS]
    english = [f"mmlu_{s}" for s in SUBJECTS]
    if num_fewshot == 0:
        tasks = ["multimedqa", *arabic]
    else:
        # medmcqa's examples are its training split, which is not among the local data.
        tasks = [*english, "medqa_4options", "pubmedqa", *arabic]
    if chat:
        tasks = [*english, "pubmedqa", *arabic[:6]]
    lm = HFLM(pretrained=str(model), dtype="float32", device="cpu", batch_size=8, add_bos_token=add_bos)
    results = evaluate(lm, tasks, num_fewshot=num_fewshot, limit=limit, apply_chat_template=chat, fewshot_as_multiturn=True)
    def one(name, samples):
        lists = [[ll for ll, _ in sample["filtered_resps"]] for sample in samples]
        joined = "".join(s["doc_hash"] + s["prompt_hash"] + s["target_hash"] for s in samples)
        return {
            "hash": hashlib.sha256(joined.encode()).hexdigest(),
            "version": results["versions"][name],
            "metrics": {k: v for k, v in results["results"][name].items() if k.startswith("acc")},
            "greedy": [[bool(g) for _, g in s["filtered_resps"]] for s in samples],
            "log_likelihoods": [[round(ll, 5) for ll in lls] for lls in lists],
        }

    samples = results["samples"]
    groups = {k: {m: v for m, v in g.items() if m.startswith("acc")} for k, g in results.get("groups", {}).items()}
    return {
        "num_fewshot": num_fewshot,
        "add_bos": add_bos,
        "chat": chat,
        "limit": limit,
        "groups": groups,
        "tasks": {name: one(name, sorted(samples[name], key=lambda s: s["doc_id"])) for name in samples},
    }


def schema(model):
    """The files that the harness writes, as one line a key: its path and JSON type. TASK and GROUP stand for names."""
    folder = tempfile.mkdtemp()
    tracker = EvaluationTracker(output_path=folder)
    lm = HFLM(pretrained=str(model), dtype="float32", device="cpu", batch_size=8)
    results = evaluate(lm, ["multimedqa"], num_fewshot=0, limit=2, evaluation_tracker=tracker)
    samples = results.pop("samples")
    tracker.save_results_aggregated(results, samples)
    tracker.save_results_samples("medmcqa", samples["medmcqa"])
    files = sorted(Path(folder).rglob("*.json*"))
    kinds = {dict: "object", list: "array", str: "string", bool: "boolean", int: "number", float: "number", type(None): "null"}

    def lines(prefix, value, depth):
        for key, one in value.items():
            name = {"medmcqa": "TASK", "multimedqa": "GROUP"}.get(key, key)
            if name == key and ("mmlu" in key or "qa" in key):
                continue
            yield f"{prefix}{name} {kinds[type(one)]}"
            if isinstance(one, dict) and depth > 0 and key not in ("doc", "gen_args_1"):
                yield from lines(f"{prefix}{name}.", one, depth - 1)

    for file in files:
        text = file.read_text()
        value = json.loads(text.splitlines()[0] if file.suffix == ".jsonl" else text)
        yield from lines("samples." if file.suffix == ".jsonl" else "results.", value, 2)


def main():
    shared = Path(sys.argv[1])
    limit = int(sys.argv[2]) if len(sys.argv) > 2 else 16
    out = Path(sys.argv[3]) if len(sys.argv) > 3 else ROOT / "test/fixtures/eval"
    logging.disable(logging.WARNING)
    torch.manual_seed(0)
    use_local_data(shared / "data")
    out.mkdir(parents=True, exist_ok=True)
    models = {"nano": ROOT / "models/nano", "random-mixtral": random_mixtral(shared / "tokenizers/mixtral")}
    for name, model in models.items():
        for num_fewshot in (0, 5):
            for add_bos in (True, False):
                result = run(model, limit, num_fewshot, add_bos)
                (out / f"{name}-{num_fewshot}-{'bos' if add_bos else 'plain'}.json").write_text(json.dumps(result) + "\n")
                print(name, num_fewshot, add_bos, flush=True)
    result = run(models["nano"], limit, 2, True, chat=True)
    (out / "nano-2-chat.json").write_text(json.dumps(result) + "\n")
    flags = re.findall(r'^\s+"(--?[a-zA-Z_]+)",$', inspect.getsource(lm_eval._cli.run), re.M)
    (out / "flags.txt").write_text("".join(f"{flag}\n" for flag in sorted(set(flags))))
    (out / "schema.txt").write_text("".join(f"{line}\n" for line in schema(models["nano"])))


if __name__ == "__main__":
    main()
