/** `bimedix/eval`: the evaluation for programs. A model, a run, its results, and the files and tables made of them. */
/// <reference types="node" preserve="true" />
export { type Comparison, compare_runs } from "./compare.js";
export { contamination, corpus_files } from "./contamination.js";
export { mcqa_task } from "./datasets.js";
export { local_model, remote_model } from "./model.js";
export { published } from "./published.js";
export { write_report } from "./report.js";
export { merge_runs, type Results, to_results, write_results } from "./results.js";
export { type EvalModel, type EvalOptions, type Run, run_tasks, type Sample, samples_of } from "./run.js";
export { type Table, tables, to_csv, to_latex, to_markdown, to_text } from "./table.js";
export { type Task, task_groups, tasks } from "./tasks.js";
