"""How bash, zsh and fish get completions: words of any content (names of machines are not ours) arrive as one word.

What is offered goes through a pipe, a line each, so words with characters that are not plain (line ends, controls,
invisible ones) are offered to bash only, which has an escaped form for them: ``$'a\\nb'``.

::

    export we│          word: what the shell replaces               web\\ 01     escaped for no quotes
    export "we│         only what stands behind the quote           web 01       escaped for these quotes
    export a:we│        only what stands behind a word break        web\\ 01     (COMP_WORDBREAKS)
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
)

from hypersdk.text import clean, is_plain, shell_word

_BASH: Final = """\
%(complete_func)s() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        case "$line" in
            dir,*) compopt -o dirnames ;;
            file,*) compopt -o default ;;
            plain,*) COMPREPLY+=("${line#plain,}") ;;
        esac
    done < <(HYPERSDK_LINE="${COMP_LINE:0:COMP_POINT}" HYPERSDK_BREAKS="$COMP_WORDBREAKS" \\
        %(complete_var)s=bash_complete "${1/#\\~\\//$HOME/}" 2>/dev/null)
    return 0
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""
_FISH: Final = """\
function %(complete_func)s;
    set -l response (env %(complete_var)s=fish_complete COMP_WORDS=(commandline -cp) COMP_CWORD=(commandline -t) \\
%(prog_name)s 2>/dev/null);
    for completion in $response;
        set -l metadata (string split -m 1 "," -- $completion);
        if test $metadata[1] = "dir";
            __fish_complete_directories $metadata[2];
        else if test $metadata[1] = "file";
            __fish_complete_path $metadata[2];
        else if test $metadata[1] = "plain";
            printf '%%s\\n' $metadata[2];
        end;
    end;
end;

complete --no-files --command %(prog_name)s --arguments "(%(complete_func)s)";
"""
_LINE: Final = "HYPERSDK_LINE"
_ANSI_C: Final = "$'"
_UNSAFE: Final = re.compile(r"[^\w./,+%\-\u0080-\U0010ffff]|\s")


@dataclass(slots=True)
class Line:
    """A command line up to the cursor, as bash reads it."""

    words: list[str] = field(default_factory=list)
    """The complete words, without quotes and escapes."""
    word: str = ""
    """The word at the cursor, in the same way."""
    kept: int = 0
    """Characters of ``word`` that bash does not replace."""
    quote: str = ""
    """The quote that is open at the cursor: one of ``'``, ``"``, ``$'``."""


_PIECE: Final = re.compile(
    r"""(?P<blank>[ \t\n]+)|\\(?P<escaped>[\s\S])|(?P<quote>\$'|'|")|(?P<plain>[^\\ \t\n'"$]+|\$|\\$)""", re.VERBOSE
)
_BODY: Final = {
    "'": re.compile(r"[^']*"),
    '"': re.compile(r'(?:[^"\\]|\\[\s\S]|\\$)*'),
    _ANSI_C: re.compile(r"(?:[^'\\]|\\[\s\S]|\\$)*"),
}


def read_line(text: str, breaks: str) -> Line:
    """Reads ``text``, whose end is the cursor. Outside of quotes, characters of ``breaks`` end what bash replaces."""
    line, at, begun = Line(), 0, False
    while at < len(text):
        found = _PIECE.match(text, at)
        assert found, "every character is one of the pieces"
        at = found.end()
        if found["blank"]:
            if begun:
                line.words.append(line.word)
            line.word, line.kept, begun = "", 0, False
        elif quote := found["quote"]:
            body = _BODY[quote].match(text, at)
            assert body, "may be empty"
            if body.end() == len(text):
                line.quote, line.kept = quote, len(line.word)
            line.word += _inside(quote, body[0])
            at, begun = body.end() + 1, True
        else:
            plain = found["plain"] or ""
            broken = max((plain.rfind(char) for char in breaks), default=-1)
            line.kept = len(line.word) + broken + 1 if broken >= 0 else line.kept
            line.word += found["escaped"] or plain
            begun = True
    return line


def _inside(quote: str, body: str) -> str:
    if quote == '"':
        return re.sub(r'\\(["\\$`])', r"\1", body)
    return _unescaped(body) if quote == _ANSI_C else body


def _unescaped(body: str) -> str:
    r"""The text of ``$'...'`` as ``shell_word`` writes it: ``\\``, ``\'`` and octal bytes."""
    pieces = re.sub(
        rb"\\([0-7]{1,3})|\\([\s\S])",
        lambda found: bytes([int(found[1], 8) & 255]) if found[1] else found[2],
        body.encode(errors="surrogateescape"),
    )
    return pieces.decode(errors="replace")


def escaped_for(text: str, line: Line) -> str | None:
    """The rest of a word, as it must stand behind what bash keeps of it. None if there is no way to write it there."""
    plain = all(map(is_plain, text))
    if line.quote == _ANSI_C:
        return shell_word(f"{text}\a")[2:-5]  # a character that is not plain makes it $'...'
    if not plain:
        return None if line.quote or line.kept else shell_word(text)
    if line.quote == "'":
        return text.replace("'", "'\\''")
    if line.quote == '"':
        return re.sub(r'(["\\$`])', r"\\\1", text).replace("!", "\"'!'\"")  # history expansion has no escape there
    return _UNSAFE.sub(lambda found: f"\\{found[0]}", text)


class Bash(BashComplete):
    """Splits and quotes as bash does."""

    source_template: ClassVar[str] = _BASH
    _line = Line()
    _flag = ""

    def get_completion_args(self) -> tuple[list[str], str]:
        if _LINE not in os.environ:
            return super().get_completion_args()
        self._line = read_line(os.environ[_LINE], os.environ.get("HYPERSDK_BREAKS", ""))
        word = self._line.word
        # click completes the value of --flag=value alone
        self._flag = word[: word.index("=") + 1] if word.startswith("-") and "=" in word else ""
        return self._line.words[1:], word

    def complete(self) -> str:
        items = self.get_completions(*self.get_completion_args())
        return "\n".join(line for item in items if (line := self._formatted(item)) is not None)

    def _formatted(self, item: CompletionItem[Any]) -> str | None:
        if item.type != "plain":
            return f"{item.type},"
        rest = (self._flag + str(item.value))[self._line.kept :]
        word = escaped_for(rest, self._line)
        if _LINE not in os.environ and word != rest:
            return None  # the script is of an earlier version, which does not quote
        return None if word is None else f"plain,{word}"


class _PlainWords(ShellComplete):
    """For shells that quote what is offered themselves."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[Any]]:
        items = super().get_completions(args, incomplete)
        return [item for item in items if all(map(is_plain, str(item.value)))]


class Zsh(_PlainWords, ZshComplete):
    """``_describe`` takes backslashes and colons before a description as its own."""

    def format_completion(self, item: CompletionItem[str]) -> str:
        value = item.value.replace("\\", "\\\\").replace(":", "\\:") if item.help else item.value
        return f"{item.type}\n{value}\n{clean(item.help or '_')}"


class Fish(_PlainWords, FishComplete):
    """Commas belong to the word."""

    source_template: ClassVar[str] = _FISH


def register_shells() -> None:
    """Makes click use these classes."""
    for kind in (Bash, Zsh, Fish):
        add_completion_class(kind)
