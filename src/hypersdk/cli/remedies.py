"""Texts of remedies in the three programs, with their flags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from hypersdk import remedies as fix
from hypersdk.errors import CodeInfo, HyperSDKError
from hypersdk.jobs import remedies as daemon
from hypersdk.remedies import Remedy, text_of

if TYPE_CHECKING:
    from hypersdk.formats.guestdisk import GuestFinding
    from hypersdk.migration.findings import Finding
    from hypersdk.model.check import DoctorCheck

_OPTIONS: Final[Mapping[tuple[str, str | bool], str]] = {
    ("source", "power-off"): "use --power-off",
    ("source", "shutdown"): "use --shutdown",
    ("no_convert", True): "use --no-convert, which lands the guest as it is",
    ("key", "FILE"): "use --key FILE",
    ("domain", "NAME"): "choose another name for the domain with --name",
    ("pool", "NAME"): "use --pool NAME, a storage pool of the target, into which the disks are uploaded",
    ("cpus", "N"): "use --cpus N and --memory SIZE",
    ("root", "DEVICE"): "choose one with --root first, or --root DEVICE",
    ("tpm", False): "use --no-tpm, which lands the machine without one",
    ("secure_boot", False): "use --no-secure-boot, which lands the machine without it",
    ("source_off", True): "use --source-off",
    ("new_macs", True): "use --new-macs, which gives the landed machine new MAC addresses",
    ("disconnect_source", True): "use --disconnect-source, which disconnects its network cards",
    ("keep_source_running", True): "use --keep-source-running, which gives the landed machine new MAC addresses",
    ("networks", "TARGET"): (
        "give each a target: --map 'VM Network=br0' for a bridge, --map 'VM Network=network:default' for a network of"
        " libvirt"
    ),
    ("export_method", "lease"): "use --source lease",
    ("export_method", "auto"): "omit --source",
    ("compress", True): "use --compress",
    ("remove_cdrom", True): "use --remove-cdrom, which ejects ISO images during the export",
    ("resume", False): "omit --resume",
}
_NOT_FOR_LANDING: Final = (
    fix.Discard(),
    fix.ReplaceFiles(),
    fix.SetOption("resume", False),
    fix.SetOption("format", "qcow2"),
)
_LIMITS: Final = {"datastore_min_free": "lower the minimum with --datastore-min-free", "streams": "lower --parallel"}


def next_step(
    found: HyperSDKError | CodeInfo | DoctorCheck | Finding | GuestFinding, program: str = "hyper2kvm"
) -> str:
    """The next step as one text. Each of several reasons has a line that begins with its code."""
    if isinstance(found, HyperSDKError) and found.reasons:
        return "\n".join(f"{reason.code}: {next_step(reason, program)}" for reason in found.reasons)
    return text_of(found.remedies, lambda remedy: clause(remedy, program))


def error_dict(error: HyperSDKError, program: str = "hyper2kvm") -> dict[str, Any]:
    """``error`` as JSON output has it."""
    facts = error.as_dict() | {"next_step": next_step(error, program)}
    return facts | ({"reasons": [error_dict(reason, program) for reason in error.reasons]} if error.reasons else {})


def in_one_line(error: HyperSDKError) -> str:
    """``next_step`` for a cell of a table."""
    return " ".join(next_step(error).splitlines())


def for_landing(error: HyperSDKError) -> HyperSDKError:
    """``error`` with remedies for `migrate` and `import`: they have no --resume, --discard, --force and --format, since
    the same command continues."""
    continued = (fix.Retry() if isinstance(remedy, fix.Resume) else remedy for remedy in error.remedies)
    error.remedies = tuple(dict.fromkeys(remedy for remedy in continued if remedy not in _NOT_FOR_LANDING)) or (
        fix.First("empty the folder of the machine"),
        fix.Retry(),
    )
    for reason in error.reasons:
        for_landing(reason)
    return error


def warning_text(warning: fix.Notice) -> str:
    """A warning with its next step, in one line."""
    step = text_of(warning.remedies, lambda remedy: clause(remedy, "hyper2kvm"))
    return f"{warning.text}. {step}" if step else warning.text


def clause(remedy: Remedy, program: str) -> str | None:
    """One remedy as a clause; None if the program has no such remedy."""
    match remedy:
        case fix.UseToken():
            return (
                "pass a token with --token-file (the first one of a daemon is the file admin.token in its --state-dir)"
            )
        case fix.NameDaemon():
            return "name another daemon with --url or $HYPERVISORD_URL"
        case fix.ReportBug():
            return "report it with the crash file, which holds no password"
        case fix.NameConfiguration():
            return "pass another one with --config"
        case fix.Configure(key):
            return f"set --{key.replace('_', '-')} (`{key}` in the configuration file)"
        case fix.Retry():
            return "run the command again"
        case fix.Look("help"):
            return f"see `{program} --help`"
        case _ if program == "hyper2kvm":
            return _of_export(remedy)
        case fix.TrustCertificate(shown, renewed=False, of_daemon=of_daemon):
            return f"pass it with {'--thumbprint' if of_daemon else '--pin'} {shown or 'FINGERPRINT'}"
        case _:
            return daemon.clause(remedy)


def _of_export(remedy: Remedy) -> str | None:
    """In the flags of ``hyper2kvm``."""
    match remedy:
        case fix.Resume():
            return "run the export again with --resume"
        case fix.Discard():
            return "start over with --discard"
        case fix.RestoreSource(snapshots):
            flag = " --drop-snapshots" if snapshots else ""
            return f"run `hyper2kvm cleanup{flag}`, which undoes what is left at the source"
        case fix.ExcludeDisk(disk):
            return f"leave {daemon.disk_name(disk)} out with --exclude-disk"
        case fix.ChooseFolder():
            return "choose another folder with -o"
        case fix.ReplaceFiles():
            return "use --force to replace what is there"
        case fix.ReplaceInput():
            return "if it was a file that was converted, get another copy"
        case fix.SetOption(name, value):
            return _OPTIONS.get((name, value), f"use --{name.replace('_', '-')} {value}")
        case fix.LowerLimit(limit):
            return _LIMITS[limit]
        case _:
            return _of_connection(remedy)


def _of_connection(remedy: Remedy) -> str | None:
    match remedy:
        case fix.TrustCertificate(shown, renewed):
            pin = f"pass {'the new fingerprint' if renewed else 'it'} with --thumbprint {shown or 'FINGERPRINT'}"
            return pin if renewed else f"{pin}, or name the authority's file with --ca-bundle"
        case fix.NameServer():
            return "set GOVC_URL, pass --url, or set `url` in the configuration file"
        case fix.GiveLogin():
            return (
                "set GOVC_USERNAME and GOVC_PASSWORD, pass --username and --password-file, or run it at a terminal to"
                " be asked"
            )
        case _:
            return daemon.clause(remedy)
