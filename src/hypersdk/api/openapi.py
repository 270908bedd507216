"""The OpenAPI document: FastAPI's, with our errors, security, and the schema of job files."""

from __future__ import annotations

import json
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from hypersdk.api.examples import IMPORT_DEFINITION, JOB_DEFINITION, MIGRATION_DEFINITION
from hypersdk.api.problems import is_legacy
from hypersdk.api.responses import ALWAYS, PROBLEM_TYPE, TEXTS
from hypersdk.api.security import COOKIE, CSRF_HEADER, OPEN

DESCRIPTION: Final = """\
Durable exports of virtual machines from vSphere.

Native routes are under `/api/v1`; their errors are problem documents (RFC 9457) with a stable `code`. Six legacy
routes at the root do not change; their errors are `{error, code, timestamp}`. Times are RFC 3339 in UTC. Every write
accepts an `Idempotency-Key`: the same key with the same request gets the first response again for 22 hours.
"""
TAGS: Final = (
    ("jobs", "Exports: submit, follow, control, results."),
    ("events", "One stream of changes."),
    ("endpoints", "vCenters, ESXi hosts and hypervisors."),
    ("workers", "The processes that copy."),
    ("statistics", "Statistics of the daemon, now and over time."),
    ("auth", "Login, users, tokens, audit trail."),
    ("meta", "Readiness and metrics."),
    ("legacy", "Six legacy routes, which do not change."),
)
_PROBLEM: Final = {"$ref": "#/components/schemas/Problem"}
IDEMPOTENCY: Final = {
    "name": "Idempotency-Key", "in": "header", "required": False,
    "description": "The same key with the same request gets the first answer again for 22 hours, also after a restart",
    "schema": {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[A-Za-z0-9._-]+$"},
}  # fmt: skip


def document(app: FastAPI) -> dict[str, Any]:
    """The document, made once per application. Must not be changed."""
    if app.openapi_schema is None:
        app.openapi_schema = _describe(app)
    return app.openapi_schema


def _describe(app: FastAPI) -> dict[str, Any]:
    made = get_openapi(
        title=app.title,
        version=app.version,
        description=DESCRIPTION,
        routes=app.routes,
        tags=[{"name": name, "description": text} for name, text in TAGS],
    )
    parts = made.setdefault("components", {})
    parts.setdefault("schemas", {})["JobDefinition"] = JOB_DEFINITION
    parts["schemas"]["MigrationDefinition"] = MIGRATION_DEFINITION
    parts["schemas"]["ImportDefinition"] = IMPORT_DEFINITION
    parts["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer", "description": "An API token"},
        "session": {
            "type": "apiKey",
            "in": "cookie",
            "name": COOKIE,
            "description": f"A login; writes also send {CSRF_HEADER}",
        },
    }
    for path, methods in made["paths"].items():
        for method, operation in methods.items():
            _complete(path, method, operation)
    for unused in ("HTTPValidationError", "ValidationError"):
        if f'"#/components/schemas/{unused}"' not in json.dumps(made["paths"]):
            parts["schemas"].pop(unused, None)
    return made


def _complete(path: str, method: str, operation: dict[str, Any]) -> None:
    """A short id, security, the idempotency header of writes, and the media type of errors."""
    operation["operationId"] = operation["operationId"].partition("_api_v1_")[0]
    operation["security"] = [] if (method.upper(), path) in OPEN else [{"token": []}, {"session": []}]
    if method in ("post", "put", "patch", "delete"):
        operation.setdefault("parameters", []).append(IDEMPOTENCY)
    if is_legacy(path):
        return
    answers = operation.setdefault("responses", {})
    for status in ALWAYS:
        if operation["security"] or status not in (401, 403):
            answers.setdefault(str(status), {"description": TEXTS[status]})
    for status, answer in answers.items():
        if status.isdigit() and int(status) >= 400 and _is_problem(answer):
            answer["content"] = {PROBLEM_TYPE: {"schema": _PROBLEM}}


def _is_problem(answer: dict[str, Any]) -> bool:
    content = answer.get("content", {})
    schemas = [media.get("schema", {}).get("$ref", "") for media in content.values()]
    return any(ref.endswith(("/Problem", "/HTTPValidationError")) for ref in schemas) or not content
