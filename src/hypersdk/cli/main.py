"""The entry of ``hyper2kvm``: sets a run up and is the one funnel for everything that ends it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TextIO

import click

from hypersdk.cli.app import COMPLETION_VARIABLE, PROGRAM, root
from hypersdk.cli.output import Output
from hypersdk.cli.programs.program import drop, show_any_name, usage_of, wants_json, with_help
from hypersdk.cli.report import EXIT_BROKEN_PIPE, report, report_unexpected
from hypersdk.cli.signals import cancelled_by, watched
from hypersdk.cli.state import Cli
from hypersdk.errors import EXIT_OK, Cancelled, HyperSDKError

PICK_AGAIN = "Pick the same machines and folder again to go on, or see `hyper2kvm status`."
NOTHING_BEGUN = "Nothing was changed. Run the same command again when it suits you."


def run() -> int:
    """What the installed script calls: runs the command line of this process and returns the exit status."""
    show_any_name(sys.stdout, sys.stderr)
    return main(sys.argv[1:], sys.stdout, sys.stderr, sys.stdin, os.environ)


def main(arguments: Sequence[str], stdout: TextIO, stderr: TextIO, stdin: TextIO, environ: Mapping[str, str]) -> int:
    """Runs one command line on the given streams and environment, and returns the exit status."""
    output = Output(stdout, stderr, environ, json_lines=wants_json(arguments, {"--json"}), stdin_is_tty=stdin.isatty())
    cli = Cli(output, environ, stdin)
    try:
        with watched(cli.interrupts):
            return _invoke(cli, arguments)
    except BrokenPipeError:
        drop(stdout, stderr)
        return EXIT_BROKEN_PIPE
    except Exception as error:  # noqa: BLE001 - the outermost loop: what gets here is a bug, and is told as one
        return report_unexpected(output, error, cli.state_dir)


def _invoke(cli: Cli, arguments: Sequence[str]) -> int:
    try:
        if COMPLETION_VARIABLE in cli.environ:
            root.main(list(arguments), prog_name=PROGRAM, complete_var=COMPLETION_VARIABLE, obj=cli)
        with root.make_context(PROGRAM, list(arguments), obj=cli) as ctx:
            status = root.invoke(ctx)
    except click.exceptions.Exit as done:  # --help, --version
        return done.exit_code
    except Cancelled as error:
        return report(cli.output, _with_signal(cli, error), debug=cli.debug)
    except HyperSDKError as error:
        return report(cli.output, with_help(error, PROGRAM), debug=cli.debug)
    except click.ClickException as error:
        return report(cli.output, usage_of(error, PROGRAM), debug=cli.debug)
    except (click.Abort, KeyboardInterrupt):
        return report(cli.output, _with_signal(cli, Cancelled("stopped", signal="SIGINT")), debug=cli.debug)
    return status if isinstance(status, int) else EXIT_OK


def _with_signal(cli: Cli, error: Cancelled) -> Cancelled:
    """The engine only knows that it was cancelled; which signal did it decides the exit status, and what was begun the
    next step."""
    told = error
    if cli.interrupts.received is not None and "signal" not in error.fields:
        told = cancelled_by(cli.interrupts.received)
        told.next_step, told.cause = error.next_step, error.cause
        told.fields.update(error.fields)
    if not cli.resumable:
        told.next_step = NOTHING_BEGUN
    elif cli.interactive:
        told.next_step = PICK_AGAIN
    return told


if __name__ == "__main__":
    sys.exit(run())
