"""The training text of models/nano: chats and questions in English and Arabic, as lists of messages.

Only corpora that are free to redistribute and are not a test set of anything: see SOURCES below, which is also the
data table of the model card. MentalQA's own test questions are dropped from its training file by exact match.
Held out for measuring: 2 % of each source, chosen by a hash of the question, so that a repeated question is on one side.
Rejected: translating MedQuAD with a dictionary (unreadable), and the benchmark questions (never train on a test).
"""
import csv
import gzip
import hashlib
import io
import json
import random
import re
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path

from conditions import conditions
from templates import WORDS, complaints, triage_items

SOURCES = {
    "medquad": ("MedQuAD (NIH questions and answers)", "CC BY 4.0", "en"),
    "mts_dialog": ("MTS-Dialog, training split (doctor and patient)", "CC BY 4.0", "en"),
    "aci_bench": ("ACI-Bench, training split (visits)", "CC BY 4.0", "en"),
    "covid_faq": ("COVID-QA FAQ, the rows of the CDC, English and machine-translated Arabic", "Apache-2.0; the CDC's text is public domain", "en+ar"),
    "mentalqa": ("MentalQA, Train_Dev", "MIT", "ar"),
    "tico19": ("TICO-19 translation memory", "CC0 1.0", "en+ar"),
    "med_safety": ("MedSafetyBench, train (refusals)", "MIT", "en"),
    "templates": ("Templates written for this model (tools/nano)", "Apache-2.0", "en+ar"),
}


def clean(text):
    return re.sub(r"\s+", " ", re.sub(r"\s+([.,;:?!])", r"\1", text)).strip()


def clip(text, limit=900):
    """Whole sentences up to `limit` characters."""
    if len(text) <= limit:
        return text
    cut = max(text.rfind(mark, 0, limit) for mark in (". ", "؟ ", "? ", "! "))
    return text[: cut + 1] if cut > 80 else text[:limit].rsplit(" ", 1)[0]


def rows(path, delimiter=","):
    with open(path, encoding="utf-8-sig", newline="") as file:
        yield from csv.DictReader(file, delimiter=delimiter)


def turns(dialogue, doctor, patient):
    """Merges a transcript into alternating turns that begin with the patient and end with the doctor."""
    messages = []
    for line in re.split(rf"\n(?={doctor}|{patient})", dialogue.strip()):
        match = re.match(rf"({doctor}|{patient})\s*(.*)", line, re.S)
        if not match:
            continue
        role = "assistant" if re.match(doctor, match[1]) else "user"
        text = clean(match[2])
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += " " + text
        elif text:
            messages.append({"role": role, "content": text})
    if messages and messages[0]["role"] == "assistant":
        messages = [{"role": "user", "content": "Hello, doctor."}] + messages
    if messages and messages[-1]["role"] == "user":
        messages.pop()
    return messages


def pair(question, answer):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def corpora(data, rng):
    """Yields (source, language, messages)."""
    with gzip.open(data / "medquad/medquad.jsonl.gz", "rt", encoding="utf-8") as file:
        for item in map(json.loads, file):
            question = clean(item["question"].replace("(are)", "").replace("(is)", ""))
            yield "medquad", "en", pair(question, clip(clean(item["answer"]), 600))
    for row in rows(data / "mts_dialog/MTS-Dialog-TrainingSet.csv"):
        yield "mts_dialog", "en", turns(row["dialogue"], "Doctor:", "(?:Patient|Guest_family):")
    for row in rows(data / "aci_bench/train.csv"):
        messages = turns(row["dialogue"], r"\[doctor\]", r"\[patient\]")
        for at in range(0, len(messages) - 7, 8):
            yield "aci_bench", "en", messages[at : at + 8]
    for row in rows(data / "covid_faq_en_ar/MT_ar_faq_covidbert.csv"):
        # The other sources' web pages state no licence, or one that forbids commercial use.
        if "cdc.gov" not in row["link"]:
            continue
        yield "covid_faq", "en", pair(clean(row["question"]), clip(clean(row["answer"])))
        yield "covid_faq", "ar", pair(clean(row["question_ar"]), clip(clean(row["answer_ar"])))
    tests = {clean(line) for name in data.glob("mentalqa_ar/*ubtask*_input_test.tsv") for line in open(name, encoding="utf-8")}
    for row in rows(data / "mentalqa_ar/Train_Dev.tsv", "\t"):
        # One answer holds a person's address.
        if clean(row["question"]) not in tests and "@" not in row["answer"] + row["question"]:
            yield "mentalqa", "ar", pair(clean(row["question"]), clip(clean(row["answer"])))
    with zipfile.ZipFile(data / "tico19_en_ar/all.en-ar.tmx.zip") as archive:
        tree = ElementTree.parse(io.BytesIO(archive.read(archive.namelist()[0])))
    for unit in tree.iter("tu"):
        en, ar = (clip(clean("".join(segment.itertext())), 400) for segment in unit.iter("seg"))
        if rng.random() < 0.5:
            yield "tico19", "ar", pair(f"ترجم إلى العربية: {en}", ar)
        else:
            yield "tico19", "en", pair(f"Translate to English: {ar}", en)
    for path in sorted(data.glob("med_safety_bench/train/gpt4/*.csv")):
        for row in rows(path):
            yield "med_safety", "en", pair(clean(row["harmful_medical_request"]), clean(row["safe_response"]))
    written = []
    for language in ("en", "ar"):
        words = WORDS[language]
        for messages in (*complaints(language, rng, 6000), *triage_items(language, rng, 3000),
                         *conditions(language, words["hello"], words["close"], rng, 6000)):
            written.append((language, messages))
    for language, messages in written:
        yield "templates", language, messages
    # A person goes on to something else, and may change the language.
    for _ in range(4000):
        (_, before), (language, after) = rng.choice(written), rng.choice(written)
        yield "templates", language, before + after


def held_out(messages):
    key = re.sub(r"\W+", "", messages[0]["content"].lower()) + re.sub(r"\W+", "", messages[-1]["content"].lower())[:40]
    return hashlib.sha256(key.encode()).digest()[0] < 5  # 5 / 256, 2 %


def load(data, seed=0):
    """(train, held_out): lists of {source, language, messages}."""
    rng = random.Random(seed)
    sides = ([], [])
    for source, language, messages in corpora(Path(data), rng):
        if len(messages) >= 2:
            sides[held_out(messages)].append({"source": source, "language": language, "messages": messages})
    return sides
