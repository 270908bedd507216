"""``hyper2kvm man`` and ``hyper2kvm completion``, and the parts of the manual pages that no command has."""

from __future__ import annotations

from typing import Final

from hypersdk.cli.app import program
from hypersdk.cli.programs.completion import completion_command
from hypersdk.cli.programs.pages import SCREEN_ENVIRONMENT, Manual, man_command

EXIT_STATUS: Final = (
    ("0", "Success."),
    ("1", "Internal error (a bug); see the crash file."),
    ("2", "Invalid flag, job file or configuration."),
    ("3", "vCenter or ESXi cannot be reached or trusted."),
    ("4", "Login refused, or a privilege is missing."),
    ("5", "No such machine, or more than one."),
    ("6", "Refused before anything was changed; the message has the reason."),
    ("7", "vSphere or its data stream failed."),
    ("8", "Data failed an integrity check."),
    ("9", "The output could not be written."),
    ("10", "Some of several machines failed."),
    ("11", "The source could not be restored."),
    ("14", "Standard output is full or closed; an export has gone on to its end."),
    ("130, 143", "Interrupted (Ctrl-C), terminated (SIGTERM)."),
    ("141", "The reader of standard output closed it."),
)
ENVIRONMENT: Final = (
    (
        "GOVC_URL, GOVC_USERNAME, GOVC_PASSWORD, GOVC_INSECURE, GOVC_DATACENTER",
        "Address and login of vSphere, as for govc.",
    ),
    ("GOVC_TLS_CA_CERTS, GOVC_TLS_KNOWN_HOSTS", "Trusted authorities and certificates."),
    ("HTTPS_PROXY, NO_PROXY", "Proxy for API and data."),
    ("XDG_CONFIG_HOME, XDG_STATE_HOME, STATE_DIRECTORY", "Folders of the configuration and of unfinished exports."),
    *SCREEN_ENVIRONMENT,
)
FILES: Final = (
    ("~/.config/hypersdk/config.toml", "Configuration: tables [connection] and [export]."),
    ("~/.config/hypersdk/known_hosts", "Certificates that the user trusts."),
    ("~/.local/state/hypersdk/runs", "Records of unfinished exports."),
)
MANUAL: Final = Manual(
    program.name, program.root, section=1, environment=ENVIRONMENT, files=FILES, exit_status=EXIT_STATUS, see_also=()
)
man = man_command(MANUAL)
completion = completion_command(program)
