"""The commands (between backticks) and flags that a printed next step names. A cure may use nothing else."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from hypersdk.errors import CODES

_PLACEHOLDER: Final = re.compile(r"\b[A-Z]{2,}\b")


@dataclass
class Advice:
    """One reported error. ``taken`` lists the parts of its next step that were used."""

    code: str
    message: str
    next_step: str
    facts: Mapping[str, Any]
    taken: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, facts: Mapping[str, Any], code: str) -> Advice:
        """From an error line, a problem document or a job's error, which must have that code."""
        assert facts["code"] == code, facts
        assert code in CODES
        return cls(code, str(facts.get("message") or facts.get("detail")), str(facts["next_step"]), facts)

    @classmethod
    def shown(cls, text: str, code: str) -> Advice:
        """From an error as printed for people: labels with wrapped texts."""
        facts: dict[str, str] = {}
        label = ""
        for line in text.splitlines():
            if found := re.match(r"(Error): |  (cause|next|code) +", line):
                label = found[1] or found[2]
                facts[label] = line[found.end() :]
            elif label:
                facts[label] += f" {line.strip()}"
        assert "code" in facts, text
        fields = {
            "code": facts["code"].partition(" ")[0],
            "message": facts["Error"],
            "next_step": facts["next"],
        }
        return cls.of(fields, code)

    def flag(self, name: str) -> str:
        """A flag that the next step names."""
        return self.words(name)

    def words(self, text: str) -> str:
        """Text that the next step contains literally, as whole words."""
        found = re.search(rf"(?<![\w-]){re.escape(text)}(?![\w-])", self.next_step)
        assert found, f"{self.code}: {text!r} is not in {self.next_step!r}"
        self.taken.append(text)
        return text

    def fingerprint_after(self, flag: str) -> list[str]:
        """A flag with the fingerprint from the next step, or from the message if the next step has none."""
        self.flag(flag)
        text = self.next_step if re.search(rf"{flag} [0-9A-F]{{2}}:", self.next_step) else self.message
        fingerprints = re.findall(r"[0-9A-F]{2}(?::[0-9A-F]{2}){19,31}", text)
        assert fingerprints, f"{self.code}: no fingerprint in {text!r}"
        return [flag, fingerprints[-1]]

    def command(self, beginning: str, **values: str) -> list[str]:
        """The arguments, without the program, of the only command between backticks that starts with ``beginning``.
        Placeholders (ID, VM, FILE) are replaced."""
        found = list(
            dict.fromkeys(
                text for text in re.findall(r"`([^`]+)`", self.next_step) if f"{text} ".startswith(f"{beginning} ")
            )
        )
        assert len(found) == 1, f"{self.code}: {found} for {beginning!r} in {self.next_step!r}"
        filled = _PLACEHOLDER.sub(lambda match: shlex.quote(values[match[0]]), found[0])
        self.taken.append(found[0])
        return shlex.split(filled)[1:]
