"""The tokenizer of models/nano: BPE with byte fallback in the layout of Mixtral's tokenizer.json.

Run: python tokenizer.py --chat FILE --out DIR. English and Arabic text is balanced before the merges are learned.
Unlike Mixtral's, [INST] and [/INST] are control tokens here, so that a person who types them types plain text.
"""
import argparse
import json
import re
from collections import Counter
from pathlib import Path


CONTROL = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
TEMPLATE = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] + '\n\n' %}{% set turns = messages[1:] %}{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}{% for message in turns %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if message['role'] == 'user' %}{{ '[INST]' + (system if loop.first else '') + message['content'] + '[/INST]' }}{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}{% else %}{{ raise_exception('Only user and assistant roles are supported, and a system message first!') }}{% endif %}{% endfor %}"""


def learn(texts, vocab_size):
    """(pieces, merges) by counting pairs inside words; a word carries its leading space as U+2581."""
    words = Counter()
    for text in texts:
        words.update(re.findall(r"▁?[^▁\W\d_]+|▁?\d|▁|[^\w\s▁]", "▁" + text.replace(" ", "▁").replace("\n", "")))
    alphabet = [c for c, n in Counter("".join(w for w, n in words.items() for _ in range(min(n, 50)))).most_common() if n > 20]
    known = set(alphabet)
    split = [([c for c in word], n) for word, n in words.items() if n > 1 and set(word) <= known]
    pieces, merges = sorted(alphabet), []
    where, counts = {}, Counter()
    for index, (parts, n) in enumerate(split):
        for pair in zip(parts, parts[1:]):
            counts[pair] += n
            where.setdefault(pair, set()).add(index)
    while len(pieces) + 256 + len(CONTROL) < vocab_size:
        pair = max(counts, key=lambda p: (counts[p], p))
        joined = "".join(pair)
        merges.append(list(pair))
        if joined not in known:
            known.add(joined)
            pieces.append(joined)
        for index in where.pop(pair):
            parts, n = split[index]
            for old in zip(parts, parts[1:]):
                counts[old] -= n
            at = 0
            while at < len(parts) - 1:
                if (parts[at], parts[at + 1]) == pair:
                    parts[at : at + 2] = [joined]
                at += 1
            for new in zip(parts, parts[1:]):
                counts[new] += n
                where.setdefault(new, set()).add(index)
        del counts[pair]
    return pieces, merges


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chat", required=True, help="chat.jsonl, which scripts/nano/data.mjs writes")
    parser.add_argument("--out", required=True)
    parser.add_argument("--vocab-size", type=int, default=5120)
    args = parser.parse_args()
    with open(args.chat, encoding="utf-8") as file:
        train = [json.loads(line) for line in file]
    by_language = {"en": [], "ar": []}
    for item in train:
        if item["source"] != "templates":
            for message in item["messages"]:
                by_language["ar" if re.search("[\u0600-\u06ff]", message["content"]) else "en"].append(message["content"])
    size = {language: sum(map(len, texts)) for language, texts in by_language.items()}
    texts = by_language["en"] + by_language["ar"] * max(1, round(0.6 * size["en"] / size["ar"]))
    templates = [m["content"] for item in train if item["source"] == "templates" for m in item["messages"]]
    pieces, merges = learn(texts + templates[::20], args.vocab_size)

    vocab = {piece: i for i, piece in enumerate(CONTROL + [f"<0x{b:02X}>" for b in range(256)] + pieces)}
    special = lambda i, content: {"id": i, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    dump = lambda name, value: (out / name).write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    dump("tokenizer.json", {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [special(i, content) for i, content in enumerate(CONTROL)],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": None,
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                           "pair": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<s>", "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}],
                           "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False, "vocab": vocab, "merges": merges},
    })
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    dump("tokenizer_config.json", {**names, "add_bos_token": True, "add_eos_token": False, "legacy": False, "clean_up_tokenization_spaces": False, "model_max_length": 1024, "tokenizer_class": "PreTrainedTokenizerFast"})
    dump("special_tokens_map.json", names)
    (out / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    print(len(vocab), "tokens,", len(merges), "merges; text", size)


if __name__ == "__main__":
    main()
