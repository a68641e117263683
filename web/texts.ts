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
  storage_full:
    "The browser's storage is full: what is new is kept until the page is closed. Delete old conversations.",
  storage_off: "This browser keeps nothing for this page: conversations last until it is closed.",
  try_again: "Try again",
  waiting: "Waiting for the model …",
  routing_shown: "The experts of both texts are shown.",
  left_out: "Older messages were not sent to the model: the conversation is longer than it can read at once.",
  to_end: "To the end",
  deleted: "Deleted.",
  replaced: "Earlier messages were replaced.",
  undo: "Undo",
  task_open: "to do",
  task_done: "done",
  not_used: "Not used: a number from {min} to {max} is needed. In use: {used}.",
  not_used_whole: "Not used: a whole number from {min} to {max} is needed. In use: {used}.",
  option_empty: "Option {option} is empty: fill it in or remove it.",
  detail: "Details",
  problems: {
    busy: "The server has too many requests at the moment. Try again shortly.",
    cut: "The connection was lost before the answer ended.",
    deadline: "The answer took longer than the server allows.",
    elsewhere: "The model runs on another server, which is not asked for this.",
    empty: "Something is empty: write it first.",
    host: "The server does not answer under this address. Whoever runs it can allow it.",
    key: "The server needs an API key. Reload the page and enter the key as the password.",
    length: "The answer reached its greatest length (see Settings), or the end of what the model can read at once.",
    model: "The server no longer has this model. Choose another above and try again.",
    network: "The server cannot be reached. Check that it is running, then try again.",
    options: "Two options are needed at least.",
    other: "That failed.",
    request: "The server did not accept the request.",
    server: "The server failed to answer.",
    starting: "The server or its model is starting or stopping. Try again in a moment.",
    stopped: "Stopped.",
    too_long: "This message is longer than the model can read at once. Shorten it and send it again.",
    unfinished:
      "This answer has no end: the page was closed or reloaded while it was written, or another window is still writing it.",
    upstream: "The server on which the model runs did not answer as it should.",
  },
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
  storage_full: "امتلأ تخزين المتصفح: يبقى الجديد حتى تُغلق الصفحة. احذف محادثات قديمة.",
  storage_off: "لا يحفظ هذا المتصفح شيئا لهذه الصفحة: تبقى المحادثات حتى تُغلق.",
  try_again: "حاول مرة أخرى",
  waiting: "بانتظار النموذج …",
  routing_shown: "يظهر الآن خبراء النصين.",
  left_out: "لم تُرسل الرسائل الأقدم إلى النموذج: المحادثة أطول مما يستطيع قراءته دفعة واحدة.",
  to_end: "إلى النهاية",
  deleted: "تم الحذف.",
  replaced: "استُبدلت رسائل سابقة.",
  undo: "تراجع",
  task_open: "لم تنجز",
  task_done: "منجزة",
  not_used: "لم تُستخدم هذه القيمة: المطلوب عدد من {min} إلى {max}. القيمة المستخدمة: {used}.",
  not_used_whole: "لم تُستخدم هذه القيمة: المطلوب عدد صحيح من {min} إلى {max}. القيمة المستخدمة: {used}.",
  option_empty: "الخيار {option} فارغ: املأه أو احذفه.",
  detail: "التفاصيل",
  problems: {
    busy: "لدى الخادم طلبات كثيرة الآن. حاول مرة أخرى بعد قليل.",
    cut: "انقطع الاتصال قبل أن تنتهي الإجابة.",
    deadline: "استغرقت الإجابة وقتا أطول مما يسمح به الخادم.",
    elsewhere: "يعمل النموذج على خادم آخر لا يُسأل عن هذا.",
    empty: "هناك خانة فارغة: املأها أولا.",
    host: "لا يجيب الخادم على هذا العنوان. يمكن لمن يديره أن يسمح به.",
    key: "يطلب الخادم مفتاح وصول. أعد تحميل الصفحة وأدخل المفتاح في خانة كلمة المرور.",
    length: "بلغت الإجابة أقصى طول لها (انظر الإعدادات)، أو نهاية ما يستطيع النموذج قراءته دفعة واحدة.",
    model: "لم يعد هذا النموذج موجودا على الخادم. اختر غيره في الأعلى ثم حاول مرة أخرى.",
    network: "تعذر الوصول إلى الخادم. تأكد من أنه يعمل ثم حاول مرة أخرى.",
    options: "يلزم خياران على الأقل.",
    other: "لم ينجح ذلك.",
    request: "لم يقبل الخادم هذا الطلب.",
    server: "أخفق الخادم في الإجابة.",
    starting: "الخادم أو نموذجه قيد التشغيل أو الإيقاف. حاول مرة أخرى بعد لحظات.",
    stopped: "أُوقفت الإجابة.",
    too_long: "هذه الرسالة أطول مما يستطيع النموذج قراءته دفعة واحدة. اختصرها وأرسلها من جديد.",
    unfinished: "لم تكتمل هذه الإجابة: أُغلقت الصفحة أو أُعيد تحميلها أثناء كتابتها، أو ما زالت نافذة أخرى تكتبها.",
    upstream: "لم يجب الخادم الذي يعمل عليه النموذج كما ينبغي.",
  },
  menu: "القائمة",
  close: "إغلاق",
};

export const texts: Record<Language, Texts> = { en, ar };

/** Numbers as the interface's language writes them. */
export const number_format = (language: Language, options: Intl.NumberFormatOptions = {}) =>
  new Intl.NumberFormat(language === "ar" ? "ar-u-nu-arab" : "en", options);

/** A text with its gaps filled, each value isolated from the direction around it. */
export const filled = (text: string, values: Readonly<Record<string, string>>): string =>
  text.replace(/\{(\w+)\}/g, (_, name: string) => `\u2068${values[name]}\u2069`);

/** Digits of any script that Arabic and Persian keyboards write, as 0-9. */
const latin_digits = (text: string) => text.replace(/[٠-٩۰-۹]/g, (digit) => String(digit.charCodeAt(0) & 0xf));

/**
 * The number that a person wrote, in digits of either shape, with a point, a comma or an Arabic one before decimals; NaN for all else.
 * In a whole number a separator might stand for thousands, so none is taken.
 */
export function number_of(text: string, whole: boolean): number {
  const plain = latin_digits(text.trim()).replace(/[,٫،]/, ".");
  return (whole ? /^\d+$/ : /^(\d+\.?\d*|\.\d+)$/).test(plain) ? Number(plain) : Number.NaN;
}

export type Digits = "written" | "arabic" | "latin";

/** Writes the digits of a text's parts: in Arabic text in one shape, and Persian ones are read too. */
export function digits_of(text: string, digits: Digits): (part: string) => string {
  if (digits === "written" || !/\p{Script=Arabic}/u.test(text)) return (part) => part;
  if (digits === "latin") return latin_digits;
  return (part) => part.replace(/[0-9۰-۹]/g, (digit) => String.fromCharCode(0x660 + (digit.charCodeAt(0) & 0xf)));
}
