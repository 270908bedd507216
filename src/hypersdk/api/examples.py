"""Examples of the OpenAPI document; tests submit them unchanged."""

from __future__ import annotations

from typing import Any, Final

from hypersdk.model.guestplan import DiskBus, NicModel

JOB_FILE: Final[dict[str, Any]] = {
    "name": "example-vm-export",
    "vm_path": "/data/vm/win2019-x86_64 - Clone",
    "output_path": "/tmp/export-test-vm",  # noqa: S108 - a default export root
    "options": {"parallel_downloads": 4, "remove_cdrom": True, "show_individual_progress": False},
}
JOB_FILE_YAML: Final = """\
name: "example-vm-export"
vm_path: "/data/vm/win2019-x86_64 - Clone"
output_path: "/tmp/export-test-vm"
options:
  parallel_downloads: 4
  remove_cdrom: true
  show_individual_progress: false
"""
MIGRATION: Final[dict[str, Any]] = {
    "kind": "migrate",
    "vm_path": "/data/vm/win2019-x86_64 - Clone",
    "output_path": "/tmp/win2019",  # noqa: S108 - a default export root
    "to": "kvm1",
    "networks": {"VM Network": "br0", "*": "network:default"},
    "static_ip": {"00:50:56:01:02:03": {"address": "192.0.2.10/24", "gateway": "192.0.2.1"}},
    "prove": True,
    "start": True,
    "options": {"source": "shutdown"},
}
IMPORT: Final[dict[str, Any]] = {
    "kind": "import",
    "source": "/tmp/web01.ova",  # noqa: S108
    "output_path": "/tmp/web01",  # noqa: S108
    "to": "kvm1",
    "networks": {"*": "network:default"},
    "prove": True,
    "start": True,
    "new_macs": True,
}
_ONE: Final[dict[str, Any]] = {
    "anyOf": [
        {"$ref": "#/components/schemas/JobDefinition"},
        {"$ref": "#/components/schemas/MigrationDefinition"},
        {"$ref": "#/components/schemas/ImportDefinition"},
    ]
}
_SCHEMA: Final[dict[str, Any]] = {
    "description": "One job, `{jobs: [...]}` or a list of jobs; docs/job-file.md lists the fields of a job.",
    "anyOf": [
        _ONE,
        {
            "type": "object",
            "required": ["jobs"],
            "additionalProperties": False,
            "properties": {"jobs": {"type": "array", "maxItems": 10000, "items": _ONE}},
        },
        {"type": "array", "maxItems": 10000, "items": _ONE},
    ],
}
JOB_FILE_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": _SCHEMA,
                "examples": {
                    "one": {"summary": "One job", "value": JOB_FILE},
                    "batch": {
                        "summary": "Several",
                        "value": {"jobs": [JOB_FILE, {**JOB_FILE, "name": "second", "format": "qcow2"}]},
                    },
                    "migration": {"summary": "A migration onto KVM", "value": MIGRATION},
                    "import": {"summary": "An import of a package", "value": IMPORT},
                },
            },
            "application/yaml": {
                "schema": {"type": "string", "description": "The same as YAML."},
                "examples": {"one": {"summary": "One job", "value": JOB_FILE_YAML}},
            },
        },
    }
}
JOB_DEFINITION: Final[dict[str, Any]] = {
    "title": "JobDefinition",
    "type": "object",
    "description": (
        "One export. `output_dir` and `method` are older names of `output_path` and `export_method`. Unknown fields are"
        " errors."
    ),
    "required": ["vm_path"],
    "additionalProperties": False,
    "properties": {
        "kind": {"const": "export"},
        "id": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"},
        "name": {"type": "string", "maxLength": 4096},
        "vm_path": {"type": "string", "minLength": 1, "maxLength": 4096},
        "output_path": {"type": "string", "maxLength": 4096},
        "output_dir": {"type": "string", "maxLength": 4096},
        "format": {"type": "string", "enum": ["ovf", "ova", "qcow2", "raw", "vmdk"], "default": "ovf"},
        "export_method": {
            "type": "string",
            "enum": ["", "auto", "lease", "datastore", "ctl", "govc", "ovftool", "web"],
        },
        "method": {"type": "string", "enum": ["", "auto", "lease", "datastore", "ctl", "govc", "ovftool", "web"]},
        "compress": {
            "anyOf": [{"type": "boolean"}, {"type": "string", "enum": ["none", "checked", "unchecked", "repack"]}]
        },
        "thin": {"type": "boolean"},
        "vcenter": {
            "type": "object",
            "required": ["server"],
            "additionalProperties": False,
            "properties": {
                "server": {"type": "string", "minLength": 1},
                "username": {"type": "string"},
                "password": {"type": "string", "format": "password", "writeOnly": True},
                "insecure": {"type": "boolean"},
            },
        },
        "vcenter_url": {"type": "string"},
        "datacenter": {"type": "string"},
        "insecure": {"type": "boolean"},
        "options": {"type": "object", "description": "Options; see docs/job-file.md."},
        "metadata": {"type": "object", "maxProperties": 256},
        "created_at": {"type": "string", "format": "date-time"},
    },
}
_LINE: Final[dict[str, Any]] = {"type": "string", "minLength": 1, "maxLength": 4096}
_OFF: Final[dict[str, Any]] = {"type": "boolean", "default": False}
_ON: Final[dict[str, Any]] = {"type": "boolean", "default": True}
_KEY: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["passphrase"],
    "additionalProperties": False,
    "properties": {
        "device": {**_LINE, "default": "all"},
        "passphrase": {"type": "string", "minLength": 1, "format": "password", "writeOnly": True},
    },
}
_ADDRESS: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["address"],
    "additionalProperties": False,
    "properties": {
        "address": {**_LINE, "examples": ["192.0.2.10/24"]},
        "gateway": {"type": "string"},
        "nameservers": {"type": "array", "maxItems": 8, "items": {"type": "string"}},
    },
}
_LANDING_FIELDS: Final[dict[str, Any]] = {
    "to": _LINE,
    "networks": {"type": "object", "maxProperties": 1000, "additionalProperties": {"type": "string"}},
    "pool": {"type": "string"},
    "domain": {"type": "string"},
    "convert": _ON,
    "root": {"type": "string"},
    "keys": {"type": "array", "maxItems": 64, "items": _KEY},
    "static_ip": {"type": "object", "maxProperties": 64, "additionalProperties": _ADDRESS},
    "firstboot": {
        "type": "array",
        "maxItems": 16,
        "items": {"type": "string", "minLength": 1, "maxLength": 65_536},
    },
    "prove": _OFF,
    "prove_marker": {"type": "string"},
    "prove_timeout": {"type": "integer", "minimum": 1, "maximum": 86_400},
    "start": _OFF,
    "autostart": _OFF,
    "disk_bus": {"type": "string", "enum": [bus.value for bus in DiskBus]},
    "nic_model": {"type": "string", "enum": [model.value for model in NicModel]},
    "acceleration": {"type": "string", "enum": ["auto", "kvm", "tcg"]},
    "tpm": _ON,
    "secure_boot": _ON,
}
MIGRATION_DEFINITION: Final[dict[str, Any]] = {
    **JOB_DEFINITION,
    "title": "MigrationDefinition",
    "description": "One migration onto KVM: the fields of an export, and those of the landed machine.",
    "required": ["kind", "vm_path", "to"],
    "properties": {
        **JOB_DEFINITION["properties"],
        **_LANDING_FIELDS,
        "kind": {"const": "migrate"},
        "format": {"const": "qcow2"},
        "verify": _OFF,
        "disconnect_source": _OFF,
        "keep_source_running": _OFF,
    },
}
IMPORT_DEFINITION: Final[dict[str, Any]] = {
    "title": "ImportDefinition",
    "type": "object",
    "description": "A local export, package or image that is landed on KVM.",
    "required": ["kind", "source", "to"],
    "additionalProperties": False,
    "properties": {
        **_LANDING_FIELDS,
        "kind": {"const": "import"},
        "id": JOB_DEFINITION["properties"]["id"],
        "name": JOB_DEFINITION["properties"]["name"],
        "source": _LINE,
        "output_path": {"type": "string", "maxLength": 4096},
        "cpus": {"type": "integer", "minimum": 1, "maximum": 1024},
        "memory": {**_LINE, "examples": ["4GiB"]},
        "source_off": _OFF,
        "new_macs": _OFF,
        "metadata": JOB_DEFINITION["properties"]["metadata"],
    },
}
