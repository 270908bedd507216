"""What to do about an error of a job: with the fields of its job file, `hyperctl` and the daemon's configuration.

The engine's own next steps name the flags of `hyper2kvm`, and a job has none. Where one is for both, it is not listed
here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from hypersdk.errors import CODES, HyperSDKError
from hypersdk.net.certificate import CERTIFICATE_UNKNOWN
from hypersdk.vsphere.cdrom import ISO_STEP

_ON: Final = "`hyperctl retry ID` goes on from there"
_ANEW: Final = "`hyperctl retry --discard ID` begins it anew"
_AGAIN: Final = "and submit the job again"
_LEASE: Final = f"set `export_method: lease` {_AGAIN}"
_LEFT_OUT: Final = f"leave it out with `options.exclude_disks` {_AGAIN}"

NEXT_STEPS: Final[Mapping[str, str]] = {
    # The job file
    "no_disks": "Check `options.exclude_disks`; a machine without disks has nothing to export.",
    "no_such_disk": f"Correct `options.exclude_disks` {_AGAIN}; `hyper2kvm inspect VM` shows the machine's disks.",
    "disk_not_served": f"Check the disk in vCenter, or {_LEFT_OUT}.",
    "disk_capacity": (
        f"Look at the disk in vCenter and repair its descriptor, then `hyperctl retry ID`, or {_LEFT_OUT}."
    ),
    "rdm_physical": f"Leave it out with `options.exclude_disks` {_AGAIN}; move its LUN apart.",
    "independent_disk": f"Set `options.source: power-off`, or {_LEFT_OUT}.",
    "shared_disk": f"Stop all machines that use it and switch sharing off, or {_LEFT_OUT}.",
    "datastore_unreachable": (
        "Bring the datastore back, then `hyperctl retry ID`, or leave its disks out with `options.exclude_disks` "
        f"{_AGAIN}."
    ),
    "datastore_floor": (
        f"Free space on the datastore, then `hyperctl retry ID`, or set `options.source: power-off` {_AGAIN}; the"
        " snapshot has been removed."
    ),
    "datastore_low": (
        "Free space on the datastore, or lower `datastore_min_free_percent` and `datastore_min_free_bytes` in the daemon's"
        f" configuration, then `hyperctl retry ID`; or set `options.source: power-off` {_AGAIN}."
    ),
    "shutdown_timeout": (
        "Look at the guest's console and shut it down from within, then `hyperctl retry ID`, or set `options.source:"
        f" power-off` {_AGAIN}."
    ),
    "tools_unavailable": f"Start VMware Tools, then `hyperctl retry ID`, or set `options.source: power-off` {_AGAIN}.",
    "no_ranges": f"Leave `export_method` out, or {_LEASE}.",
    "range_ignored": f"A proxy in between may not pass ranges on: {_LEASE}.",
    "range_mismatch": f"A proxy in between may alter traffic: {_LEASE}.",
    "nfc_exhausted": (
        "Fewer streams at once: let other copies from this host finish, or lower `streams_per_host` in the daemon's"
        " configuration; then `hyperctl retry ID`."
    ),
    "ova_room": f"Set `format: ovf`, which has no such limit, {_AGAIN}.",
    # The folder
    "foreign_output": f"Empty the folder, then `hyperctl retry ID`, or choose another `output_path` {_AGAIN}.",
    "target_denied": (
        f"Let the daemon's user write there, then `hyperctl retry ID`, or choose another `output_path` {_AGAIN}."
    ),
    "target_too_small": (
        f"Free space, then `hyperctl retry ID`, or choose another `output_path` or `compress: true` {_AGAIN}."
    ),
    "no_space": f"Free space; {_ON}.",
    "run_active": f"Wait for it to end, then `hyperctl retry ID`, or choose another `output_path` {_AGAIN}.",
    "folder_moved": f"Move it back; {_ON}.",
    "folder_removed": "Find out who removes it; `hyperctl retry ID` makes it anew and copies again what is lost.",
    "folder_taken": f"End the other process, then `hyperctl retry ID`, or choose another `output_path` {_AGAIN}.",
    "output_replaced": f"Find out who writes to the output folder; {_ON}.",
    "ledger_busy": "Wait for it to end, or stop it; then `hyperctl retry ID`.",
    "ledger_unusable": f"{_ANEW}.",
    "run_unreadable": (
        f"{_ANEW}; then look for what that run left at the source: snapshots named hypersdk-*, ISO images that were"
        " ejected, a machine that is off."
    ),
    "finished_disk_damaged": f"Check the drive that the folder is on; {_ON}: that disk is copied again.",
    "partial_damaged": f"{_ANEW}: the disk starts from its beginning.",
    "resumable_state": f"{_ON}, {_ANEW}.",
    "nothing_to_resume": f"{_ANEW}.",
    "resume_mismatch": f"{_ANEW}.",
    "run_elsewhere": "Have the job's endpoint lead to the server that is named again, then `hyperctl cancel ID`.",
    # The server and the login
    "no_endpoint": (
        f"Name the server in the job's `vcenter` {_AGAIN}, store it with `hyperctl endpoints add NAME URL`, or set"
        " GOVC_URL for the daemon."
    ),
    "no_password": (
        f"Give `username` and `password` in the job's `vcenter` {_AGAIN}, or store the server with them by `hyperctl"
        " endpoints add NAME URL`; the daemon's own are GOVC_USERNAME and GOVC_PASSWORD in its environment."
    ),
    "certificate_unknown": (
        "Compare the print with the one shown in vCenter or on the host itself, then use `hyperctl endpoints add NAME"
        " URL --pin PRINT`, or GOVC_TLS_KNOWN_HOSTS or GOVC_TLS_CA_CERTS in the daemon's environment."
    ),
    "certificate_changed": (
        "Find out whether it was renewed; only then delete the endpoint with `hyperctl endpoints delete NAME`, and add"
        " it again with the new --pin."
    ),
    # The way, and what came over it
    "source_failed": f"Look at the task in vCenter; {_ON}.",
    "lease_lost": f"Look at the export task in vCenter; {_ON}.",
    "task_cancelled": f"{_ON}.",
    "server_busy": f"When the server has less to do, {_ON}.",
    "connection_reset": f"Check the network path and firewalls with idle time-outs; {_ON}.",
    "stream_stalled": f"Look at the load of the ESXi host and its datastore; {_ON}.",
    "short_body": f"{_ON}; if it repeats, look at the ESXi host's hostd log.",
    "transfer_interrupted": f"Check the network path; {_ON}.",
    "truncated_stream": f"{_ON}.",
    "corrupt_data": f"{_ON}; if it repeats, check the source datastore.",
    "corrupt_grain": f"{_ON}; if it repeats at the same offset, the source disk is damaged.",
    "manifest_mismatch": (
        f"Nothing was published. {_ON}; check the path to the ESXi host for a device that alters traffic."
    ),
    "content_differs": f"{_ANEW}; if it repeats, check the source datastore and the path to it.",
    "source_changed": f"{_ANEW}; what was copied belongs to another point in time.",
    "snapshot_gone": (
        "`hyperctl retry ID` begins it anew with a snapshot of its own; keep other programs from removing snapshots"
        " named hypersdk-*."
    ),
    "source_file_changed": f"Something writes to the disk: find it, then {_ANEW}; or {_LEASE}.",
    "not_restored": "Once vSphere answers again, run `hyperctl cancel ID`.",
    "cancelled": f"{_ON}, {_ANEW}.",
}
"""By code. Those of flags that a job cannot have (`--no-file-hash`) are missing."""
_BY_TEXT: Final = {
    ISO_STEP: (
        f"Set `options.remove_cdrom`, which ejects the image for the time of the export, {_AGAIN}; or eject it"
        " yourself, then `hyperctl retry ID`."
    )
}
"""Steps that belong to one case of a code."""
_WORDS: Final[Mapping[str, str]] = {"--remove-cdrom": "`options.remove_cdrom`"}
"""Flags in warnings, and the fields that are the same."""


def told_of_job(error: HyperSDKError) -> dict[str, Any]:
    """``error`` as ``as_dict`` has it, with the next steps of a job, those of several reasons too."""
    told = error.as_dict()
    told["next_step"] = next_step(error)
    if isinstance(reasons := told.get("reasons"), list):
        told["reasons"] = [{**reason, "next_step": _lines(reason["next_step"])} for reason in reasons]
    return told


def next_step(error: HyperSDKError) -> str:
    """What to do about an error of a job."""
    shown = error.fields.get("sha256")
    if error.code == CERTIFICATE_UNKNOWN and isinstance(shown, str):
        return NEXT_STEPS[CERTIFICATE_UNKNOWN].replace("PRINT", shown)
    return _lines(error.next_step)


def warning_of_job(text: str) -> str:
    """A warning of the plan, with fields of the job file for flags."""
    for flag, field in _WORDS.items():
        text = text.replace(flag, field)
    return text


def _lines(text: str) -> str:
    """By the text and not by the code: an error is raised again under another code with the step that it had. Of
    several reasons each has a line, with its code before it."""
    by_text = {CODES[code].next_step: step for code, step in NEXT_STEPS.items() if code in CODES} | _BY_TEXT
    found = []
    for line in text.splitlines():
        code, colon, rest = line.partition(": ")
        before = f"{code}{colon}" if code in CODES else ""
        found.append(before + by_text.get(rest if before else line, rest if before else line))
    return "\n".join(found)
