"""Datastore paths: ``[datastore] folder/file``, as vSphere writes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def split_datastore_path(text: str, known: Iterable[str] = ()) -> tuple[str, str] | None:
    """The name of the datastore and the path in it; None for a text of another form.

    The name is not escaped and may contain brackets, so the longest matching name of ``known`` is taken. Without one
    the name ends at the bracket that closes the first or, where brackets in the name are unbalanced, at the first
    bracket followed by a space.
    """
    if not text.startswith("["):
        return None
    for end in _ends(text, known):
        name, rest = text[1:end], text[end + 1 :]
        if name and rest[:1] in ("", " "):
            return name, rest.lstrip(" ")
    name, bracket, rest = text[1:].partition("]")
    return (name, rest) if name and bracket else None


def _ends(text: str, known: Iterable[str]) -> Iterator[int]:
    """Candidate positions of the bracket that ends the name, the likeliest first."""
    for name in sorted(known, key=len, reverse=True):
        if text.startswith(f"[{name}]"):
            yield len(name) + 1
    depth = 0
    for at, char in enumerate(text):
        depth += (char == "[") - (char == "]")
        if depth == 0:
            yield at
            break
    yield from (at for at in (text.find("] "), text.rfind("]")) if at > 0)
