/**
 * Published rows of the table, as printed. Source: the tables of BiMediX's README,
 * https://github.com/mbzuai-oryx/BiMediX/blob/8909da1590a1941a56de46fa6dd7bbb068cbd398/README.md (also on the model cards).
 *
 * What is known about them (Pieri et al. 2024 do not state shots or prompts): BiMediX's English row is k/N on the harness's
 * own test splits; Clinical Camel's is the row its authors reported; Meditron's 77.8 of 100 questions is an average of runs.
 */
export type PublishedTable = "en" | "ar" | "bilingual";

export interface PublishedRow {
  model: string;
  /** Accuracy in percent in the order of `columns` (tasks.ts), then the printed average. */
  values: readonly number[];
  note?: string;
}

export const published: Readonly<Record<PublishedTable, readonly PublishedRow[]>> = {
  en: [
    { model: "PMC-LLaMA-13B", values: [63.0, 59.7, 52.6, 70.0, 64.3, 61.5, 50.5, 47.2, 75.6, 60.5] },
    { model: "Med42-70B", values: [75.9, 84.0, 69.9, 83.0, 78.7, 64.4, 61.9, 61.3, 77.2, 72.9] },
    { model: "Clinical Camel-70B", values: [69.8, 79.2, 67.0, 69.0, 71.3, 62.2, 47.0, 53.4, 74.3, 65.9] },
    { model: "Meditron-70B", values: [72.3, 82.5, 62.8, 77.8, 77.9, 62.7, 65.1, 60.7, 80.0, 71.3] },
    { model: "BiMediX", values: [78.9, 86.1, 68.2, 85.0, 80.5, 74.1, 62.7, 62.8, 80.2, 75.4] },
  ],
  ar: [
    { model: "Jais-30B", values: [52.1, 50.7, 40.5, 49.0, 39.3, 43.0, 37.0, 28.8, 74.6, 46.1] },
    { model: "BiMediX (Arabic)", values: [60.0, 54.9, 55.5, 58.0, 58.1, 49.6, 46.0, 40.2, 76.6, 55.4] },
    {
      model: "BiMediX (Bilingual)",
      values: [63.8, 57.6, 52.6, 64.0, 52.9, 50.4, 49.1, 47.3, 78.4, 56.5],
      note: "The printed average is an error: its columns average 57.3.",
    },
  ],
  bilingual: [
    { model: "Jais-30B", values: [57.4, 55.2, 46.2, 55.0, 46.0, 48.9, 40.2, 31.0, 75.5, 50.6] },
    { model: "Mixtral-8x7B", values: [59.1, 57.6, 52.6, 59.5, 53.3, 54.4, 43.2, 40.6, 74.7, 55.0] },
    { model: "BiMediX (Bilingual)", values: [70.6, 72.2, 59.3, 74.0, 64.2, 59.6, 55.8, 54.0, 78.6, 65.4] },
  ],
};
