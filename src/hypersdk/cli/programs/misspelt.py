"""Errors of the command line, worded: the flag or value that was not understood, and the known ones nearest to it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

import click

from hypersdk.errors import UsageError

MAX_NEAR: Final = 3
MAX_SHOWN: Final = 60
"""Characters of a word from the command line in an error."""
SURE: Final = 0.72
"""Likeness from which one word with one dash is a misspelt flag rather than a short one and its value."""
_NOT_ONE_OF: Final = re.compile(r"(['\"])(.*)\1 is not one of ", re.DOTALL)


class UnknownFlag(click.UsageError):
    """A word that begins like a flag and is none."""

    def __init__(self, word: str, ctx: click.Context) -> None:
        super().__init__(f"there is no flag {word[:MAX_SHOWN]}", ctx)
        self.word = word


def usage_of(error: click.ClickException, program: str, arguments: Sequence[str]) -> UsageError:
    """An error of click as a UsageError. ``arguments`` are those of the command line."""
    ctx = getattr(error, "ctx", None)
    path = ctx.command_path if isinstance(ctx, click.Context) else program
    if isinstance(error, click.NoSuchOption) and ctx is not None:
        error = UnknownFlag(_as_typed(error.option_name, ctx, arguments), ctx)
    message = error.format_message().strip().removesuffix(".")
    steps = (*_hints(error, arguments), f"See `{path} --help`.")
    return UsageError(message[:1].lower() + message[1:], next_step=" ".join(steps))


def check_words(ctx: click.Context, words: Iterable[str]) -> None:
    """Raises UnknownFlag for ``-fiel``: to click it is ``-f`` with the value ``iel``, which is then a missing file."""
    options = _options(ctx)
    short = {name: option for option in options for name in option.opts if len(name) == 2}
    known = {name.lstrip("-") for name in _names(options)}
    one_dash = {name[2:] for name in _names(option for option in options if getattr(option, "one_dash", False))}
    for word in _before_separator(words):
        stem, option = word[1:].partition("=")[0], short.get(word[:2])
        if len(word) < 3 or not word.startswith("-") or word[1] == "-" or stem in one_dash:
            continue
        if option is None or option.is_flag or isinstance(option.type, click.Choice):
            continue
        near = difflib.get_close_matches(stem, known, 1, SURE)
        if near and near[0][0] == stem[0] and not Path(word[2:]).exists():
            raise UnknownFlag(word, ctx)


def _hints(error: click.ClickException, arguments: Sequence[str]) -> Iterator[str]:
    if isinstance(error, UnknownFlag) and error.ctx is not None:
        names = {name.lstrip("-"): name for name in _names(_options(error.ctx))}
        yield from _did_you_mean(error.word.partition("=")[0].lstrip("-"), names)
    elif isinstance(error, click.BadParameter) and error.param and isinstance(error.param.type, click.Choice):
        found = _NOT_ONE_OF.search(error.message)
        choices = [str(choice) for choice in error.param.type.choices]
        yield from _did_you_mean(found[2] if found else "", {choice: choice for choice in choices})
    elif isinstance(error, click.UsageError) and error.ctx is not None:
        yield from _flag_without_value(error, error.ctx, arguments)


def _did_you_mean(word: str, known: dict[str, str]) -> Iterator[str]:
    near = [known[name] for name in difflib.get_close_matches(word, known, MAX_NEAR)]
    if near:
        yield f"Did you mean {' or '.join(near)}?"


def _flag_without_value(error: click.UsageError, ctx: click.Context, arguments: Sequence[str]) -> Iterator[str]:
    """For a word too many: the flag before it, if that takes no value."""
    switches = {name for option in _options(ctx) if option.is_flag for name in option.opts}
    switches |= {name[1:] for name in switches if name.startswith("--")}
    for flag, word in pairwise(arguments):
        if flag in switches and f"({word}" in error.message:
            yield f"{flag} takes no value."


def _as_typed(name: str, ctx: click.Context, arguments: Sequence[str]) -> str:
    """The word of the command line in which click did not know ``name``: of ``-verbsoe`` it names ``-v`` or ``-e``."""
    if name.startswith("--"):
        return name
    known = _names(_options(ctx))
    words = [word for word in _before_separator(arguments) if word.startswith("-") and not word.startswith("--")]
    return next((word for word in words if len(word) > 2 and name[1:] in word and word not in known), name)


def _options(ctx: click.Context) -> list[click.Option]:
    return [param for param in ctx.command.get_params(ctx) if isinstance(param, click.Option) and not param.hidden]


def _names(options: Iterable[click.Option]) -> list[str]:
    return [name for option in options for name in (*option.opts, *option.secondary_opts) if name.startswith("--")]


def _before_separator(words: Iterable[str]) -> Iterator[str]:
    for word in words:
        if word == "--":
            return
        yield word
