"""The OpenAPI document as a page: plain HTML without scripts, readable in a text browser. As it needs a token, which no
browser sends, it is usually read from a file: its style is in it, and ``STYLE_SOURCE`` allows exactly that."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from html import escape
from typing import Any, Final

Spec = Mapping[str, Any]
_METHODS: Final = ("get", "post", "put", "patch", "delete")

STYLE: Final = """\
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 1rem; }
h2 { border-bottom: 1px solid var(--line); margin-top: 2.5rem; }
details { border: 1px solid var(--line); border-radius: 4px; margin: .4rem 0; }
details > div { padding: 0 1rem 1rem; }
summary { padding: .4rem .8rem; cursor: pointer; }
summary:focus-visible { outline: 2px solid; }
code, pre { font-family: ui-monospace, monospace; font-size: .9em; }
pre { background: var(--soft); padding: .6rem; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .2rem .6rem .2rem 0; border-bottom: 1px solid var(--line); }
.method { display: inline-block; min-width: 4.5em; font-weight: 700; text-transform: uppercase; }
.open { font-size: .85em; border: 1px solid var(--line); border-radius: 3px; padding: 0 .4em; }
nav a { margin-right: 1em; }
.front { max-width: 46rem; }
"""


STYLE_SOURCE: Final = f"'sha256-{b64encode(sha256(STYLE.encode()).digest()).decode()}'"
"""Of the Content-Security-Policy."""


def page(spec: Spec) -> str:
    """The page as HTML."""
    return "".join(_page(spec))


def _page(spec: Spec) -> Iterator[str]:
    info = spec["info"]
    title = f"{escape(info['title'])} {escape(info['version'])}"
    yield f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}: API</title>'
    yield f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
    yield f"<h1>{title}</h1>{_text(info.get('description', ''))}"
    yield '<p>For programs: <a href="/openapi.json">openapi.json</a>.</p><nav aria-label="Groups">'
    groups = list(_groups(spec))
    yield " ".join(f'<a href="#{escape(name)}">{escape(name)}</a>' for name, _, _ in groups)
    yield "</nav><main>"
    for name, text, operations in groups:
        yield f'<h2 id="{escape(name)}">{escape(name)}</h2>{_text(text)}'
        for path, method, operation in operations:
            yield from _operation(spec, path, method, operation)
    yield "</main></body></html>"


def _groups(spec: Spec) -> Iterator[tuple[str, str, list[tuple[str, str, Spec]]]]:
    """Each tag, its description, and its operations with path and method."""
    for tag in spec["tags"]:
        operations = [
            (path, method, methods[method])
            for path, methods in spec["paths"].items()
            for method in _METHODS
            if method in methods and tag["name"] in methods[method]["tags"]
        ]
        yield tag["name"], tag["description"], operations


def _operation(spec: Spec, path: str, method: str, operation: Spec) -> Iterator[str]:
    opened = "" if operation["security"] else ' <span class="open">open</span>'
    yield (
        f'<details id="{escape(operation["operationId"])}"><summary><span class="method">{method}</span>'
        f" <code>{escape(path)}</code>"
    )
    yield f" {escape(operation.get('summary', ''))}{opened}</summary><div>{_text(operation.get('description', ''))}"
    if operation.get("parameters"):
        rows = [_parameter(spec, parameter) for parameter in operation["parameters"]]
        yield f"<h3>Parameters</h3>{_table(('Name', 'In', 'Type', 'Meaning'), rows)}"
    if "requestBody" in operation:
        yield "<h3>Body</h3>"
        yield from _contents(spec, operation["requestBody"]["content"])
    responses = sorted(operation["responses"].items())
    statuses = [(escape(status), escape(response["description"])) for status, response in responses]
    yield f"<h3>Answers</h3>{_table(('Status', 'Meaning'), statuses)}"
    for status, response in responses:
        if status.startswith("2"):
            yield from _contents(spec, response.get("content", {}))
    yield "</div></details>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML."""
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{cell}</th>' for cell in head)}</tr>{lines}</table>"


def _parameter(spec: Spec, parameter: Spec) -> tuple[str, str, str, str]:
    schema = parameter["schema"]
    text = parameter.get("description") or schema.get("description", "")
    name = _name(parameter["name"], bool(parameter.get("required")))
    return name, escape(parameter["in"]), escape(_kind(spec, schema)), escape(text)


def _contents(spec: Spec, contents: Spec) -> Iterator[str]:
    for kind, content in contents.items():
        schema = content.get("schema", {})
        yield f"<p><code>{escape(kind)}</code> {escape(_kind(spec, schema))}</p>"
        for name, example in content.get("examples", {}).items():
            shown = example.get("value", "")
            text = shown if isinstance(shown, str) else json.dumps(shown, indent=2, ensure_ascii=False)
            yield f"<p>{escape(example.get('summary', name))}</p><pre>{escape(text)}</pre>"
        if isinstance(content.get("example"), str):
            yield f"<pre>{escape(content['example'])}</pre>"
        yield _fields(spec, schema)


def _fields(spec: Spec, schema: Spec) -> str:
    found = _resolved(spec, schema)
    rows = [
        (
            _name(name, name in found.get("required", ())),
            escape(_kind(spec, field)),
            escape(field.get("description") or _resolved(spec, field).get("description", "")),
        )
        for name, field in found.get("properties", {}).items()
    ]
    return _table(("Field", "Type", "Meaning"), rows) if rows else ""


def _name(name: str, required: bool) -> str:
    return f"<code>{escape(name)}{' *' if required else ''}</code>"


def _resolved(spec: Spec, schema: Spec) -> Spec:
    name = schema.get("$ref", "").rpartition("/")[2]
    found: Spec = spec["components"]["schemas"][name] if name else schema
    return found


def _kind(spec: Spec, schema: Spec) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        found = _resolved(spec, schema)
        return _kind(spec, {"enum": found["enum"]}) if "enum" in found else schema["$ref"].rpartition("/")[2]
    if "enum" in schema:
        return " | ".join(str(value) for value in schema["enum"])
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(_kind(spec, part) for part in schema[key]))
    if schema.get("type") == "array":
        return f"list of {_kind(spec, schema.get('items', {}))}"
    return str(schema.get("const", schema.get("format", schema.get("type", "anything"))))


def _text(text: str) -> str:
    """Text with blank lines between paragraphs and code in backticks, as HTML."""
    return "".join(f"<p>{_code(part)}</p>" for part in text.split("\n\n") if part.strip())


def _code(text: str) -> str:
    parts = escape(text).split("`")
    return "".join(
        f"<code>{part}</code>" if number % 2 and number < len(parts) - 1 else part for number, part in enumerate(parts)
    )
