"""What SentencePiece and transformers say about texts and chats: the reference of test/text.

Run: pip install sentencepiece transformers jinja2, then
python tools/make_text_fixtures.py --shared DIR --out test/fixtures/text.json
DIR holds tokenizers/mixtral/tokenizer.model and data/mmlu_med_{en,ar}. The cells of MMLU are not copied: for each file the
fixture has only a hash of all their ids, one little-endian int32 each, with -1 after every cell.
"""
import argparse
import csv
import hashlib
import json
import random
import struct
from pathlib import Path

import sentencepiece
from transformers import PreTrainedTokenizerFast

TRICKY = [
    "", " ", "  ", "a", " a", "a ", "Hello  world", "\n", "a\nb\n\n", "\t tab", "▁", "a▁b", "<s>", "</s> x", "[INST] hi [/INST]", "<unk>", "<0x41>",
    "مرحبا بك", "السَّلامُ عَلَيْكُمْ", "مـــرحبا", "٠١٢٣٤٥٦٧٨٩", "۱۲۳", "ﷺ", "أ. ب. ج. د.", "ملغ 5 mg ٥", "👩‍👩‍👧‍👦", "🇦🇪 ok", "e\u0301", "\u200f\u202btext\u202c", "�", "a�b",
    "\u0000", "\u0001\u007f", "𝕳𝖊𝖑𝖑𝖔", "中文字符", "日本語", "ไทย", "x" * 300, "ab " * 200, "'\"“”‘’", "a\u00a0b", "\ufeffbom", "I've been experiencing increased tiredness in the past week.",
]
CHATS = [
    [{"role": "user", "content": "Hello"}],
    [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi, how can I help?"}, {"role": "user", "content": "أشعر بتعب"}],
]
# The template of Mixtral-8x7B-Instruct-v0.1.
MIXTRAL = "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"


def random_texts(count):
    rng = random.Random(0)
    ranges = [(0x20, 0x7E), (0x20, 0x7E), (0x600, 0x6FF), (0x600, 0x6FF), (0x80, 0x24F), (0x370, 0x1FFF), (0x2000, 0x2BFF), (0x4E00, 0x9FFF), (0xE000, 0xF8FF), (0xFE70, 0xFEFF), (0x1F300, 0x1FAFF)]
    for _ in range(count):
        yield "".join(chr(rng.randint(*rng.choice(ranges))) if rng.random() < 0.85 else " " for _ in range(rng.randint(1, 24)))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()
    processor = sentencepiece.SentencePieceProcessor(model_file=str(args.shared / "tokenizers/mixtral/tokenizer.model"))
    hashes = {}
    for path in sorted(args.shared.glob("data/mmlu_med_??/*/*.csv")):
        digest = hashlib.sha256()
        with open(path, encoding="utf-8-sig", newline="") as file:
            for row in csv.reader(file):
                for cell in row:
                    ids = [*processor.encode(cell), -1]
                    digest.update(struct.pack(f"<{len(ids)}i", *ids))
        hashes[path.relative_to(args.shared).as_posix()] = digest.hexdigest()
    texts = TRICKY + list(random_texts(400))
    fast = PreTrainedTokenizerFast(tokenizer_file=str(args.shared / "tokenizers/mixtral/tokenizer.json"), bos_token="<s>", eos_token="</s>", chat_template=MIXTRAL)
    fixture = {
        "texts": [[text, processor.encode(text), processor.decode(processor.encode(text))] for text in texts],
        "mmlu_sha256": hashes,
        "chats": [[chat, fast.apply_chat_template(chat, tokenize=False), fast.apply_chat_template(chat, return_dict=False)] for chat in CHATS],
    }
    args.out.write_text(json.dumps(fixture, ensure_ascii=True, separators=(",", ":")) + "\n")
    print(len(texts), "texts,", len(hashes), "files,", args.out.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
