"""What transformers makes of chat templates: the reference of test/text/chat_templates.test.ts.

Run: pip install transformers==5.17 jinja2, then python tools/make_chat_fixtures.py --model models/nano --out test/fixtures/chat_templates.json
Each template below holds the constructs of one kind; the conversation has Arabic, an emoji, spaces, Windows line ends and control strings.
"""
import argparse
import copy
import json
import os
import tempfile
from pathlib import Path

from transformers import AutoTokenizer
from transformers.utils import chat_template_utils, logging

logging.set_verbosity_error()

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "ما السعال؟ 👩‍⚕️\r\n", "name": "Ali"},
    {"role": "assistant", "content": "<think>a</think>\n It's a \"reflex\". </s> ", "n": 3, "x": 1.5, "ok": True, "no": None},
    {"role": "user", "content": " Thanks\u00a0"},
]
TOOLS = [{"type": "function", "function": {"name": "dose", "description": "جرعة <mg>", "parameters": {"type": "object", "properties": {}}}}]
TEMPLATES = {
    "printing": "{{ true }} {{ none }} {{ 1.0 }} {{ 1e16 }} {{ 1e-5 }} {{ 0.1 + 0.2 }} {{ [1, 'a', none, 2.5] }} {{ (1,) }} {{ {'k': \"it's\", 'q': '\"', 'b': '\\\\'} }} {{ messages[2] }} {{ 'a\\u200db'|list }}",
    "arithmetic": "{{ -7 // 2 }},{{ -7 % 3 }},{{ 7 % -3 }},{{ 7 / 2 }},{{ 8 / 2 }},{{ 2 ** 10 }},{{ 2 ** -1 }},{{ -2 ** 2 }},{{ 7.5 // 2 }},{{ -7.5 % 2 }},{{ 10 ** 20 + 1 }},{{ true + 1 }},{{ 1 < 2 < 3 }},{{ 1 == 1.0 }},{{ 'ab' * 3 }},{{ [0] * 3 }},{{ 'a' < 'b' }},{{ [1, 2] < [1, 3] }},{{ 'a' ~ 1 ~ none ~ 2.0 }},{{ 'x' 'y' }}",
    "rounding": "{{ 2.5|round }},{{ 3.5|round }},{{ 0.125|round(2) }},{{ 2.675|round(2) }},{{ 42.55|round(1, 'floor') }},{{ 42.11|round(1, 'ceil') }},{{ 7|round }},{{ 1234|round(-2) }},{{ -0.5|round }}",
    "text methods": "{{ 'xxhixx'.strip('x') }}|{{ messages[3].content.strip() }}|{{ messages[1].content.rstrip() }}|{{ messages[2].content.split('</think>')[-1].lstrip('\\n') }}|{{ 'a  b c'.split() }}|{{ ' a b c '.split(None, 1) }}|{{ 'a,b,c'.rsplit(',', 1) }}|{{ 'abc'.find('c') }}|{{ 'ab'.startswith(('x', 'a')) }}|{{ 'hello world'.title() }}|{{ 'a\\r\\nb\\n'.splitlines() }}|{{ '-'.join(['a', 'b']) }}|{{ 'ab'.replace('', '.') }}|{{ 'a-b-c'.partition('-') }}|{{ '7'.zfill(3) }}|{{ 'ab'.center(7, '*') }}|{{ 'preX'.removeprefix('pre') }}|{{ '5'.isdigit() }}|{{ 'aXb'.swapcase() }}",
    "positions": "{{ messages[1].content|length }}|{{ messages[1].content[-5:] }}|{{ messages[1].content[0:3] }}|{{ messages[1].content[::-1] }}|{{ 'abcdef'[::2] }}|{{ 'abc'[9]|default('none') }}|{{ messages[1:3]|length }}|{{ messages[::-1][0].role }}|{{ [1, 2, 3][-1] }}|{{ range(9)[2:8:3]|list }}",
    "percent": "{{ '%s-%d' % ('x', 3) }}|{{ '%05.1f' % 3.14159 }}|{{ '%-5s|' % 'ab' }}|{{ '%x' % 255 }}|{{ '%r' % 'q' }}|{{ '%(a)s' % {'a': 1} }}|{{ '%e' % 12345.678 }}|{{ '%g' % 1e10 }}|{{ '%%' % () }}|{{ 'Q%s' | format(1) }}",
    "format": "{{ '{}:{}'.format('a', 1) }}|{{ '{0}{1}{0}'.format('a', 'b') }}|{{ '{k:>5}'.format(k='z') }}|{{ '{:.2f}'.format(2.5) }}|{{ '{:05d}'.format(42) }}|{{ '{:,}'.format(1234567) }}|{{ '{!r}'.format('a') }}|{{ '{{}}'.format() }}|{{ '{:^7}'.format('ab') }}|{{ '{:.1%}'.format(0.256) }}",
    "tojson": "{{ messages|tojson }}|{{ tools|tojson(indent=2) }}|{{ {'b': 1, 'a': [true, none, 1.0]}|tojson(sort_keys=true) }}|{{ [1, 2]|tojson(separators=(',', ':')) }}|{{ 'ب<'|tojson(ensure_ascii=true) }}|{{ {}|tojson(indent=2) }}|{{ '\\x01\\x7f\\\\'|tojson }}",
    "filters": "{{ ' a '|trim }}|{{ ['b', 'A', 'c']|sort|join(',') }}|{{ ['b', 'A']|sort(case_sensitive=true, reverse=true) }}|{{ messages|map(attribute='role')|unique|list }}|{{ messages|selectattr('role', 'equalto', 'user')|list|length }}|{{ messages|rejectattr('name', 'defined')|map(attribute='role')|join(' ') }}|{{ [1, none, 2]|select('number')|sum }}|{{ {'b': 1, 'a': 2}|dictsort }}|{{ {'b': 1}|items|list }}|{{ nothing|default('d') }}|{{ ''|default('d', true) }}|{{ 'a b'|replace(' ', '_') }}|{{ 'hello WORLD'|capitalize }}|{{ 'hello world-x'|title }}|{{ [1, 2, 3]|last }}|{{ []|first|default('none') }}|{{ [3, 1]|min }}|{{ messages|groupby('role')|map('first')|list }}|{{ [1, 2, 3]|batch(2, 0)|list }}|{{ [1, 2, 3]|slice(2)|list }}|{{ 'a\\nb'|indent(2) }}|{{ '5 '|int + 1 }}|{{ 'x'|int(9) }}|{{ '1.5'|float }}|{{ 'abc'|reverse }}|{{ -3|abs }}|{{ 'one two'|wordcount }}|{{ 'a long sentence here'|truncate(9) }}|{{ '<a>'|escape }}|{{ ('a', 'b')|string }}",
    "generators": "{{ 1 if messages|selectattr('role', 'equalto', 'nobody') else 0 }}{% set g = [1, 2]|map('string') %}{{ g|join }}{{ g|join }}",
    "tests": "{{ 'a' is string }}{{ messages is iterable }}{{ messages[0] is mapping }}{{ 3 is odd }}{{ 1.0 is number }}{{ true is number }}{{ true is integer }}{{ none is none }}{{ x is undefined }}{{ 'a' is sequence }}{{ 4 is divisibleby 2 }}{{ 'a' is in 'abc' }}{{ 1 is eq 1.0 }}{{ 'A' is upper }}{{ false is false }}{{ 2 is gt(1) }}{{ 1 is not string }}{{ messages[0].name is defined }}{{ x is iterable }}",
    "loops": "{% for m in messages if m.role != 'system' %}{{ loop.index }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem.role if loop.previtem is defined else '-' }}{{ loop.nextitem.role if not loop.last }}{{ loop.cycle('x', 'y') }}{{ loop.changed(m.role) }};{% endfor %}{% for m in messages %}{% if m.role == 'assistant' %}{% continue %}{% endif %}{{ m.role }}{% if loop.index == 2 %}{% break %}{% endif %}{% else %}E{% endfor %}{% for x in [1] %}{% break %}{% else %}E{% endfor %}{% for x in [] %}{% else %}E{% endfor %}{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}{% for x in [[1, [2]], 3] recursive %}{{ loop(x) if x is iterable else x }}{{ loop.depth }}{% endfor %}",
    "scopes": "{% set x = 1 %}{% for i in [1, 2] %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}{% set ns = namespace(n=0) %}{% for i in [1, 2] %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}{% if true %}{% set x = 9 %}{% endif %}{{ x }}{% with y = 2, z = x %}{{ y + z }}{% endwith %}{{ y }}{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set t | upper %}q{{ x }}{% endset %}{{ t }}{% filter upper %}abc{% endfilter %}",
    "macros": "{% macro f(a, b='z') %}<{{ a }}{{ b }}{{ varargs }}{{ kwargs }}>{% endmacro %}{{ f(1) }}{{ f(1, 2, 3, k=4) }}{{ f(b=1) }}{% macro g() %}[{{ caller('x') }}]{% endmacro %}{% call(v) g() %}{{ v }}!{% endcall %}{{ late() if late is defined else 'no' }}{% macro late() %}{% endmacro %}{{ f.name }}",
    "names": "{{ bos_token }}{{ eos_token }}{{ unk_token }}{{ pad_token is defined }}{{ tools is none }}{{ documents is none }}{{ tools is defined }}{{ add_generation_prompt }}{{ nothing }}{{ messages[0].nothing }}{{ strftime_now('%Y-%m-%d %H:%M:%S %j %b %-d %B %A %p') }}{{ flag }}",
    "access": "{{ messages[0]['items'] is callable }}{{ {'items': 1}.items is callable }}{{ {'items': 1}['items'] }}{{ messages[0].get('x', 'd') }}{{ messages[2].get('no', 'd') }}{{ messages.0.role }}{{ 'role' in messages[0] }}{{ messages[0] == messages[0] }}{{ {'a': 1} == {'a': 1.0} }}{{ messages.__class__ }}{{ none.x is undefined }}",
    "white space": "  {% if true %}  \n  a\n  {%- if true -%}  \n b \n{%- endif +%}\n  {% endif %}\n{# c #}\n  {#- d -#}  e\n\t{{- ' f ' -}}\n  {%+ if true %}g{% endif %}\n{{ 'h' }}\n  {% raw %} {{ x }} {% if %}\n{%- endraw %}\n i\n\n",
    "windows": "{%- for m in messages %}\r\n{{- m.role }}:\r\n{{ 'a\r\nb' }}\r\n{% endfor %}\r\nEND\r\n",
    "escapes": "{{ '\\u0041\\x42\\t\\n\\'\\\\\\q\\101' }}{{ \"it's\" }}{{ 'a\\\nb' }}{{ 1_000 }}{{ 0x1f }}{{ 0b101 }}",
    "conditions": "{{ 'a' if messages|length > 9 }}|{{ 'a' if true else 'b' if x else 'c' }}|{{ 1 and 0 or 'x' }}|{{ not 1 == 2 }}|{{ 'b' not in 'abc' }}|{% if x %}1{% elif messages %}2{% else %}3{% endif %}",
    "generation": "{% macro turn(m) %}{% generation %}{{ m.content|trim }}{% endgeneration %}{% endmacro %}{% for m in messages %}{{ m.role }}:{%- if m.role == 'assistant' -%} {%- generation -%} {{ m.content }}{{ eos_token }}{%- endgeneration -%} {%- else -%} {{ m.content }}{%- endif -%}{% endfor %}",
    "roles": "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate') }}{% endif %}{% endfor %}",
    "undefined": "{{ nothing.deep }}", "type": "{{ 'a' + 1 }}", "append": "{{ messages.append(1) }}", "include": "{% include 'x' %}", "unclosed": "{% if true %}",
}
CHATML = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{% generation %}{{ m.content + eos_token }}{% endgeneration %}{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
TRIMMED = "{% for m in messages %}[{{ m.role }}]{{ m.content|trim }}{{ eos_token }} {% endfor %}"
LISTED = "{% for m in messages %}{% for p in m.content %}({{ p.text }}){% endfor %}{{ eos_token }}{% endfor %}"


class Now(chat_template_utils.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2026, 3, 5, 9, 7, 3)


def attempt(call):
    try:
        return call()
    except Exception as error:
        return {"error": str(error).split("\n")[0][:120]}


def folders(model):
    """Which template a folder has by default, by name and with tools, for each set of files."""
    one = [{"role": "user", "content": "x"}]
    named = [{"name": "default", "template": "config"}, {"name": "tool_use", "template": "config tools"}]
    sets = {
        "a text": {"config": "config"},
        "names": {"config": named},
        "names without default": {"config": named[1:]},
        "a file beside a text": {"config": "config", "chat_template.jinja": "file"},
        "a file beside names": {"config": named, "chat_template.jinja": "file"},
        "a folder beside a text": {"config": "config", "additional_chat_templates/rag.jinja": "rag"},
        "a file and a folder": {"chat_template.jinja": "file", "additional_chat_templates/tool_use.jinja": "tools", "additional_chat_templates/rag.jinja": "rag"},
        "chat_template.json": {"chat_template.json": json.dumps({"chat_template": "old"})},
        "nothing": {},
    }
    out = []
    for name, files in sets.items():
        with tempfile.TemporaryDirectory() as folder:
            for file in ["tokenizer.json", "tokenizer_config.json"]:
                Path(folder, file).write_text((model / file).read_text())
            for file, text in files.items():
                target = Path(folder, file)
                target.parent.mkdir(exist_ok=True)
                if file == "config":
                    config = json.loads((model / "tokenizer_config.json").read_text())
                    Path(folder, "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": text}))
                else:
                    target.write_text(text)
            tokenizer = AutoTokenizer.from_pretrained(folder)
            ask = lambda **options: attempt(lambda: tokenizer.apply_chat_template(one, tokenize=False, **options))
            out.append({"name": name, "files": files, "default": ask(), "tools": ask(tools=TOOLS), "rag": ask(chat_template="rag")})
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    chat_template_utils.datetime = Now
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    rendered = {}
    for name, template in TEMPLATES.items():
        def call():
            texts, generation = chat_template_utils.render_jinja_template(
                [copy.deepcopy(CHAT)], chat_template=template, add_generation_prompt=True, return_assistant_tokens_mask=True,
                tools=TOOLS if name == "tojson" else None, flag=True, **special)
            return {"text": texts[0], **({"generation": generation[0]} if generation[0] else {})}
        rendered[name] = {"template": template, **attempt(call)}
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    tokenizer.pad_token = "</s>"
    plain = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "(B) دواء."}, {"role": "user", "content": "Why?"}, {"role": "assistant", "content": " *So*"}]
    calls = []

    def record(messages, **options):
        result = attempt(lambda: tokenizer.apply_chat_template(messages, **options))
        calls.append({"messages": messages, "options": options, "result": result if isinstance(result, (str, list)) else dict(result)})

    for options in [{}, {"add_generation_prompt": True}, {"return_assistant_tokens_mask": True}, {"return_assistant_tokens_mask": True, "truncation": True, "max_length": 9}, {"padding": "max_length", "max_length": 60}]:
        record(plain, chat_template=CHATML, **options)
    record([plain, plain[:2]], chat_template=CHATML, padding=True, return_assistant_tokens_mask=True)
    record([plain[:3], plain[:1]], chat_template=CHATML, tokenize=False, add_generation_prompt=True)
    for template in [CHATML, TRIMMED]:
        record(plain, chat_template=template, tokenize=False, continue_final_message=True)
        record([*plain[:3], {"role": "assistant", "content": "So "}], chat_template=template, tokenize=False, continue_final_message=True)
        record([*plain[:3], {"role": "assistant", "content": ""}], chat_template=template, tokenize=False, continue_final_message=True)
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    record(parts, chat_template=LISTED, tokenize=False)
    record(parts, chat_template=LISTED, tokenize=False, continue_final_message=True)
    record(plain, chat_template=CHATML, continue_final_message=True, add_generation_prompt=True)
    record(plain, chat_template=CHATML, continue_final_message=True, return_assistant_tokens_mask=True)
    record(plain, chat_template="{{ messages[0].role }}", tokenize=False, continue_final_message=True)
    record(plain, chat_template=CHATML, tokenize=False, continue_final_message="reasoning_content")
    record(plain, chat_template=CHATML, tokenize=False, return_assistant_tokens_mask=True)
    record([], chat_template=CHATML)
    fixture = {"chat": CHAT, "tools": TOOLS, "rendered": rendered, "calls": calls, "folders": folders(args.model)}
    args.out.write_text(json.dumps(fixture, ensure_ascii=False, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    main()
