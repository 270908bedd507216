"""YAML as strangers write it: one document without tags, bounded in depth and in size, read in one pass.

::

    text ──libyaml──> events ──YamlReader──> the document, or BadYaml at the event that goes too far

Nothing is composed or constructed by PyYAML but single values: what is refused is refused before there is much of it.
Aliases count for all that they stand for: ten lines of them can stand for billions of values.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

try:
    from yaml import CSafeLoader as _Loader
except ImportError:  # PyYAML built without libyaml: same results, slower
    from yaml import SafeLoader as _Loader  # type: ignore[assignment]

MAX_DEPTH: Final = 16
MAX_ALIASES: Final = 1000
MAX_VALUES: Final = 500_000
"""Names, values, lists and mappings, all aliases followed: 10,000 jobs of 25 fields."""
MAX_NUMBER: Final = 4300
"""Characters of one number or date; as many digits as Python reads by itself."""

_ONE: Final = threading.Lock()
"""Only one text is read at a time: it takes a second and some hundred megabytes at worst, and threads would gain
nothing."""
_TEXT: Final = "tag:yaml.org,2002:str"
_MERGE: Final = "<<"
_TAG_NAMES: Final = re.compile(r"(?:\A|[\n\r\x85\u2028\u2029\ufeff])%TAG")


class BadYaml(ValueError):  # noqa: N818 - reads as what happened
    """The text is no YAML that is read; the message shows no value of it."""


class _Mark:
    """An object of its own, that no text can stand for."""


_NOTHING: Final = _Mark()
_TAKE_OVER: Final = _Mark()


@dataclass(slots=True)
class _Open:
    """A list or mapping that is being read. ``before`` values were counted when it began; so many levels of collections
    lie in it."""

    anchor: str | None
    before: int
    items: list[object] | None
    fields: dict[Any, object] = field(default_factory=dict)
    merged: list[dict[Any, object]] = field(default_factory=list)
    key: object = _NOTHING
    levels: int = 0


@dataclass(frozen=True, slots=True)
class _Anchored:
    """What an alias stands for."""

    value: object
    values: int
    levels: int


def read_yaml(text: str) -> object:
    """The document in ``text``. Raises BadYaml.

    A parser error of PyYAML shows the line it stumbled over, which may hold a password: only the position is passed on.
    """
    if _TAG_NAMES.search(text):  # libyaml compares each with all before, in front of the first event
        raise BadYaml("YAML tags are not read (%TAG)")
    with _ONE:
        try:
            loader = _Loader(text)
            try:
                return _YamlReader(loader).document()
            finally:
                loader.dispose()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            raise BadYaml(f"not YAML: {error.problem or error.context} in {_line(mark)}") from None
        except yaml.YAMLError:
            raise BadYaml("not YAML: it holds characters that YAML does not allow") from None
        except BadYaml:
            raise
        except (ValueError, OverflowError):  # a date such as 2024-02-31, a number of thousands of digits
            raise BadYaml("a number or date in the YAML does not exist; put it in quotes if it is text") from None


class _YamlReader:
    """Builds the document while its events are read."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._open: list[_Open] = []
        self._anchors: dict[str, _Anchored | None] = {}
        """None while it is being read."""
        self._values = 0
        self._aliases = 0
        self._root: object = _NOTHING

    def document(self) -> object:
        """All of it. Raises BadYaml, and what PyYAML and its constructors of single values raise."""
        next_event = self._loader.get_event
        while type(event := next_event()) is not yaml.StreamEndEvent:
            match event:
                case yaml.ScalarEvent():
                    self._begins(event)
                    value = self._scalar(event)
                    if event.anchor is not None:
                        self._anchors[event.anchor] = _Anchored(value, 1, 0)
                    self._put(value, event)
                case yaml.CollectionStartEvent():
                    self._begins(event)
                    if len(self._open) == MAX_DEPTH:
                        raise self._too_deep(event)
                    items: list[object] | None = [] if isinstance(event, yaml.SequenceStartEvent) else None
                    self._open.append(_Open(event.anchor, self._values - 1, items))
                case yaml.CollectionEndEvent():
                    self._ends(event)
                case yaml.AliasEvent():
                    self._alias(event)
                case yaml.DocumentStartEvent() if self._root is not _NOTHING:
                    raise BadYaml(f"the YAML holds more than one document ({_line(event.start_mark)})")
        if self._root is _NOTHING:
            raise BadYaml("the job file is empty")
        return self._root

    def _begins(self, event: Any) -> None:
        """Counts a value that is written out."""
        if event.tag is not None:
            raise BadYaml(f"YAML tags are not read ({_line(event.start_mark)})")
        if event.anchor is not None:
            if event.anchor in self._anchors:
                raise BadYaml(f"a YAML anchor is given twice ({_line(event.start_mark)})")
            self._anchors[event.anchor] = None
        self._count(1)

    def _count(self, values: int) -> None:
        self._values += values
        if self._values > MAX_VALUES:
            followed = ", its aliases followed" if self._aliases else ""
            raise BadYaml(
                f"the YAML holds more than {MAX_VALUES} values{followed}; write it as JSON, or as several files"
            )

    def _too_deep(self, event: Any) -> BadYaml:
        return BadYaml(f"the YAML nests deeper than {MAX_DEPTH} ({_line(event.start_mark)})")

    def _scalar(self, event: Any) -> object:
        if not event.implicit[0]:  # in quotes, or a block of text
            return event.value
        tag = self._loader.resolve(yaml.ScalarNode, event.value, event.implicit)
        if tag == _TEXT or (self._at_name and event.value in (_MERGE, "=")):
            return event.value
        if len(event.value) > MAX_NUMBER:  # some take longer than their length to be read
            raise BadYaml(f"a number in the YAML has thousands of digits ({_line(event.start_mark)})")
        constructors = self._loader.yaml_constructors
        node = yaml.ScalarNode(tag, event.value, event.start_mark, event.end_mark)
        return constructors.get(tag, constructors[None])(self._loader, node)

    @property
    def _at_name(self) -> bool:
        """Whether the next value is the name of a field."""
        return bool(self._open) and self._open[-1].items is None and self._open[-1].key is _NOTHING

    def _alias(self, event: Any) -> None:
        self._aliases += 1
        if self._aliases > MAX_ALIASES:
            raise BadYaml(f"the YAML has more than {MAX_ALIASES} aliases ({_line(event.start_mark)})")
        if event.anchor not in self._anchors:
            raise BadYaml(f"a YAML alias stands for nothing ({_line(event.start_mark)})")
        found = self._anchors[event.anchor]
        if found is None:
            raise BadYaml(f"a YAML alias contains itself ({_line(event.start_mark)})")
        self._count(found.values)
        if len(self._open) + found.levels > MAX_DEPTH:
            raise self._too_deep(event)
        if self._open:
            self._open[-1].levels = max(self._open[-1].levels, found.levels)
        self._put(found.value, event)

    def _ends(self, event: Any) -> None:
        """The innermost list or mapping is whole."""
        ended = self._open.pop()
        value: object = ended.items
        if ended.items is None:
            value = ended.fields
            if ended.merged:
                value = {}
                for fields in (*ended.merged, ended.fields):
                    value.update(fields)
        if ended.anchor is not None:
            self._anchors[ended.anchor] = _Anchored(value, self._values - ended.before, ended.levels + 1)
        if self._open:
            self._open[-1].levels = max(self._open[-1].levels, ended.levels + 1)
        self._put(value, event)

    def _put(self, value: object, event: Any) -> None:
        """Where the value belongs: it is the document, or the next item, name or value of what is open."""
        if not self._open:
            self._root = value
            return
        into = self._open[-1]
        if into.items is not None:
            into.items.append(value)
        elif into.key is _NOTHING:
            into.key = self._name(value, into, event)
        else:
            if into.key is _TAKE_OVER:
                into.merged = _taken_over(value, event)
            else:
                into.fields[into.key] = value
            into.key = _NOTHING

    def _name(self, value: object, into: _Open, event: Any) -> object:
        """``value`` as the name of a field. Raises BadYaml where there is such a field, or cannot be."""
        if isinstance(value, dict | list):
            raise BadYaml(f"the name of a field is a list or a mapping ({_line(event.start_mark)})")
        merge = value == _MERGE and isinstance(event, yaml.ScalarEvent) and event.implicit[0]
        if (merge and into.merged) or value in into.fields:
            raise BadYaml(f"the field '{str(value)[:60]}' is given twice ({_line(event.start_mark)})")
        return _TAKE_OVER if merge else value


def _taken_over(value: object, event: Any) -> list[dict[Any, object]]:
    """The mappings behind ``<<``, the one that counts least first. One of no fields is kept: it was given."""
    given = value[::-1] if isinstance(value, list) else [value]
    found = [fields for fields in given if isinstance(fields, dict)]
    if len(found) < len(given):
        raise BadYaml(f"'{_MERGE}' takes over fields, and there are none ({_line(event.start_mark)})")
    return found


def _line(mark: Any) -> str:
    return f"line {mark.line + 1}" if mark else "an unknown line"
