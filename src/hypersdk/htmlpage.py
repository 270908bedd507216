"""Reports as one HTML page that needs nothing else: no script, no font, no file, no network.

Good on paper and on a phone, in light and in dark. Names in a report come from an inventory, from guests and from
errors: ``text`` escapes them, and the page's own policy (CSP) forbids everything but its style and pictures in it.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Final, TypeAlias, TypeVar

from hypersdk.text import clean, clean_lines

T = TypeVar("T")
Column: TypeAlias = tuple[str, str, Callable[[T], str]]
"""Title, class (``name text number status`` or none), and the HTML of a cell."""

STYLE: Final = """
:root { color-scheme: light dark; --line: #d5d9de; --soft: #5a6472; --good: #17733b; --bad: #b3261e; --warn: #8a5a00;
  --back: #fff; --card: #f4f6f8; --text: #1a1f26 }
@media (prefers-color-scheme: dark) { :root { --line: #39414c; --soft: #a3adba; --good: #6bd08f; --bad: #ff8a80;
  --warn: #ffc46b; --back: #14181d; --card: #1e242b; --text: #e8ecf1 } }
* { box-sizing: border-box } html { font-size: 15px }
body { margin: 0 auto; max-width: 90rem; padding: 2rem 1.5rem; background: var(--back); color: var(--text);
  font: 1rem/1.45 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif }
h1 { font-size: 1.6rem; margin: 0 0 .2rem; overflow-wrap: anywhere } h2 { font-size: 1.1rem; margin: 2rem 0 .6rem }
p { margin: 0; color: var(--soft) } a { color: inherit }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .7rem; margin: 1.4rem 0 0 }
dl div { background: var(--card); border-radius: .5rem; padding: .7rem .9rem }
dt { color: var(--soft); font-size: .85rem } dd { margin: 0; font-size: 1.25rem; font-weight: 600; white-space: nowrap }
.scroll { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .4rem .7rem; border-bottom: 1px solid var(--line); vertical-align: top }
th { color: var(--soft); font-weight: 600; font-size: .85rem; white-space: nowrap }
td.number, th.number { text-align: right; white-space: nowrap }
td.name { font-weight: 600 } td.name, td.text { overflow-wrap: anywhere; min-width: 10rem }
table.facts td { min-width: 0 } table.facts th { width: 11rem; white-space: normal }
.good { color: var(--good) } .bad { color: var(--bad) } .warn { color: var(--warn) } td.status { white-space: nowrap }
code { font: .9em ui-monospace, "SF Mono", Menlo, Consolas, monospace; color: var(--soft) }
pre { font: .8rem/1.35 ui-monospace, "SF Mono", Menlo, Consolas, monospace; background: var(--card); margin: .7rem 0 0;
  border-radius: .5rem; padding: .7rem .9rem; white-space: pre-wrap; overflow-wrap: anywhere }
img { display: block; max-width: min(100%, 48rem); height: auto; margin: .7rem 0 0; border: 1px solid var(--line) }
ul { margin: 0; padding-left: 1.2rem } li { overflow-wrap: anywhere }
footer { margin-top: 2rem; font-size: .85rem; color: var(--soft) }
@media (max-width: 40rem) { body { padding: 1rem .8rem } th, td { padding: .4rem .5rem }
  table.facts th { width: 6.5rem } .scroll { overflow: visible } .rows thead, .rows td:empty { display: none }
  table.rows, .rows tbody, .rows tr, .rows td { display: block }
  .rows tr { border-bottom: 1px solid var(--line); padding: .5rem 0 }
  .rows td { border: 0; position: relative; padding: .1rem 0 .1rem 8rem; text-align: left; white-space: normal }
  .rows td.name { padding-left: 0 } .rows td::before { content: attr(data-title); position: absolute; left: 0;
    color: var(--soft); font-size: .85rem } .rows td.name::before { content: none } }
@page { size: A4 landscape; margin: 12mm }
@media print { :root { --line: #bbb; --soft: #444; --good: #075c28; --bad: #9b1c15; --warn: #6b4600; --back: #fff;
  --card: #fff; --text: #000 } html { font-size: 9.5px } body { max-width: none; padding: 0 }
  dl div, pre { border: 1px solid #bbb } .scroll { overflow: visible } img { max-width: 60% }
  thead { display: table-header-group } tr, img { break-inside: avoid } h2 { break-after: avoid } }
"""
_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
<p>{subtitle}</p>
{body}
<footer>HyperSDK {version}</footer>
</body>
</html>
"""


def text(value: str) -> str:
    """``value`` as HTML, in one line and without characters that could hide or forge something."""
    return escape(clean(value))


def page(title: str, subtitle: str, parts: Iterable[str], version: str) -> str:
    """The page. ``parts`` are HTML; empty ones are left out."""
    body = "\n".join(part for part in parts if part)
    return _PAGE.format(title=text(title), subtitle=text(subtitle), style=STYLE, body=body, version=escape(version))


def cards(facts: Iterable[tuple[str, str]]) -> str:
    """Label and value, as a row of cards."""
    return "\n".join(
        ["<dl>", *(f"<div><dt>{text(label)}</dt><dd>{text(value)}</dd></div>" for label, value in facts), "</dl>"]
    )


def table(title: str, columns: Sequence[Column[T]], rows: Sequence[T]) -> str:
    """A heading and a table; nothing without rows, and no column that is empty in all of them. On a narrow screen the
    cells of a row stand below each other, each behind its title."""
    cells = [[show(row) for row in rows] for _, _, show in columns]
    shown = [(name, kind, column) for (name, kind, _), column in zip(columns, cells, strict=True) if any(column)]
    if not shown:
        return ""
    head = "".join(f'<th class="{kind}">{name}</th>' for name, kind, _ in shown)
    body = "\n".join(
        "<tr>" + "".join(f'<td class="{kind}" data-title="{name}">{column[at]}</td>' for name, kind, column in shown)
        + "</tr>"
        for at in range(len(rows))
    )  # fmt: skip
    return (
        f'<h2>{title}</h2>\n<div class="scroll"><table class="rows">\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def facts(title: str, rows: Iterable[tuple[str, str]]) -> str:
    """A heading and a table of a label and a text each; empty texts are left out."""
    lines = [f'<tr><th>{text(name)}</th><td class="text">{text(value)}</td></tr>' for name, value in rows if value]
    return "\n".join([f'<h2>{title}</h2>\n<table class="facts">', *lines, "</table>"]) if lines else ""


def bullets(title: str, lines: Iterable[str]) -> str:
    """A heading and a list of texts; nothing without texts."""
    items = [f"<li>{text(line)}</li>" for line in lines]
    return "\n".join([f"<h2>{title}</h2>\n<ul>", *items, "</ul>"]) if items else ""


def preformatted(lines: str) -> str:
    """Text of several lines; nothing for an empty one."""
    return f"<pre>{escape(clean_lines(lines))}</pre>" if lines else ""


def png(data: bytes, alternative: str) -> str:
    """A picture inside of the page."""
    return f'<img alt="{text(alternative)}" src="data:image/png;base64,{b64encode(data).decode()}">'
