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
_ONE: Final[dict[str, Any]] = {
    "anyOf": [
        {"$ref": "#/components/schemas/JobDefinition"},
        {"$ref": "#/components/schemas/MigrationDefinition"},
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
        "options": {"type": "object", "description": "Options of the export; see docs/job-file.md."},
        "metadata": {"type": "object", "maxProperties": 256},
        "created_at": {"type": "string", "format": "date-time"},
    },
}
_MIGRATION_FIELDS: Final[dict[str, Any]] = {
    "kind": {"const": "migrate"},
    "format": {"const": "qcow2"},
    "to": {"type": "string", "minLength": 1, "maxLength": 4096},
    "networks": {"type": "object", "maxProperties": 1000, "additionalProperties": {"type": "string"}},
    "pool": {"type": "string"},
    "domain": {"type": "string"},
    "convert": {"type": "boolean", "default": True},
    "prove": {"type": "boolean", "default": False},
    "prove_marker": {"type": "string"},
    "prove_timeout": {"type": "integer", "minimum": 1, "maximum": 86_400},
    "start": {"type": "boolean", "default": False},
    "autostart": {"type": "boolean", "default": False},
    "disconnect_source": {"type": "boolean", "default": False},
    "keep_source_running": {"type": "boolean", "default": False},
    "disk_bus": {"type": "string", "enum": [bus.value for bus in DiskBus]},
    "nic_model": {"type": "string", "enum": [model.value for model in NicModel]},
    "acceleration": {"type": "string", "enum": ["auto", "kvm", "tcg"]},
}
MIGRATION_DEFINITION: Final[dict[str, Any]] = {
    **JOB_DEFINITION,
    "title": "MigrationDefinition",
    "description": "One migration onto KVM: the fields of an export, and those of the landed machine.",
    "required": ["kind", "vm_path", "to"],
    "properties": {**JOB_DEFINITION["properties"], **_MIGRATION_FIELDS},
}
