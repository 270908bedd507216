"""Errors of a guest conversion, and how to install what is missing."""

from __future__ import annotations

from typing import Final

from hypersdk.errors import HyperSDKError, register
from hypersdk.remedies import Advice, Retry, SetOption

NOT_CONVERTED: Final = SetOption("no_convert", True)

TOOL_MISSING: Final = register(
    "guest_tool_missing",
    "A program that the conversion of guests needs is not installed.",
    "Install it from the packages of your distribution.",
    Retry(),
)
TOOL_BROKEN: Final = register(
    "guest_tool_broken",
    "A program that the conversion of guests needs does not run.",
    "Run it by hand to see why, or install its package again.",
    Retry(),
)
OPTION_UNSUPPORTED: Final = register(
    "guest_option_unsupported",
    "The installed virt-v2v-in-place does not have an option that this request needs. Nothing was changed.",
    "Install a newer virt-v2v, or leave the option out.",
)


class ConversionError(HyperSDKError):
    """The guest could not be converted. The exported image is unchanged."""

    exit_status = 15
    default_code = register(
        "conversion_failed",
        "virt-v2v could not convert the guest. The exported image is unchanged.",
        "Read the end of the log.",
        Retry(),
    )


def install_advice(command: str | None) -> tuple[Advice | Retry, ...]:
    """``command`` is that of the distribution, None where it is not known: then the remedies of the code apply."""
    return () if command is None else (Advice(f"Install it: {command}"), Retry())
