"""`hyper2kvm man`, and what its pages say beside the commands."""

from __future__ import annotations

from typing import Final

from hypersdk.cli.app import PROGRAM, root
from hypersdk.cli.programs.pages import Manual, man_command

EXIT_STATUS: Final = (
    ("0", "All was done."),
    ("1", "A bug in the program; a crash file tells more."),
    ("2", "Flag, job file or configuration cannot be used."),
    ("3", "vCenter or ESXi cannot be reached or trusted."),
    ("4", "Login refused, or a privilege is missing."),
    ("5", "No such machine, or more than one."),
    ("6", "Refused before anything was changed, with the reason."),
    ("7", "vSphere or its data stream failed."),
    ("8", "Bytes are not what they must be."),
    ("9", "The output could not be written."),
    ("10", "Some of several machines failed."),
    ("11", "The source could not be put back as it was found."),
    ("130, 143", "Interrupted (Ctrl-C), terminated (SIGTERM)."),
    ("141", "The reader of standard output went away."),
)
ENVIRONMENT: Final = (
    (
        "GOVC_URL, GOVC_USERNAME, GOVC_PASSWORD, GOVC_INSECURE, GOVC_DATACENTER",
        "Where vSphere is and who asks, as for govc.",
    ),
    ("GOVC_TLS_CA_CERTS, GOVC_TLS_KNOWN_HOSTS", "Whom to trust."),
    ("HTTPS_PROXY, NO_PROXY", "Proxy for API and data."),
    ("XDG_CONFIG_HOME, XDG_STATE_HOME, STATE_DIRECTORY", "Folders of the configuration and of unfinished exports."),
    ("NO_COLOR", "No colours."),
)
FILES: Final = (
    ("~/.config/hypersdk/config.toml", "Configuration: tables [connection] and [export]."),
    ("~/.config/hypersdk/known_hosts", "Certificates that the user trusts."),
    ("~/.local/state/hypersdk/runs", "Where unfinished exports lie."),
)
MANUAL: Final = Manual(
    PROGRAM, root, section=1, environment=ENVIRONMENT, files=FILES, exit_status=EXIT_STATUS, see_also=()
)
command = man_command(MANUAL)
