/**
 * The benchmarks, one record each, with the names, prompts and versions of lm-evaluation-harness 0.4.13
 * (https://github.com/EleutherAI/lm-evaluation-harness/tree/4e7e0d47/lm_eval/tasks). A record says how a document becomes
 * a question; where documents come from is in datasets.ts.
 *
 * Arabic comes in the two styles that the field uses: the English skeleton with Arabic text and the letters A to D
 * (`mmlu_anatomy_ar`, like the harness's m_mmlu_ar and global_mmlu_ar), and all in Arabic with أ ب ج د
 * (`arabic_leaderboard_arabic_mmlu_anatomy`).
 */
import { type Language, language_of, option_letters } from "../text/arabic.js";
import { strip } from "../text/python.js";
import { question_words } from "../text/questions.js";

/** A row of the data set, with the columns and values that it has on the Hugging Face hub. */
export type Doc = Record<string, unknown>;

/** The question itself, whatever its data set calls it. */
export const question_of = (doc: Doc): string => String(doc.question ?? doc.sent1 ?? doc.QUESTION ?? "");

export type DatasetKind = "mmlu" | "arabic_mmlu" | "medmcqa" | "medqa" | "pubmedqa" | "mcqa";

export interface Task {
  /** As in lm-evaluation-harness. */
  name: string;
  alias?: string;
  /** The task's `metadata.version` in the harness; it writes "Yaml" where there is none. */
  version: number | "Yaml";
  language: Language;
  /** The column of BiMediX's table, if it has one. */
  column?: Column;
  dataset: {
    kind: DatasetKind;
    /** `dataset_path` and `dataset_name` on the hub; null where no public data set exists and a folder must hold one. */
    path: string | null;
    name?: string;
    test_split: string;
    /** Where shots come from, best first; the first that the data has counts. */
    fewshot_splits: readonly string[];
    /** Below the folder of `--data`: the file of a split. */
    files: Readonly<Record<string, string>>;
  };
  /** Shots: the first ones, or a random choice for every question. */
  sampler: "first_n" | "default";
  /** Stands before everything. */
  description: string;
  doc_to_text: (doc: Doc) => string;
  /** What is scored after the text. */
  doc_to_choice: (doc: Doc) => readonly string[];
  /** The index of the right choice, or its text. */
  doc_to_target: (doc: Doc) => number | string;
  /** The texts behind the letters, for reports and for shuffling; without them the choices are the options. */
  options?: OptionAccess;
  metrics: readonly ("acc" | "acc_norm")[];
}

export interface OptionAccess {
  get: (doc: Doc) => string[];
  /** The document with its options in this order (`order[i]` is the old place of the new option i), target included. */
  reorder: (doc: Doc, order: readonly number[]) => Doc;
}

export const columns = ["CKG", "CBio", "CMed", "MedGen", "ProMed", "Ana", "MedMCQA", "MedQA", "PubmedQA"] as const;
export type Column = (typeof columns)[number];

const subjects: Readonly<Record<string, Column>> = {
  clinical_knowledge: "CKG",
  college_biology: "CBio",
  college_medicine: "CMed",
  medical_genetics: "MedGen",
  professional_medicine: "ProMed",
  anatomy: "Ana",
};
const LETTERS = option_letters.en.slice(0, 4);
const LETTERS_AR = option_letters.ar.slice(0, 4);
const text = (doc: Doc, column: string) => doc[column] as string;
const texts = (doc: Doc, names: readonly string[]) => names.map((name) => text(doc, name));
const listed = (letters: readonly string[], options: readonly string[]) =>
  letters.map((letter, i) => `${letter}. ${options[i]}\n`).join("");

/** Options in columns of their own, and the index of the right one in `target`. */
const in_columns = (names: readonly string[], target: string): OptionAccess => ({
  get: (doc) => texts(doc, names),
  reorder: (doc, order) => ({
    ...doc,
    ...Object.fromEntries(names.map((name, i) => [name, doc[names[order[i]!]!]])),
    [target]: order.indexOf(doc[target] as number),
  }),
});
const in_list: OptionAccess = {
  get: (doc) => doc.choices as string[],
  reorder: (doc, order) => ({
    ...doc,
    choices: order.map((i) => (doc.choices as string[])[i]!),
    answer: order.indexOf(doc.answer as number),
  }),
};

const mmlu_text = (doc: Doc) => `${strip(text(doc, "question"))}\n${listed(LETTERS, doc.choices as string[])}Answer:`;

function mmlu(subject: string, language: Language): Task {
  const folder = `mmlu_med_${language}`;
  return {
    name: `mmlu_${subject}${language === "ar" ? "_ar" : ""}`,
    alias: subject,
    version: 1,
    language,
    column: subjects[subject]!,
    dataset: {
      kind: "mmlu",
      path: language === "en" ? "cais/mmlu" : "OALL/Arabic_MMLU",
      name: subject,
      test_split: "test",
      fewshot_splits: ["dev"],
      files: { test: `${folder}/test/${subject}_test.csv`, dev: `${folder}/dev/${subject}_dev.csv` },
    },
    sampler: "first_n",
    description: `The following are multiple choice questions (with answers) about ${subject.replaceAll("_", " ")}.\n\n`,
    doc_to_text: mmlu_text,
    doc_to_choice: () => LETTERS,
    doc_to_target: (doc) => doc.answer as number,
    options: in_list,
    metrics: ["acc"],
  };
}

function arabic_leaderboard(subject: string): Task {
  const { alias: _, ...twin } = mmlu(subject, "ar");
  return {
    ...twin,
    name: `arabic_leaderboard_arabic_mmlu_${subject}`,
    dataset: { ...twin.dataset, kind: "arabic_mmlu" },
    // Its instruction is part of every document's text, so it is repeated before every shot.
    description: "",
    doc_to_text: (doc) => text(doc, "query"),
    doc_to_choice: () => LETTERS_AR,
    doc_to_target: (doc) => doc.gold as number,
    options: {
      get: (doc) => ["A", "B", "C", "D"].map((name) => text(doc, name)),
      reorder: (doc, order) => {
        const names = ["A", "B", "C", "D"];
        const moved = Object.fromEntries(names.map((name, i) => [name, doc[names[order[i]!]!]]));
        return arabic_query({ ...doc, ...moved, answer: names[order.indexOf(doc.gold as number)] });
      },
    },
    metrics: ["acc", "acc_norm"],
  };
}

/** The columns that the leaderboard's `process_docs` adds. */
export function arabic_query(doc: Doc): Doc {
  const names = ["A", "B", "C", "D"];
  const topic = text(doc, "subject").replaceAll("_", " ");
  const instruction = `الأسئلة التالية هي أسئلة متعددة الإختيارات مع الجواب الصحيح حول ${topic}. \n\n`;
  const options = names.map((name) => text(doc, name));
  return {
    ...doc,
    query: `${instruction}${text(doc, "question")}\n${listed(LETTERS_AR, options)}الإجابة:`,
    choices: LETTERS_AR,
    gold: names.indexOf(doc.answer as string),
  };
}

const OPTIONS = ["opa", "opb", "opc", "opd"];
const medmcqa: Task = {
  name: "medmcqa",
  version: "Yaml",
  language: "en",
  column: "MedMCQA",
  dataset: {
    kind: "medmcqa",
    path: "openlifescienceai/medmcqa",
    test_split: "validation",
    fewshot_splits: ["train"],
    files: { train: "medmcqa/train.json", validation: "medmcqa/dev.json" },
  },
  sampler: "default",
  description: "",
  doc_to_text: (doc) => `Question: ${text(doc, "question")}\nChoices:\n${listed(LETTERS, texts(doc, OPTIONS))}Answer:`,
  doc_to_choice: () => LETTERS,
  doc_to_target: (doc) => doc.cop as number,
  options: in_columns(OPTIONS, "cop"),
  metrics: ["acc", "acc_norm"],
};

const ENDINGS = ["ending0", "ending1", "ending2", "ending3"];
const medqa: Task = {
  name: "medqa_4options",
  version: "Yaml",
  language: "en",
  column: "MedQA",
  dataset: {
    kind: "medqa",
    path: "GBaker/MedQA-USMLE-4-options-hf",
    test_split: "test",
    fewshot_splits: ["train", "validation"],
    files: {
      train: "medqa_4options/phrases_no_exclude_train.jsonl",
      validation: "medqa_4options/phrases_no_exclude_dev.jsonl",
      test: "medqa_4options/phrases_no_exclude_test.jsonl",
    },
  },
  sampler: "default",
  description: "",
  doc_to_text: (doc) => `Question: ${text(doc, "sent1")}\n${listed(LETTERS, texts(doc, ENDINGS))}Answer:`,
  doc_to_choice: () => LETTERS,
  doc_to_target: (doc) => doc.label as number,
  options: in_columns(ENDINGS, "label"),
  metrics: ["acc", "acc_norm"],
};

const pubmedqa: Task = {
  name: "pubmedqa",
  version: 1,
  language: "en",
  column: "PubmedQA",
  dataset: {
    kind: "pubmedqa",
    path: "bigbio/pubmed_qa",
    name: "pubmed_qa_labeled_fold0_source",
    test_split: "test",
    fewshot_splits: ["train"],
    // One file holds all; test_ground_truth.json beside it says which of them are the test.
    files: { train: "pubmedqa/ori_pqal.json", test: "pubmedqa/ori_pqal.json" },
  },
  sampler: "default",
  description: "",
  doc_to_text: (doc) =>
    `Abstract: ${(doc.CONTEXTS as string[]).join("\n")}\nQuestion: ${text(doc, "QUESTION")}\nAnswer:`,
  doc_to_choice: () => ["yes", "no", "maybe"],
  doc_to_target: (doc) => doc.final_decision as string,
  metrics: ["acc"],
};

/** The same record for Arabic questions in the same columns, once a folder holds them: there is no public data set. */
const arabic_twin = (task: Task): Task => ({
  ...task,
  name: `${task.name}_ar`,
  language: "ar",
  dataset: {
    ...task.dataset,
    path: null,
    files: Object.fromEntries(
      Object.entries(task.dataset.files).map(([split, file]) => [split, file.replace("/", "_ar/")]),
    ),
  },
});

/** The letters of an own question's options, in its own language. */
const own_letters = (doc: Doc) => option_letters[own_language(doc)].slice(0, (doc.choices as string[]).length);
const own_language = (doc: Doc) => (doc.language as Language | undefined) ?? language_of(text(doc, "question"));

/** A person's own questions, in the skeleton of MMLU; in Arabic with the letters and the cue of arabic_leaderboard. */
export function mcqa_file(name: string, file: string, language: Language): Task {
  return {
    name,
    version: 2,
    language,
    dataset: { kind: "mcqa", path: null, test_split: "test", fewshot_splits: [], files: { test: file } },
    sampler: "first_n",
    description: "",
    doc_to_text: (doc) => {
      const language = own_language(doc);
      const context = doc.context === undefined ? "" : `${question_words[language].context}: ${text(doc, "context")}\n`;
      const cue = language === "ar" ? "الإجابة:" : "Answer:";
      return `${context}${strip(text(doc, "question"))}\n${listed(own_letters(doc), doc.choices as string[])}${cue}`;
    },
    doc_to_choice: own_letters,
    doc_to_target: (doc) => doc.answer as number,
    options: in_list,
    metrics: ["acc", "acc_norm"],
  };
}

const names = Object.keys(subjects);
const exams = [medmcqa, medqa, pubmedqa];
const all = [
  ...names.map((subject) => mmlu(subject, "en")),
  ...exams,
  ...names.map((subject) => mmlu(subject, "ar")),
  ...exams.map(arabic_twin),
  ...names.map(arabic_leaderboard),
];

export const tasks: ReadonlyMap<string, Task> = new Map(all.map((task) => [task.name, task]));

export interface TaskGroup {
  name: string;
  tasks: readonly string[];
  /** How the group's accuracy is the mean of its tasks'. BiMediX's AVG is unweighted. */
  weight_by_size: boolean;
}

const group = (name: string, members: readonly Task[], weight_by_size = false): TaskGroup => ({
  name,
  tasks: members.map((task) => task.name),
  weight_by_size,
});

/** The task of a group that fills a column of the table. */
export const task_of_column = (group_name: string, column: Column): Task | undefined =>
  task_groups
    .get(group_name)!
    .tasks.map((name) => tasks.get(name)!)
    .find((task) => task.column === column);

/** Names for several tasks, and the mean that is reported for them. */
export const task_groups: ReadonlyMap<string, TaskGroup> = new Map(
  [
    group("bimedix_en", all.slice(0, 9)),
    group("bimedix_ar", all.slice(9, 18)),
    group("bimedix", all.slice(0, 18)),
    group("bimedix_ar_letters", all.slice(18)),
    group("multimedqa", all.slice(0, 9), true),
  ].map((one) => [one.name, one]),
);
