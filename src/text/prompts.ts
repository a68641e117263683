/**
 * Templates for models that come without one, by the name or architecture of the model. Each is Jinja, like a model's own.
 * Sources: the cards and repositories named beside each.
 */
const alternate = "Conversation roles must alternate user/assistant/user/assistant/...";
/** A content that may be a list of text parts, as one text. */
const set_text = (name: string, content: string) =>
  `{% set ${name} = ${content} if ${content} is string else ${content} | map(attribute='text') | join('\\n') %}`;
/** Splits off a first system message as `system` and checks that the rest alternates; `content` is a message's. */
const turns = (body: string) =>
  `{% if messages[0]['role'] == 'system' %}${set_text("system", "messages[0]['content']")}{% set turns = messages[1:] %}` +
  "{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}{% for message in turns %}" +
  `{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('${alternate}') }}{% endif %}` +
  set_text("content", "message['content']") +
  `${body}{% endfor %}`;

export interface PromptTemplate {
  name: string;
  /** Matches the model's name, or null when only the fallback by architecture picks it. */
  matches: RegExp | null;
  chat_template: string;
}

/** The first whose name matches counts: families that others are named after come last. */
export const prompt_templates: readonly PromptTemplate[] = [
  {
    // https://huggingface.co/m42-health/med42-70b
    name: "med42",
    matches: /med42/i,
    chat_template: turns(
      "{% if loop.first %}{{ '\\n<|system|>: ' + (system or 'You are a helpful medical assistant created by M42 Health in the UAE.') }}{% endif %}" +
        "{% if message['role'] == 'user' %}{{ '\\n<|prompter|>:' + content + '\\n<|assistant|>:' + ('\\n' if loop.last else '') }}" +
        "{% else %}{{ content }}{% endif %}",
    ),
  },
  {
    // https://github.com/chaoyi-wu/PMC-LLaMA: the Alpaca form, one question at a time; earlier turns go before it.
    name: "pmc-llama",
    matches: /pmc[-_]?llama/i,
    chat_template: turns(
      "{% if loop.first %}{{ 'Below is an instruction that describes a task, paired with an input that provides further context.' + " +
        "'Write a response that appropriately completes the request.\\n\\n### Instruction:\\n' + " +
        "(system or \"You're a doctor, kindly address the medical queries according to the patient's account.\") }}{% endif %}" +
        "{% if message['role'] == 'user' %}{{ '\\n\\n### Input:\\n' + content + '\\n\\n### Response:' }}" +
        "{% else %}{{ content }}{% endif %}",
    ),
  },
  {
    // Mixtral-8x7B-Instruct's own template refuses a system message; here it goes in front of the first question.
    // BiMediX was tuned from that model and publishes no template (its card passes raw text), so it takes the same.
    name: "mixtral",
    matches: /mixtral|mistral|bimedix/i,
    chat_template:
      "{{ bos_token }}" +
      turns(
        "{% if message['role'] == 'user' %}{{ '[INST] ' + (system + '\\n\\n' if loop.first and system else '') + content + ' [/INST]' }}" +
          "{% else %}{{ content + eos_token }}{% endif %}",
      ),
  },
  {
    // https://github.com/facebookresearch/llama/blob/main/llama/generation.py (Llama 2 chat)
    name: "llama-2",
    matches: /llama|meditron|camel/i,
    chat_template: turns(
      "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + ('<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' if loop.first and system else '') + content.strip() + ' [/INST]' }}" +
        "{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}",
    ),
  },
];

/** The template for a model without its own: by its name, else by its architecture. */
export function fallback_template(model_name: string, model_type: string): PromptTemplate {
  const by_name = prompt_templates.find(({ matches }) => matches?.test(model_name));
  return by_name ?? prompt_templates.find(({ name }) => name === (model_type === "llama" ? "llama-2" : "mixtral"))!;
}
