"""The OpenAPI document as a page: plain HTML, made here, with a style sheet and no script, so that the strictest policy
holds and a text browser shows it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, Final

Spec = Mapping[str, Any]
_METHODS: Final = ("get", "post", "put", "patch", "delete")
MAX_DEPTH: Final = 8

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
"""


def page(spec: Spec) -> str:
    """The whole page."""
    return "".join(_page(spec))


def _page(spec: Spec) -> Iterator[str]:
    info = spec["info"]
    title = f"{escape(info['title'])} {escape(info['version'])}"
    yield f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}: API</title>'
    yield (
        '<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="/docs/style.css"></head><body>'
    )
    yield f"<h1>{title}</h1>{_text(info.get('description', ''))}"
    yield '<p>For programs: <a href="/openapi.json">openapi.json</a>.</p><nav aria-label="Groups">'
    groups = list(_groups(spec))
    yield "".join(f'<a href="#{escape(name)}">{escape(name)}</a>' for name, _, _ in groups)
    yield "</nav><main>"
    for name, text, operations in groups:
        yield f'<h2 id="{escape(name)}">{escape(name)}</h2>{_text(text)}'
        for path, method, operation in operations:
            yield from _operation(spec, path, method, operation)
    yield "</main></body></html>"


def _groups(spec: Spec) -> Iterator[tuple[str, str, list[tuple[str, str, Spec]]]]:
    """Tag, its text, and its operations; those without a tag last."""
    tags = {one["name"]: one.get("description", "") for one in spec.get("tags", ())}
    found: dict[str, list[tuple[str, str, Spec]]] = {name: [] for name in tags}
    for path, methods in spec["paths"].items():
        for method in _METHODS:
            if method in methods:
                name = (methods[method].get("tags") or ["other"])[0]
                found.setdefault(name, []).append((path, method, methods[method]))
    return ((name, tags.get(name, ""), operations) for name, operations in found.items() if operations)


def _operation(spec: Spec, path: str, method: str, operation: Spec) -> Iterator[str]:
    opened = "" if operation.get("security") else ' <span class="open">open</span>'
    yield (
        f'<details id="{escape(operation["operationId"])}"><summary><span class="method">{method}</span>'
        f" <code>{escape(path)}</code>"
    )
    yield f" {escape(operation.get('summary', ''))}{opened}</summary><div>{_text(operation.get('description', ''))}"
    if operation.get("parameters"):
        yield "<h3>Parameters</h3><table><tr><th>Name</th><th>In</th><th>Type</th><th>Meaning</th></tr>"
        yield "".join(_parameter(spec, one) for one in operation["parameters"])
        yield "</table>"
    if "requestBody" in operation:
        yield "<h3>Body</h3>"
        yield from _contents(spec, operation["requestBody"].get("content", {}))
    yield "<h3>Answers</h3><table><tr><th>Status</th><th>Meaning</th></tr>"
    for status, answer in sorted(operation.get("responses", {}).items()):
        yield f"<tr><td>{escape(status)}</td><td>{escape(answer.get('description', ''))}</td></tr>"
    yield "</table>"
    for status, answer in sorted(operation.get("responses", {}).items()):
        if status.startswith("2"):
            yield from _contents(spec, answer.get("content", {}))
    yield "</div></details>"


def _parameter(spec: Spec, one: Spec) -> str:
    name = escape(one["name"]) + (" *" if one.get("required") else "")
    kind = escape(_kind(spec, one.get("schema", {})))
    text = one.get("description") or one.get("schema", {}).get("description", "")
    return f"<tr><td><code>{name}</code></td><td>{escape(one['in'])}</td><td>{kind}</td><td>{escape(text)}</td></tr>"


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
        yield from _fields(spec, schema)


def _fields(spec: Spec, schema: Spec) -> Iterator[str]:
    found = _resolved(spec, schema)
    if not found.get("properties"):
        return
    yield "<table><tr><th>Field</th><th>Type</th><th>Meaning</th></tr>"
    required = set(found.get("required", ()))
    for name, one in found["properties"].items():
        text = one.get("description") or _resolved(spec, one).get("description", "")
        star = " *" if name in required else ""
        yield (
            f"<tr><td><code>{escape(name)}{star}</code></td><td>{escape(_kind(spec, one))}</td>"
            f"<td>{escape(text)}</td></tr>"
        )
    yield "</table>"


def _resolved(spec: Spec, schema: Spec) -> Spec:
    name = schema.get("$ref", "").rpartition("/")[2]
    found: Spec = spec.get("components", {}).get("schemas", {}).get(name, {}) if name else schema
    return found


def _kind(spec: Spec, schema: Spec, depth: int = 0) -> str:
    """A schema in a few words."""
    if depth > MAX_DEPTH:
        return "..."
    if "$ref" in schema:
        found = _resolved(spec, schema)
        return _kind(spec, {"enum": found["enum"]}, depth + 1) if "enum" in found else schema["$ref"].rpartition("/")[2]
    if "enum" in schema:
        return " | ".join(str(one) for one in schema["enum"])
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(_kind(spec, one, depth + 1) for one in schema[key]))
    if schema.get("type") == "array":
        return f"list of {_kind(spec, schema.get('items', {}), depth + 1)}"
    return str(schema.get("const", schema.get("format", schema.get("type", "anything"))))


def _text(text: str) -> str:
    """Paragraphs; what stands in backticks as code."""
    return "".join(f"<p>{_code(part)}</p>" for part in text.split("\n\n") if part.strip())


def _code(text: str) -> str:
    parts = escape(text).split("`")
    return "".join(
        f"<code>{part}</code>" if number % 2 and number < len(parts) - 1 else part for number, part in enumerate(parts)
    )
