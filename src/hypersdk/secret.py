"""A string that is never printed: passwords and tokens are a ``Secret`` from the prompt to the request."""

from __future__ import annotations

from typing import NoReturn


class Secret:
    """Holds a secret text. ``str``, ``repr``, ``format`` and pickling never show it; only ``reveal()`` does."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself. To be called only where the text is sent."""
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(("Secret", self._text))

    def __repr__(self) -> str:
        return "Secret('***')"

    def __str__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return format("***", spec)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled")
