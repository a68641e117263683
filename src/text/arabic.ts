/** The little that the product needs to know of the two languages. */
export type Language = "en" | "ar";

/** The language of most letters; English for a text without letters. */
export function language_of(text: string): Language {
  const arabic = text.match(/\p{Script=Arabic}/gu)?.length ?? 0;
  const latin = text.match(/\p{Script=Latin}/gu)?.length ?? 0;
  return arabic > latin ? "ar" : "en";
}

/** The letters of options, in the order in which each language counts. */
export const option_letters: Record<Language, readonly string[]> = {
  en: [..."ABCDEFGHIJ"],
  ar: ["أ", "ب", "ج", "د", "هـ", "و", "ز", "ح", "ط", "ي"],
};

/**
 * The same text without the characters that show nothing: the marks of direction that Arabic keyboards, chats and spreadsheets put around
 * words, and spaces of no width. For comparing what a person wrote; a text that a model reads keeps them.
 */
export const without_marks = (text: string): string =>
  text.replace(/[\u061c\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]/g, "");

/** The same text with the digits and the decimal mark of Arabic and Persian as Western ones. */
export function western_digits(text: string): string {
  return text.replace(/[٠-٩۰-۹]/g, (digit) => String(digit.charCodeAt(0) & 0xf)).replaceAll("٫", ".");
}
