"""Remedies as the daemon words them: fields of the job file, `hyperctl` commands, routes, its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, assert_never

from hypersdk import remedies as fix
from hypersdk.errors import CodeInfo, HyperSDKError
from hypersdk.remedies import Remedy, text_of
from hypersdk.units import format_size

_OPTIONS: Final[Mapping[tuple[str, str | bool], str]] = {
    ("source", "power-off"): "set `options.source: power-off` and submit the job again",
    ("remove_cdrom", True): (
        "set `options.remove_cdrom`, which ejects ISO images during the export, and submit the job again"
    ),
    ("no_convert", True): "set `convert: false`, which lands the guest as it is, and submit the job again",
    (
        "key",
        "FILE",
    ): "add it to `keys` of the job instead, which needs no file, and submit the job again",
    ("root", "DEVICE"): "set `root` to `first` or to one of the devices and submit the job again",
    (
        "domain",
        "NAME",
    ): "set `domain`, a field of the kinds migrate and import, to another name and submit the job again",
    ("cpus", "N"): "set `cpus` and `memory` and submit the job again",
    ("networks", "TARGET"): (
        "add each to `networks`, like `VM Network: br0` or `VM Network: network:default`, and submit the job again"
    ),
    ("resume", False): "run `hyperctl retry --discard ID` to start over",
}
"""Options that are not simply a field of the job file."""
_LIMITS: Final = {
    "datastore_min_free": "lower `datastore_min_free_percent` and `datastore_min_free_bytes`",
    "streams": "lower `streams_per_host`",
}
_VIEWS: Final[Mapping[fix.Subject, str]] = {
    "connection": "`hyper2kvm doctor`, which checks name, route, certificate, login and privileges",
    "contexts": "`hyperctl contexts list` for the daemons that are known",
    "daemon": "`hyperctl status` for the daemon's version and load",
    "daemon_config": "`hypervisord --show-config`, which prints all keys with their values",
    "daemon_log": "`journalctl -u hypervisord` for the daemon's log",
    "endpoints": "`hyperctl endpoints list` for the endpoints",
    "help": "/docs for what the request takes",
    "job": "`hyperctl get ID` for the job's state",
    "jobs": "`hyperctl query -all` for the jobs",
    "machine": "`hyper2kvm inspect VM` for its state, disks and snapshots",
    "machines": "`hyper2kvm list` for the machines that are there",
    "permissions": "`GET /api/v1/auth/permissions` for the role that is needed",
    "request": "/docs for what the request takes",
    "runs": "`hyper2kvm status` for unfinished exports and what runs",
    "tokens": "`hyperctl tokens list` for the tokens",
    "users": "`hyperctl users list` for the users",
}


def next_step(found: HyperSDKError | CodeInfo) -> str:
    """What to do, as one text; of several reasons, each on a line of its own after its code."""
    if isinstance(found, HyperSDKError) and found.reasons:
        return "\n".join(f"{reason.code}: {next_step(reason)}" for reason in found.reasons)
    return text_of(found.remedies, clause)


def error_dict(error: HyperSDKError) -> dict[str, Any]:
    """``error`` as it is stored with a job and shown by the API."""
    found = error.as_dict() | {"next_step": next_step(error)}
    return found | ({"reasons": [error_dict(reason) for reason in error.reasons]} if error.reasons else {})


def warning_text(warning: fix.Notice) -> str:
    """A warning and what to do about it, in one line."""
    step = text_of(warning.remedies, clause)
    return f"{warning.text}. {step}" if step else warning.text


def clause(remedy: Remedy) -> str | None:
    """One remedy as a clause; None if it does not apply to jobs."""
    match remedy:
        case fix.Advice(text) | fix.First(text):
            return text
        case fix.ReportBug():
            return "report it with the traceback in the daemon's log"
        case fix.FreeSpace(size, folder):
            return free_space(size, folder)
        case fix.Retry() | fix.Resume():
            return "run `hyperctl retry ID`" + (" to continue" if isinstance(remedy, fix.Resume) else "")
        case fix.Discard():
            return "run `hyperctl retry --discard ID` to start over"
        case fix.RestoreSource():
            return "run `hyperctl cancel ID`, which undoes what is left at the source"
        case fix.GiveUp():
            return "run `hyperctl delete --give-up ID`, which forgets the job and leaves what it changed as it is"
        case fix.ExcludeDisk(disk):
            return f"leave {disk_name(disk)} out with `options.exclude_disks` and submit the job again"
        case fix.ChooseFolder():
            return "choose another `output_path` and submit the job again"
        case fix.SetOption(name, value):
            written = str(value).lower() if isinstance(value, bool) else value
            return _OPTIONS.get((name, value), f"set `{name}: {written}` and submit the job again")
        case fix.LowerLimit(limit):
            return f"{_LIMITS[limit]} in the daemon's configuration and run `hyperctl retry ID`"
        case fix.ReplaceFiles() | fix.ReplaceInput():
            return None
        case _:
            return _of_daemon(remedy)


def _of_daemon(
    remedy: fix.TrustCertificate
    | fix.NameServer
    | fix.GiveLogin
    | fix.LogIn
    | fix.UseToken
    | fix.NameDaemon
    | fix.NameConfiguration
    | fix.Configure
    | fix.StartWorker
    | fix.Look,
) -> str:
    match remedy:
        case fix.TrustCertificate():
            return _trust(remedy)
        case fix.NameServer():
            return (
                "name the server in the job's `vcenter` and submit the job again, or store it with `hyperctl endpoints"
                " add NAME URL`, or set GOVC_URL for the daemon"
            )
        case fix.GiveLogin():
            return (
                "give `username` and `password` in the job's `vcenter` and submit the job again, or store the server"
                " with them by `hyperctl endpoints add NAME URL`, or set GOVC_USERNAME and GOVC_PASSWORD for the daemon"
            )
        case fix.LogIn(longer):
            return "log in with `hyperctl login --days N`" if longer else "log in with `hyperctl login`"
        case fix.UseToken():
            return "send an API token (`Authorization: Bearer`, or `hyperctl --token-file FILE`)"
        case fix.NameDaemon():
            return "use another address ($HYPERVISORD_URL)"
        case fix.NameConfiguration():
            return "use another configuration file"
        case fix.Configure(key):
            return f"set `{key}` in the daemon's configuration"
        case fix.StartWorker():
            return "start a worker with `hypervisord --role worker`"
        case fix.Look(at):
            return f"see {_VIEWS[at]}"
        case _:
            assert_never(remedy)


def _trust(remedy: fix.TrustCertificate) -> str:
    shown = remedy.sha256 or "FINGERPRINT"
    if remedy.renewed:
        return (
            "delete the endpoint with `hyperctl endpoints delete NAME`, and add it again with `hyperctl endpoints add"
            f" NAME URL --pin {shown}`"
        )
    return (
        f"trust it with `hyperctl endpoints add NAME URL --pin {shown}` (`thumbprint` in the API), or with"
        " GOVC_TLS_KNOWN_HOSTS or GOVC_TLS_CA_CERTS in the daemon's environment"
    )


def disk_name(disk: str | None) -> str:
    """A disk in a clause."""
    return f"'{disk}'" if disk else "the disk"


def free_space(size: int | None, folder: str | None) -> str:
    """A clause that all programs share."""
    return f"free {'space' if size is None else format_size(size)}{f' in {folder}' if folder else ''}"
