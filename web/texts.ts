/** Every word of the interface, in both languages. */
export type Language = "en" | "ar";

const en = {
  title: "BiMediX",
  notice:
    "Research demonstration, not medical advice: answers may be wrong. In an emergency call your local emergency number.",
  chat: "Chat",
  mcqa: "Multiple choice",
  routing: "Routing",
  settings: "Settings",
  views: "Views",
  conversations: "Conversations",
  new_conversation: "New conversation",
  delete: "Delete",
  untitled: "New conversation",
  write: "Write a question",
  send: "Send",
  stop: "Stop",
  retry: "Answer again",
  edit: "Edit",
  save: "Send again",
  cancel: "Cancel",
  you: "You",
  assistant: "BiMediX",
  stopped: "Stopped.",
  writing: "An answer is being written …",
  empty: "Ask something in English or Arabic. Conversations are kept in this browser only.",
  model: "Model",
  question: "Question",
  option: "Option",
  add_option: "Add an option",
  remove_option: "Remove option",
  ask: "Which is right?",
  likeliest: "Likeliest",
  english_text: "English text",
  arabic_text: "Arabic text",
  show: "Show the experts",
  routing_about:
    "Every token is sent to some experts in every layer. A row is a layer, a column a token; the colour is the likeliest expert, its strength the router's share for it.",
  expert: "Expert",
  layer: "Layer",
  language: "Language",
  theme: "Appearance",
  theme_auto: "As the system",
  theme_light: "Light",
  theme_dark: "Dark",
  temperature: "Temperature (0 takes the likeliest)",
  max_tokens: "Longest answer, in tokens",
  system: "Instruction before every conversation",
  digits: "Digits in Arabic text",
  digits_written: "As written",
  digits_arabic: "٠١٢٣",
  digits_latin: "0123",
  clear: "Delete all conversations",
  clear_sure: "Delete all conversations from this browser?",
  storage_full: "The browser's storage is full: this conversation is kept until the page is closed.",
  waiting: "Waiting for the model …",
  routing_shown: "The experts of both texts are shown.",
  failed: "That failed",
  menu: "Menu",
  close: "Close",
};

export type Texts = typeof en;

const ar: Texts = {
  title: "BiMediX",
  notice: "عرض بحثي وليس نصيحة طبية: قد تكون الإجابات خاطئة. في حالة الطوارئ اتصل برقم الطوارئ المحلي.",
  chat: "محادثة",
  mcqa: "اختيار من متعدد",
  routing: "التوجيه",
  settings: "الإعدادات",
  views: "الأقسام",
  conversations: "المحادثات",
  new_conversation: "محادثة جديدة",
  delete: "حذف",
  untitled: "محادثة جديدة",
  write: "اكتب سؤالا",
  send: "إرسال",
  stop: "إيقاف",
  retry: "إجابة أخرى",
  edit: "تعديل",
  save: "إرسال من جديد",
  cancel: "إلغاء",
  you: "أنت",
  assistant: "BiMediX",
  stopped: "توقفت الإجابة.",
  writing: "تُكتب الإجابة الآن …",
  empty: "اسأل بالعربية أو بالإنجليزية. تُحفظ المحادثات في هذا المتصفح وحده.",
  model: "النموذج",
  question: "السؤال",
  option: "الخيار",
  add_option: "أضف خيارا",
  remove_option: "احذف الخيار",
  ask: "أيها الصحيح؟",
  likeliest: "الأرجح",
  english_text: "نص إنجليزي",
  arabic_text: "نص عربي",
  show: "أظهر الخبراء",
  routing_about:
    "يُرسل كل رمز إلى بعض الخبراء في كل طبقة. الصف طبقة والعمود رمز، واللون هو الخبير الأرجح، وشدته نصيبه عند الموجّه.",
  expert: "الخبير",
  layer: "الطبقة",
  language: "اللغة",
  theme: "المظهر",
  theme_auto: "كما في النظام",
  theme_light: "فاتح",
  theme_dark: "داكن",
  temperature: "درجة العشوائية (0 تأخذ الأرجح)",
  max_tokens: "أطول إجابة بالرموز",
  system: "تعليمات قبل كل محادثة",
  digits: "الأرقام في النص العربي",
  digits_written: "كما كُتبت",
  digits_arabic: "٠١٢٣",
  digits_latin: "0123",
  clear: "احذف كل المحادثات",
  clear_sure: "هل تريد حذف كل المحادثات من هذا المتصفح؟",
  storage_full: "امتلأ تخزين المتصفح: تبقى هذه المحادثة حتى تُغلق الصفحة.",
  waiting: "بانتظار النموذج …",
  routing_shown: "يظهر الآن خبراء النصين.",
  failed: "لم ينجح ذلك",
  menu: "القائمة",
  close: "إغلاق",
};

export const texts: Record<Language, Texts> = { en, ar };

/** Numbers as the interface's language writes them. */
export const number_format = (language: Language, options: Intl.NumberFormatOptions = {}) =>
  new Intl.NumberFormat(language === "ar" ? "ar-u-nu-arab" : "en", options);

export type Digits = "written" | "arabic" | "latin";

/** Writes the digits of a text's parts: in Arabic text in one shape, and Persian ones are read too. */
export function digits_of(text: string, digits: Digits): (part: string) => string {
  if (digits === "written" || !/\p{Script=Arabic}/u.test(text)) return (part) => part;
  if (digits === "latin") return (part) => part.replace(/[٠-٩۰-۹]/g, (digit) => String(digit.charCodeAt(0) & 0xf));
  return (part) => part.replace(/[0-9۰-۹]/g, (digit) => String.fromCharCode(0x660 + (digit.charCodeAt(0) & 0xf)));
}
