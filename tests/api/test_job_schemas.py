"""The schemas of job files in the API's description are those of the models that read them."""

from __future__ import annotations

from typing import Any

import pytest

from hypersdk.api.examples import (
    IMPORT,
    IMPORT_DEFINITION,
    JOB_DEFINITION,
    JOB_FILE,
    MIGRATION,
    MIGRATION_DEFINITION,
)
from hypersdk.landing.jobfile import (
    MAX_KEYS,
    MAX_SCRIPT,
    MAX_SCRIPTS,
    AddressPart,
    ImportDefinition,
    KeyPart,
    MigrationDefinition,
    parse_import,
    parse_migration,
)
from hypersdk.migration.jobfile import JobDefinition, JobPart, VcenterPart, parse_definition

LANDING = IMPORT_DEFINITION["properties"]


@pytest.mark.parametrize(
    ("schema", "model"),
    [
        (JOB_DEFINITION, JobDefinition),
        (JOB_DEFINITION["properties"]["vcenter"], VcenterPart),
        (MIGRATION_DEFINITION, MigrationDefinition),
        (IMPORT_DEFINITION, ImportDefinition),
        (LANDING["keys"]["items"], KeyPart),
        (LANDING["static_ip"]["additionalProperties"], AddressPart),
    ],
)
def test_a_schema_has_the_fields_of_its_model(schema: dict[str, Any], model: type[JobPart]) -> None:
    assert set(schema["properties"]) == set(model.model_fields)
    assert schema["additionalProperties"] is False
    needed = {name for name, field in model.model_fields.items() if field.is_required()}
    assert needed <= set(schema["required"])
    for name, field in schema["properties"].items():
        if "default" in field:
            assert model.model_fields[name].default == field["default"], name


def test_limits_are_those_of_the_model() -> None:
    scripts = LANDING["firstboot"]
    assert (LANDING["keys"]["maxItems"], LANDING["static_ip"]["maxProperties"]) == (MAX_KEYS, MAX_KEYS)
    assert (scripts["maxItems"], scripts["items"]["maxLength"]) == (MAX_SCRIPTS, MAX_SCRIPT)


def test_the_examples_are_accepted() -> None:
    assert parse_definition(JOB_FILE, {}).vm_path == JOB_FILE["vm_path"]
    assert parse_migration(MIGRATION, {}).to == "kvm1"
    assert parse_import(IMPORT, {}).is_package
