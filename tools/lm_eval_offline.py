"""lm-evaluation-harness 0.4.13 on local copies of its data sets, without the hub.

Used by make_eval_fixtures.py and by the benchmark. Packages that multiple-choice tasks never call may be missing: they
are replaced by empty modules. The data sets get the columns that the hub's have, from the folders `bimedix eval --data`
reads. Needs torch, transformers, datasets, lm_eval.
"""
import csv
import importlib.util
import json
import os
import sys
import types
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


class _Absent:
    def __init__(self, *args, **kwargs):
        pass

    def __call__(self, *args, **kwargs):
        return self

    def __getattr__(self, name):
        return _Absent()


for name, names in {
    "evaluate": ["load"],
    "rouge_score": ["rouge_scorer", "scoring"],
    "sqlitedict": ["SqliteDict"],
    "pytablewriter": ["LatexTableWriter", "MarkdownTableWriter"],
    "word2number": ["w2n"],
}.items():
    if importlib.util.find_spec(name) is None:
        module = types.ModuleType(name)
        module.__dict__.update({key: _Absent() for key in names})
        sys.modules[name] = module

import datasets  # noqa: E402
import lm_eval  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

SUBJECTS = ["clinical_knowledge", "college_biology", "college_medicine", "medical_genetics", "professional_medicine", "anatomy"]


def _mmlu_en(data, subject):
    def rows(split):
        with open(data / "mmlu_med_en" / split / f"{subject}_{split}.csv", newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                choices = [row[f"choice{i}"] for i in range(4)]
                yield {"question": row["question"], "subject": subject, "choices": choices, "answer": int(row["answer"])}

    return {split: list(rows(split)) for split in ("test", "dev")}


def _mmlu_ar(data, subject):
    def rows(split):
        with open(data / "mmlu_med_ar" / split / f"{subject}_{split}.csv", newline="", encoding="utf-8") as file:
            for question, a, b, c, d, answer in csv.reader(file):
                yield {"question": question, "A": a, "B": b, "C": c, "D": d, "answer": answer, "subject": subject}

    return {split: list(rows(split)) for split in ("test", "dev")}


def _mmlu_ar_as_english(data, subject):
    return {
        split: [
            {
                "question": row["question"],
                "subject": subject,
                "choices": [row[letter] for letter in "ABCD"],
                "answer": "ABCD".index(row["answer"]),
            }
            for row in rows
        ]
        for split, rows in _mmlu_ar(data, subject).items()
    }


def _jsonl(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _medmcqa(data, _):
    rows = [{**row, "cop": row["cop"] - 1} for row in _jsonl(data / "medmcqa/dev.json")]
    # The folder has no training split, and the harness wants one to exist even where no shots are taken from it.
    return {"validation": rows, "train": rows[:1]}


def _medqa(data, _):
    def rows(file):
        for n, row in enumerate(_jsonl(data / "medqa_4options" / file)):
            endings = {f"ending{i}": row["options"][letter] for i, letter in enumerate("ABCD")}
            yield {"id": f"{n}", "sent1": row["question"], "sent2": "", **endings, "label": "ABCD".index(row["answer_idx"])}

    # The folder has no training split: shots come from the validation split.
    validation = list(rows("phrases_no_exclude_dev.jsonl"))
    return {"test": list(rows("phrases_no_exclude_test.jsonl")), "validation": validation, "train": validation}


def _pubmedqa(data, _):
    test = json.loads((data / "pubmedqa/test_ground_truth.json").read_text())
    rows = json.loads((data / "pubmedqa/ori_pqal.json").read_text())
    columns = ["QUESTION", "CONTEXTS", "LABELS", "MESHES", "YEAR", "reasoning_required_pred", "reasoning_free_pred", "final_decision", "LONG_ANSWER"]
    row = lambda id: {name: rows[id].get(name) for name in columns}
    return {"test": [row(id) for id in test], "train": [row(id) for id in rows if id not in test]}


SOURCES = {
    "cais/mmlu": _mmlu_en,
    "OALL/Arabic_MMLU": _mmlu_ar,
    "bimedix/mmlu_ar": _mmlu_ar_as_english,
    "openlifescienceai/medmcqa": _medmcqa,
    "GBaker/MedQA-USMLE-4-options-hf": _medqa,
    "bigbio/pubmed_qa": _pubmedqa,
}


def use_local_data(data):
    """Makes every task read its data from `data`."""

    def load_dataset(path, name=None, **_):
        splits = SOURCES[path](Path(data), name)
        return datasets.DatasetDict({split: datasets.Dataset.from_list(rows) for split, rows in splits.items()})

    datasets.load_dataset = load_dataset


def arabic_twins():
    """mmlu_SUBJECT_ar: the English task on Arabic questions, letters A to D."""
    import yaml

    folder = Path(lm_eval.__file__).parent / "tasks/mmlu/default"
    template = yaml.safe_load((folder / "_default_template_yaml").read_text())
    for subject in SUBJECTS:
        description = f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"
        yield f"mmlu_{subject}_ar", {
            **template,
            "task": f"mmlu_{subject}_ar",
            "dataset_path": "bimedix/mmlu_ar",
            "dataset_name": subject,
            "description": description,
        }


def evaluate(model, tasks, **options):
    """`simple_evaluate` on names, Arabic twins included."""
    twins = dict(arabic_twins())
    return lm_eval.simple_evaluate(
        model=model,
        tasks=[twins.get(task, task) for task in tasks],
        task_manager=TaskManager(),
        random_seed=0,
        numpy_random_seed=1234,
        torch_random_seed=1234,
        fewshot_random_seed=1234,
        **options,
    )


__all__ = ["HFLM", "SUBJECTS", "evaluate", "use_local_data"]
