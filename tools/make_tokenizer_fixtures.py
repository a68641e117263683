"""What the `tokenizers` library, transformers and SentencePiece say about small tokenizers of every kind: the reference of test/text/tokenizer_files.test.ts.

Run: pip install tokenizers transformers sentencepiece, then python tools/make_tokenizer_fixtures.py --out test/fixtures/tokenizers.json
The vocabularies are trained on a few words; what counts is the components. Made with tokenizers 0.23.2, transformers 5.17.0, sentencepiece 0.2.2.
"""
import argparse
import base64
import json
import os
import random
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
import sentencepiece
from tokenizers import Tokenizer, models, trainers
from transformers import AutoTokenizer

WORDS = "patient has fever cough dose 500 mg don't We'll HELLO naïve café مريض حمى سعال في من السَّلامُ عَلَيْكُمْ ٠١٢ 漢字 👩‍👩‍👧 ﬁ Ａ ½".split()
TEXTS = [
    "", " ", "  Hello  world ", " Hello", "patient has fever,\r\ncough; dose=500mg!", "don't WE'LL 'ſ", "مريض حمى سعال", "السَّلامُ عَلَيْكُمْ مـــرحبا ﷺ ﻻ", "٠١٢٣ 12345", "👩‍👩‍👧🇦🇪",
    "e\u0301 é ½ ﬁ Ａ ΑΣ", "\u0000\t\u0085\u00a0\ufeff\u200b x", "漢字かな", "▁a▁▁b", "a<s>b </s> c", "x <mask>  y<mask>z", "<|im_start|>user\nHi<|im_end|> end", "foo foobar Foo  foo", "aaaaaaaaaaaa",
]
SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{i:02X}>" for i in range(256)]

CL100K = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
POSSESSIVE = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
O200K = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
ODD = r"(?<=a)b|\bhas\b|[[:punct:]]+|\h{3}|[a-f&&[^c]]x|^\s"


def regex(source, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": {"Regex": source}, "behavior": behavior, "invert": invert}


def seq(name, parts):
    return {"type": "Sequence", name: parts}


def byte_level(prefix=False, use_regex=True):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": use_regex}


def metaspace(scheme, split=True):
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split}


def replace(pattern, content):
    return {"type": "Replace", "pattern": {"String": pattern}, "content": content}


def template(single):
    ids = {"<s>": 1, "</s>": 2}
    piece = lambda one: {"Sequence": {"id": "A", "type_id": 0}} if one == "$A" else {"SpecialToken": {"id": one, "type_id": 0}}
    tokens = {one: {"id": one, "ids": [id], "tokens": [one]} for one, id in ids.items()}
    return {"type": "TemplateProcessing", "single": [piece(one) for one in single.split()], "pair": [piece("$A"), {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": tokens}


def token(content, special=False, **flags):
    return {"id": 0, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": not special, "special": special, **flags}


BPE_NONE = {"dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
LLAMA_NORM = seq("normalizers", [{"type": "Prepend", "prepend": "▁"}, replace(" ", "▁")])
LLAMA_DEC = seq("decoders", [replace("▁", " "), {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}])
BERT = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}
BL_DEC = byte_level(True)
CHATML = [token("<|im_start|>", normalized=False), token("<|im_end|>", True)]
FLAGS = [token("foo", single_word=True), token("<mask>", True, lstrip=True, rstrip=True), token("Hi", normalized=True), token(" foo", rstrip=True, normalized=False)]
# name: model, options of the model, normalizer, pre-tokenizer, post-processor, decoder, added tokens
CASES = {
    "Llama 2, Mixtral": ("spm", {}, LLAMA_NORM, None, template("<s> $A"), LLAMA_DEC, CHATML),
    "Llama, not legacy": ("spm", {}, None, metaspace("first", False), template("<s> $A </s>"), LLAMA_DEC, FLAGS),
    "Metaspace always": ("spm", {}, None, metaspace("always", False), None, LLAMA_DEC, CHATML),
    "Metaspace never": ("spm", {}, None, metaspace("never"), None, LLAMA_DEC, FLAGS),
    "Metaspace, digits": ("spm", {}, None, seq("pretokenizers", [metaspace("first", False), {"type": "Digits", "individual_digits": True}]), None, LLAMA_DEC, []),
    "Gemma": ("spm", {}, replace(" ", "▁"), {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}, template("<s> $A"), seq("decoders", LLAMA_DEC["decoders"][:3]), CHATML),
    "unknown, not fused": ("spm", {"byte_fallback": False, "fuse_unk": False}, LLAMA_NORM, None, None, LLAMA_DEC, []),
    "unknown, fused": ("spm", {"byte_fallback": False}, LLAMA_NORM, None, None, LLAMA_DEC, []),
    "unknown, none": ("spm", {"byte_fallback": False, "unk_token": None}, LLAMA_NORM, None, None, LLAMA_DEC, []),
    "Llama 3": ("bytes", {"ignore_merges": True}, None, seq("pretokenizers", [regex(CL100K), byte_level(False, False)]), seq("processors", [byte_level(True), template("<s> $A")]), BL_DEC, CHATML),
    "Qwen": ("bytes", {}, {"type": "NFC"}, seq("pretokenizers", [regex(CL100K.replace("{1,3}", "")), byte_level(False, False)]), byte_level(), BL_DEC, CHATML),
    "possessive": ("bytes", {}, None, seq("pretokenizers", [regex(POSSESSIVE, "Removed", True), byte_level(False, False)]), None, BL_DEC, []),
    "o200k": ("bytes", {}, None, seq("pretokenizers", [regex(O200K), byte_level(False, False)]), None, BL_DEC, []),
    "GPT-2": ("bytes", {}, None, byte_level(), None, BL_DEC, FLAGS),
    "RoBERTa": ("bytes", {}, None, byte_level(True), {"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1], "trim_offsets": True, "add_prefix_space": True}, BL_DEC, []),
    "Falcon": ("bytes", {}, None, seq("pretokenizers", [{"type": "Punctuation", "behavior": "Contiguous"}, byte_level(), {"type": "Digits", "individual_digits": False}, regex("[0-9][0-9][0-9]")]), None, BL_DEC, []),
    "an odd expression": ("bytes", {}, None, seq("pretokenizers", [regex(ODD, "Contiguous"), byte_level(False, False)]), None, BL_DEC, []),
    "byte-level normalizer": ("bytes", {}, {"type": "ByteLevel"}, None, None, BL_DEC, [token("é", normalized=True)]),
    "BERT": ("words", {}, BERT, {"type": "BertPreTokenizer"}, {"type": "BertProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1]}, {"type": "WordPiece", "prefix": "##", "cleanup": True}, CHATML),
    "T5": ("unigram", {}, seq("normalizers", [{"type": "Nmt"}, {"type": "NFKC"}, {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]), seq("pretokenizers", [{"type": "WhitespaceSplit"}, metaspace("always")]), template("$A </s>"), metaspace("always"), FLAGS),
    "ALBERT": ("unigram", {}, seq("normalizers", [replace("``", '"'), {"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"}, {"type": "Strip", "strip_left": False, "strip_right": True}]), metaspace("always"), None, {"type": "Sequence", "decoders": [{"type": "Fuse"}, replace("e", "E"), {"type": "WordPiece", "prefix": "##", "cleanup": True}]}, []),
    "words": ("level", {}, {"type": "NFD"}, {"type": "Whitespace"}, None, None, []),
    "words by sign": ("level", {}, None, seq("pretokenizers", [{"type": "CharDelimiterSplit", "delimiter": " "}, {"type": "Punctuation", "behavior": "MergedWithNext"}, {"type": "FixedLength", "length": 4}]), None, {"type": "CTC", "pad_token": "<s>", "word_delimiter_token": "|", "cleanup": True}, []),
    "suffix of a word": ("suffix", {}, {"type": "Lowercase"}, {"type": "Whitespace"}, None, {"type": "BPEDecoder", "suffix": "</w>"}, []),
}


def train():
    rng = random.Random(1)
    corpus = [" ".join(rng.choice(WORDS) for _ in range(10)) for _ in range(200)]

    def bpe(special, text, pre, **options):
        t = Tokenizer(models.BPE(**{k: v for k, v in options.items() if k != "initial_alphabet"}))
        if pre:
            t.pre_tokenizer = pre
        trainer = {k: v for k, v in options.items() if k in ("initial_alphabet", "end_of_word_suffix")}
        t.train_from_iterator(text, trainers.BpeTrainer(vocab_size=len(special) + len(options.get("initial_alphabet", [])) + 150, special_tokens=special, show_progress=False, limit_alphabet=max(60, len(options.get("initial_alphabet", []))), **trainer))
        return json.loads(t.to_str())["model"]

    from tokenizers import pre_tokenizers as P

    out = {
        "spm": {**bpe(SPECIAL + BYTES, corpus, P.Metaspace()), "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True},
        "bytes": bpe(SPECIAL, corpus, P.ByteLevel(add_prefix_space=False), initial_alphabet=sorted(P.ByteLevel.alphabet())),
        "suffix": bpe(SPECIAL, corpus, P.Whitespace(), end_of_word_suffix="</w>", unk_token="<unk>"),
    }
    for name, model, trainer in (
        ("unigram", models.Unigram(), trainers.UnigramTrainer(vocab_size=120, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)),
        ("words", models.WordPiece(unk_token="<unk>"), trainers.WordPieceTrainer(vocab_size=160, special_tokens=SPECIAL, show_progress=False, limit_alphabet=60)),
        ("level", models.WordLevel(unk_token="<unk>"), trainers.WordLevelTrainer(vocab_size=60, special_tokens=SPECIAL, show_progress=False)),
    ):
        t = Tokenizer(model)
        t.pre_tokenizer = P.Metaspace() if name == "unigram" else P.Whitespace()
        t.train_from_iterator(corpus, trainer)
        out[name] = json.loads(t.to_str())["model"]
    for model in out.values():
        if "merges" in model:
            model["merges"] = [" ".join(merge) for merge in model["merges"]]
    return out


def tokenizer_json(base, case):
    name, options, normalizer, pre, post, decoder, added = case
    special = [{**token(one, True), "id": i} for i, one in enumerate(SPECIAL)]
    listed = [{**one, "id": len(base[name]["vocab"]) + i} for i, one in enumerate(added)]
    return {"version": "1.0", "added_tokens": special + listed, "normalizer": normalizer, "pre_tokenizer": pre, "post_processor": post, "decoder": decoder, "model": {"name": name, **options}}


def whole(base, spec):
    model = dict(spec["model"])
    return {**spec, "model": {**base[model.pop("name")], **model}}


def components(base):
    out = []
    for name, case in CASES.items():
        spec = tokenizer_json(base, case)
        t = Tokenizer.from_str(json.dumps(whole(base, spec)))
        rng = random.Random(name)
        size = max(t.get_vocab().values()) + 1
        rows = [[t.encode(text, add_special_tokens=False).ids, t.decode(t.encode(text).ids)] for text in TEXTS if text]
        ids = [[rng.randrange(min(size, top)) for _ in range(20)] for top in (size, 150)]
        added = t.encode("Hello").ids
        out.append({"name": name, "json": spec, "rows": rows, "hello": added, "decoded": [[one, skip, t.decode(one, skip_special_tokens=skip)] for one in ids for skip in (False, True)]})
    return out


# name: tokenizer_config.json, config.json, changes of tokenizer.json, further files
L = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
FOLDERS = {
    "LlamaTokenizer of a Llama": ({**L, "tokenizer_class": "LlamaTokenizer"}, "llama", {}, {}),
    "legacy": ({**L, "tokenizer_class": "LlamaTokenizerFast", "legacy": True}, "llama", {}, {}),
    "no prefix": ({**L, "tokenizer_class": "LlamaTokenizer", "add_prefix_space": False}, "llama", {}, {}),
    "LlamaTokenizer of a Mixtral": ({**L, "tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": False, "add_eos_token": True}, "mixtral", {}, {}),
    "no post-processor": ({**L, "tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": True}, "mixtral", {"post_processor": None}, {}),
    "tokens in the decoder alone": ({**L, "eos_token": "<|im_end|>", "added_tokens_decoder": {"NEXT": {k: v for k, v in token("<|im_end|>", True).items() if k != "id"}, "NEXT+1": {k: v for k, v in token("<|im_start|>", normalized=False).items() if k != "id"}}}, "mixtral", {}, {}),
    "tokens in added_tokens.json alone": ({**L, "eos_token": "<|im_end|>"}, "mixtral", {}, {"added_tokens.json": {"<|im_end|>": "NEXT", "<|im_start|>": "NEXT+1"}}),
    "an end of text that is listed as ordinary": ({**L, "eos_token": "<|im_end|>"}, "mixtral", {"more": [token("<|im_end|>", normalized=False), token("<|im_start|>", normalized=False)]}, {}),
    "a gap in the ids": (L, "mixtral", {"more": [{**token("<|im_end|>", True), "gap": 7}]}, {}),
    "names of the model's own": ({**L, "extra_special_tokens": {"image_token": "<mask>"}, "pad_token": "</s>", "padding_side": "left"}, "mixtral", {}, {}),
    "padding and truncation in the file": (L, "mixtral", {"padding": {"strategy": "BatchLongest", "direction": "Left", "pad_to_multiple_of": None, "pad_id": 2, "pad_type_id": 0, "pad_token": "</s>"}, "truncation": {"direction": "Left", "max_length": 5, "strategy": "LongestFirst", "stride": 0}}, {}),
}
CALLS = [{"padding": True}, {"padding": "max_length", "max_length": 12, "truncation": True}, {"truncation": True, "max_length": 4}, {"max_length": 3}, {"padding": True, "pad_to_multiple_of": 8, "return_special_tokens_mask": True, "return_length": True}, {"padding": "longest", "max_length": 4, "truncation": "only_first", "padding_side": "right"}]


def numbered(value, size):
    text = json.dumps(value, ensure_ascii=False)
    for i in (1, 0):
        name = f"NEXT+{i}" if i else "NEXT"
        text = text.replace(f'"{name}": {{', f'"{size + i}": {{').replace(f': "{name}"', f": {size + i}")
    return json.loads(text)


def folders(base):
    out = []
    spec = tokenizer_json(base, CASES["Llama 2, Mixtral"])
    spec["added_tokens"] = spec["added_tokens"][:3]
    size = len(base["spm"]["vocab"])
    for name, (config, model_type, change, files) in FOLDERS.items():
        change = dict(change)
        more = [{**{k: v for k, v in one.items() if k != "gap"}, "id": size + i + one.get("gap", 0)} for i, one in enumerate(change.pop("more", []))]
        one = {**spec, **change, "added_tokens": spec["added_tokens"] + more}
        files = numbered({"tokenizer_config.json": config, **files, "config.json": {"model_type": model_type}}, size)
        with tempfile.TemporaryDirectory() as dir:
            for file, content in {**files, "tokenizer.json": whole(base, one)}.items():
                Path(dir, file).write_text(json.dumps(content))
            t = AutoTokenizer.from_pretrained(dir)
        texts = [" Hello", "patient <mask> x", "<|im_start|>user\nHi<|im_end|> end", "</s>x"]
        rows = [[text, t(text, add_special_tokens=False)["input_ids"], t(text)["input_ids"], t.decode(t(text)["input_ids"], skip_special_tokens=True)] for text in texts]
        calls = [[call, dict(t(texts[:3], **call))] for call in CALLS] if t.pad_token_id is not None else []
        for _, result in calls:
            result.pop("token_type_ids", None)
        out.append({"name": name, "json": one, "files": files, "rows": rows, "calls": calls, "ids": [t.bos_token_id, t.eos_token_id, t.pad_token_id, t.unk_token_id], "special": t.all_special_tokens})
    return out


RULES = "FF21\t41\nFB01\t66 69\nFDFA\t635 644 649\n65 301\tE9\n3000\t20\n"
PROCESSORS = {
    "as Llama has it": dict(normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True, allow_whitespace_only_pieces=True, byte_fallback=True, vocab_size=340),
    "own rules, spaces squeezed": dict(normalization_rule_tsv=RULES, remove_extra_whitespaces=True),
    "user-defined pieces": dict(normalization_rule_name="identity", remove_extra_whitespaces=False, user_defined_symbols=["<sep>", "fe", "r c"]),
    "user-defined, squeezed": dict(normalization_rule_tsv=RULES, user_defined_symbols=["<sep>", "ﬁ"]),
    "space behind": dict(normalization_rule_name="identity", treat_whitespace_as_suffix=True),
    "no prefix": dict(normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=False),
    "Unigram": dict(model_type="unigram", normalization_rule_tsv=RULES, user_defined_symbols=["<sep>"]),
}


def sentencepieces():
    rng = random.Random(2)
    out = []
    texts = ["patient has fever", " patient", "patient  has   fever ", "patient<sep>fever", "<sep>", "fever cough", "ﻻ ﷺ Ａ ﬁ e\u0301\u3000x", "مريض  حمى", "\tx", "x\u00a0y ▁ ▁", "   ", "Zω"]
    with tempfile.TemporaryDirectory() as dir:
        corpus = Path(dir, "corpus.txt")
        corpus.write_text("\n".join(" ".join(rng.choice([*WORDS[:6], *WORDS[11:16], "<sep>"]) for _ in range(10)) for _ in range(300)))
        for name, options in PROCESSORS.items():
            rules = options.pop("normalization_rule_tsv", None)
            if rules:
                Path(dir, "rules.tsv").write_text(rules)
                options["normalization_rule_tsv"] = f"{dir}/rules.tsv"
            settings = {"model_type": "bpe", "vocab_size": 90, "hard_vocab_limit": False, "character_coverage": 1.0, "num_threads": 1, "minloglevel": 2, "input": str(corpus), "model_prefix": f"{dir}/m"}
            sentencepiece.SentencePieceTrainer.train(**{**settings, **options})
            data = Path(dir, "m.model").read_bytes()
            sp = sentencepiece.SentencePieceProcessor(model_proto=data)
            out.append({"name": name, "model": base64.b64encode(clean(data)).decode(), "rows": [[text, sp.encode(text)] for text in texts]})
    return out


def clean(data):
    """Without the paths of the machine that trained it."""
    from transformers.convert_slow_tokenizer import import_protobuf

    proto = import_protobuf().ModelProto()
    proto.ParseFromString(data)
    for field in ("input", "model_prefix", "user_defined_symbols"):
        proto.trainer_spec.ClearField(field)
    proto.normalizer_spec.ClearField("normalization_rule_tsv")
    return proto.SerializeToString()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()
    base = train()
    fixture = {"texts": [text for text in TEXTS if text], "models": base, "components": components(base), "folders": folders(base), "sentencepiece": sentencepieces()}
    args.out.write_text(json.dumps(fixture, ensure_ascii=True, separators=(",", ":")) + "\n")
    print(len(fixture["components"]), "pipelines,", len(fixture["folders"]), "folders,", args.out.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
