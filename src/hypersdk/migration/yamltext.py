"""Untrusted YAML: one document without tags and aliases, bounded in depth and in size, read in one pass.

::

    text ──libyaml──> events ──YamlReader──> the document, or BadYaml at the event that goes too far

PyYAML composes and constructs nothing but single values: what is refused is refused before there is much of it. Aliases
are refused because ten lines of them can stand for billions of values, and no job file needs them.
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
MAX_VALUES: Final = 500_000
"""Limit of names, values, lists and mappings: 10,000 jobs of 25 fields."""
MAX_NUMBER: Final = 4300
"""Limit of the characters of a number or date; as many digits as Python converts by default."""

_LOCK: Final = threading.Lock()
"""One text is read at a time: it takes up to a second and some hundred megabytes, and threads would not make it
faster."""
_TEXT: Final = "tag:yaml.org,2002:str"
_SPECIAL_NAMES: Final = ("<<", "=")
"""Field names with a special meaning in YAML 1.1; here they are names like others."""
_TAG_NAMES: Final = re.compile(r"(?:\A|[\n\r\x85\u2028\u2029\ufeff])%TAG")


class BadYaml(ValueError):  # noqa: N818 - reads as what happened
    """The text is not accepted as YAML; the message shows no value of it."""


_NOTHING: Final = object()
"""A value that no YAML text represents."""


@dataclass(slots=True)
class _Open:
    """A list or mapping that is being read."""

    items: list[object] | None
    fields: dict[Any, object] = field(default_factory=dict)
    key: object = _NOTHING

    @property
    def at_name(self) -> bool:
        """Whether the next value is the name of a field."""
        return self.items is None and self.key is _NOTHING


def read_yaml(text: str) -> object:
    """The document in ``text``. Raises BadYaml.

    A parser error of PyYAML shows the line with the error, which may contain a password: only the position is passed
    on.
    """
    if _TAG_NAMES.search(text):  # libyaml compares each with all before, in front of the first event
        raise BadYaml("YAML tags are not read (%TAG)")
    with _LOCK:
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
        self._values = 0
        self._root: object = _NOTHING

    def document(self) -> object:
        """Reads the whole document. Raises BadYaml, and what PyYAML and its constructors of single values raise."""
        next_event = self._loader.get_event
        while type(event := next_event()) is not yaml.StreamEndEvent:
            match event:
                case yaml.AliasEvent():
                    raise _no_aliases(event)
                case yaml.ScalarEvent():
                    self._check(event)
                    self._put(self._scalar(event), event)
                case yaml.CollectionStartEvent():
                    self._check(event)
                    if len(self._open) == MAX_DEPTH:
                        raise BadYaml(f"the YAML nests deeper than {MAX_DEPTH} ({_line(event.start_mark)})")
                    self._open.append(_Open([] if isinstance(event, yaml.SequenceStartEvent) else None))
                case yaml.CollectionEndEvent():
                    ended = self._open.pop()
                    self._put(ended.fields if ended.items is None else ended.items, event)
                case yaml.DocumentStartEvent() if self._root is not _NOTHING:
                    raise BadYaml(f"the YAML holds more than one document ({_line(event.start_mark)})")
        if self._root is _NOTHING:
            raise BadYaml("the job file is empty")
        return self._root

    def _check(self, event: Any) -> None:
        """Counts a value. Raises BadYaml for tags, anchors and too many values."""
        if event.tag is not None:
            raise BadYaml(f"YAML tags are not read ({_line(event.start_mark)})")
        if event.anchor is not None:
            raise _no_aliases(event)
        self._values += 1
        if self._values > MAX_VALUES:
            raise BadYaml(f"the YAML holds more than {MAX_VALUES} values; write it as JSON, or as several files")

    def _scalar(self, event: Any) -> object:
        if not event.implicit[0]:  # in quotes, or a block of text
            return event.value
        tag = self._loader.resolve(yaml.ScalarNode, event.value, event.implicit)
        if tag == _TEXT or (self._open and self._open[-1].at_name and event.value in _SPECIAL_NAMES):
            return event.value
        if len(event.value) > MAX_NUMBER:  # some take longer than their length to be read
            raise BadYaml(f"a number in the YAML has thousands of digits ({_line(event.start_mark)})")
        constructors = self._loader.yaml_constructors
        node = yaml.ScalarNode(tag, event.value, event.start_mark, event.end_mark)
        return constructors.get(tag, constructors[None])(self._loader, node)

    def _put(self, value: object, event: Any) -> None:
        """Stores the value: as the document, or as the next item, name or value of the open collection."""
        if not self._open:
            self._root = value
            return
        into = self._open[-1]
        if into.items is not None:
            into.items.append(value)
        elif into.at_name:
            into.key = _name(value, into, event)
        else:
            into.fields[into.key] = value
            into.key = _NOTHING


def _name(value: object, into: _Open, event: Any) -> object:
    """``value`` as the name of a field. Raises BadYaml where the field exists already, or ``value`` cannot be a
    name."""
    if isinstance(value, dict | list):
        raise BadYaml(f"the name of a field is a list or a mapping ({_line(event.start_mark)})")
    if value in into.fields:
        raise BadYaml(f"the field '{str(value)[:60]}' is given twice ({_line(event.start_mark)})")
    return value


def _no_aliases(event: Any) -> BadYaml:
    return BadYaml(f"YAML anchors and aliases are not read; write the value out ({_line(event.start_mark)})")


def _line(mark: Any) -> str:
    return f"line {mark.line + 1}" if mark else "an unknown line"
