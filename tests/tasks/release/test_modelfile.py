"""The Modelfile's Go template gives the very bytes of the tokenizer's jinja template, or the Modelfile is refused.

Both sides are read by something that is not under test: jinja by transformers' own renderer, the Modelfile and its
template by the small readers below, which follow Ollama's rules (joining of neighbours, `.Messages`, quoting, lost
characters).
"""

from __future__ import annotations

import json
import re

import pytest

from data_contracts.errors import ArtifactError
from data_contracts.prompting.prompt import load_prompt
from tasks.release.chat_pieces import derive_chat
from tasks.release.modelfile import render_modelfile
from tasks.release.special_tokens import SpecialTokens

DIGEST = "ab" * 32
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
EXPRESSIBLE = {
    "chatml": CHATML,
    "chatml for training": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% if m.role == 'assistant' %}{% generation %}"
        "{{ m.content + '<|im_end|>' }}{% endgeneration %}{% else %}{{ m.content + '<|im_end|>' }}{% endif %}"
        "{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    "default system text": (
        "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\\nHi.<|im_end|>\\n' }}{% endif %}" + CHATML
    ),
    "bos, and quotes, braces and odd characters in the literals": (
        "{{ bos_token }}{% for m in messages %}{{ '{{\"\"\"' + m.role + '\\u00a0}}{' + m.content + '\"' }}{% endfor %}"
        '{% if add_generation_prompt %}{{ \'{{"""assistant\\u00a0}}{\' }}{% endif %}'
    ),
    "system inside the first user turn": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ '[INST] <<S>>' + m.content + '<</S>>' }}"
        "{% elif m.role == 'user' %}{{ ('' if loop.index0 == 1 and messages[0].role == 'system' else '[INST] ') "
        "+ m.content + ' [/INST]' }}{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
    ),
}
SPECIAL = SpecialTokens(
    eos="<|im_end|>", bos="<s>", pad="<|endoftext|>", special=["<s>", "<|im_start|>", "<|im_end|>", "<|endoftext|>"]
)
TEXTS = (
    "plain",
    "Ärger 北京 🚀 e\u0301\u00a0x",
    'two\nlines, {{ .Content }} {% raw %} "q" """ \\n {x}',
    "مرحبا <b>&amp;</b>",
)


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def chats(text: str) -> list[list[dict]]:
    system, answer = {"role": "system", "content": f"S: {text}"}, {"role": "assistant", "content": f"A: {text}"}
    return [
        [system, user(text)],
        [user(text)],
        [system, user(text), answer, user("again")],
        [user(text), answer, user("a"), answer, user("b")],
        [system, user("x"), answer, user(text), answer, user("y"), answer, user("z")],
    ]


def jinja(template: str, messages: list[dict], special: SpecialTokens) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    names = {"bos_token": special.bos, "eos_token": special.eos, "pad_token": special.pad}
    rendered, _ = render_jinja_template([messages], chat_template=template, add_generation_prompt=True, **names)
    return rendered[0]


def read_modelfile(text: str) -> list[tuple[str, str]]:
    """(command, value) pairs as Ollama reads them: a value ends at the first new line after its closing quotes."""
    found, rest = [], text
    while rest:
        line, _, after = rest.partition("\n")
        if not line.strip() or line.startswith("#"):
            rest = after
            continue
        name, _, value = line.partition(" ")
        if name == "PARAMETER":
            name, _, value = value.partition(" ")
        while value.startswith('"""') and not (len(value) >= 6 and value.endswith('"""')):
            line, mark, after = after.partition("\n")
            assert mark, "a value is never closed"
            value += "\n" + line
        quotes = 3 if value.startswith('"""') else 1 if value.startswith('"') else 0
        value = value[quotes : len(value) - quotes]
        found.append((name, "".join(one for one in value if one in "\n\t" or one.isprintable())))
        rest = after
    return found


def go(template: str, messages: list[dict]) -> str:
    """Run the part of Go's text/template that the Modelfile uses, on messages joined as Ollama joins them."""
    joined: list[dict] = []
    for one in messages:
        if joined and joined[-1]["role"] == one["role"]:
            joined[-1]["content"] += "\n\n" + one["content"]
        else:
            joined.append(dict(one))
    parts = re.split(r"\{\{ (.*?) \}\}", template)
    tree, position = _parse(parts, 0)
    assert position == len(parts), "more ends than beginnings"
    return _run(tree, {"$": joined, "dot": None})


def _parse(parts: list[str], at: int) -> tuple[list, int]:
    nodes: list = []
    while at < len(parts):
        word = parts[at].split(" ")[0] if at % 2 else ""
        if at % 2 == 0:
            nodes.append(("text", parts[at]))
        elif word in ("end", "else"):
            return nodes, at
        elif word == "range":
            body, at = _parse(parts, at + 1)
            nodes.append(("range", body))
        elif word == "if":
            branches, condition = [], parts[at][3:]
            while True:
                body, at = _parse(parts, at + 1)
                branches.append((condition, body))
                if parts[at] == "end":
                    break
                condition = parts[at].removeprefix("else").strip().removeprefix("if ").strip() or "true"
            nodes.append(("if", branches))
        else:
            nodes.append(("do", parts[at]))
        at += 1
    return nodes, at


def _run(nodes: list, scope: dict) -> str:
    out = ""
    for kind, what in nodes:
        if kind == "text":
            out += what
        elif kind == "range":
            for index, message in enumerate(scope["$"]):
                scope |= {"dot": message, "$i": index}
                out += _run(what, scope)
        elif kind == "if":
            out += _run(next((body for condition, body in what if _value(condition, scope)), []), scope)
        elif assigned := re.match(r"(\$\w+) :?= (.*)", what):
            scope[assigned[1]] = _value(assigned[2], scope)
        else:
            out += _value(what, scope)
    return out


def _value(expression: str, scope: dict):
    tokens = re.findall(r'"(?:\\.|[^"\\])*"|[()]|[^\s()]+', expression)

    def one():
        token = tokens.pop(0)
        if token == "(":
            inner = call()
            assert tokens.pop(0) == ")"
            return inner
        if token.startswith('"'):
            return json.loads(token)
        known = {"true": True, "$.Messages": scope["$"]}
        if token in (".Role", ".Content"):
            return scope["dot"][token[1:].lower()]
        return int(token) if token.isdigit() else known[token] if token in known else scope[token]

    def call():
        functions = {
            "eq": lambda a, b: a == b,
            "ne": lambda a, b: a != b,
            "and": lambda a, b: a and b,
            "not": lambda a: not a,
            "len": len,
            "slice": lambda a, start: a[start:],
        }
        if tokens[0] not in functions:
            return one()
        function, given = functions[tokens.pop(0)], []
        while tokens and tokens[0] != ")":
            given.append(one())
        return function(*given)

    value = call()
    assert not tokens, f"left over in {expression}: {tokens}"
    return value


@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("name", EXPRESSIBLE)
def test_go_template_gives_the_bytes_of_the_jinja_template(name, adds_bos):
    template, prompt = EXPRESSIBLE[name], load_prompt("signals")
    if adds_bos and "bos_token" not in template:
        template = "{{ bos_token }}" + template
    special = SPECIAL.model_copy(update={"adds_bos": adds_bos})
    written = dict(read_modelfile(render_modelfile("gguf/m.gguf", template, special, 2048, prompt, DIGEST)))
    compared = 0
    for text in TEXTS:
        for chat in chats(text):
            wanted = jinja(template, chat, special)
            assert ("<s>" if adds_bos else "") + go(written["TEMPLATE"], chat) == wanted
            compared += 1
    assert compared == len(TEXTS) * 5


def test_go_template_leaves_a_last_answer_open():
    template = dict(read_modelfile(render_modelfile("m.gguf", CHATML, SPECIAL, 64, load_prompt("signals"), DIGEST)))[
        "TEMPLATE"
    ]
    assert go(template, [user("x"), {"role": "assistant", "content": "begun"}]).endswith("<|im_start|>assistant\nbegun")


def test_modelfile_says_what_the_contract_says():
    prompt = load_prompt("signals")
    rendered = render_modelfile("gguf/m q8_0.gguf", CHATML, SPECIAL, 1536, prompt, DIGEST)
    assert f"(digest {DIGEST})" in rendered, "whoever serves the file can tell which contract it was made for"
    commands = read_modelfile(rendered)
    assert commands[0] == ("FROM", "./gguf/m q8_0.gguf")
    values = dict(commands)
    assert values["SYSTEM"] == prompt.system and values["num_ctx"] == "1536" and values["temperature"] == "0"
    assert [value for name, value in commands if name == "stop"] == ["<|im_end|>", "<|endoftext|>", "<|im_start|>"]


def test_stops_follow_the_tokenizer_and_not_a_table():
    template = CHATML.replace("<|im_start|>", "<|turn|>").replace("<|im_end|>", "<|over|>")
    special = SpecialTokens(
        eos="<|done|>", stops=["<|done|>", "<|also|>"], special=["<|turn|>", "<|over|>", "<|done|>", "<x>"]
    )
    commands = read_modelfile(render_modelfile("m.gguf", template, special, 64, load_prompt("signals"), DIGEST))
    assert [value for name, value in commands if name == "stop"] == ["<|done|>", "<|also|>", "<|over|>", "<|turn|>"]


REFUSED = {
    "moves the system message": (
        "{% for m in messages if m.role != 'system' %}[{{ m.role }}]{% if loop.last and messages[0].role == 'system' %}"
        "{{ messages[0].content }}{% endif %}{{ m.content }}{% endfor %}",
        "drops, repeats or moves the user message",
    ),
    "numbers the turns": ("{% for m in messages %}{{ loop.index }}{{ m.role }}:{{ m.content }};{% endfor %}", "in one"),
    "changes the text": (
        "{% for m in messages %}{{ m.role }}:{{ m.content|upper }};{% endfor %}",
        "drops, repeats or moves",
    ),
    "looks at the text": (
        CHATML.replace("m.content", "(m.content if '\\n' not in m.content else m.content|replace('\\n', ' '))"),
        r"differs on \d+ of 12 chats",
    ),
    "writes the date": ("{{ strftime_now('%d %b %Y') }}" + CHATML, "today's date"),
    "refuses a system message": (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML,
        "no system role. Give",
    ),
    "needs tools": ("{% for tool in tools %}{{ tool.name }}{% endfor %}" + CHATML, "'NoneType' object is not iterable"),
    "is not jinja": ("{% for m in messages %}{{ m.content }}", "not valid jinja"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_template_that_cannot_be_expressed_is_refused(name):
    template, said = REFUSED[name]
    with pytest.raises(ArtifactError, match=said):
        render_modelfile("m.gguf", template, SPECIAL, 64, load_prompt("signals"), DIGEST)


def test_bos_that_the_template_does_not_write_is_refused():
    with pytest.raises(ArtifactError, match="one token more than the trained one"):
        render_modelfile(
            "m.gguf", CHATML, SPECIAL.model_copy(update={"adds_bos": True}), 64, load_prompt("signals"), DIGEST
        )


def test_kinds_of_chat_that_differ_are_named():
    strip = CHATML.replace("m.content", "m.content|trim")
    limits = derive_chat(strip, SPECIAL, load_prompt("signals")).limits
    assert limits == ["white space at the ends of a message", "two messages of one role in a row"]
    assert "#   - white space at the ends" in render_modelfile(
        "m.gguf", strip, SPECIAL, 64, load_prompt("signals"), DIGEST
    )
    assert derive_chat(CHATML, SPECIAL, load_prompt("signals")).limits == ["two messages of one role in a row"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"gguf_relpath": "../m.gguf"}, "inside the release"),
        ({"gguf_relpath": "/tmp/m.gguf"}, "inside the release"),
        ({"num_ctx_tokens": 0}, "at least 1"),
        ({"prompt": load_prompt("signals").model_copy(update={"system": 'say """ loudly'})}, "three quotes in a row"),
        ({"prompt": load_prompt("signals").model_copy(update={"system": "soft\u00adhyphen"})}, "xad"),
    ],
)
def test_what_a_modelfile_cannot_hold_is_refused(changes, said):
    given = {
        "gguf_relpath": "m.gguf",
        "num_ctx_tokens": 64,
        "prompt": load_prompt("signals"),
        "digest": DIGEST,
    } | changes
    with pytest.raises(ArtifactError, match=said):
        render_modelfile(chat_template=CHATML, special=SPECIAL, **given)
