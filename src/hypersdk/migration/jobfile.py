"""Job files: exports, defined by a file or a request. JSON or YAML; one job, ``{"jobs": [...]}`` or a bare list.

::

    text ──load_jobs──> JobEntry[]  each a JobDefinition (.to_spec(), .endpoint) or the error that names the field
                │
                └ raises UsageError job_unreadable: not a job file at all

Unknown fields are errors. A password is a Secret from the moment it is
read, and no error shows a value.
"""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    StringConstraints,
    ValidationError,
    model_validator,
)

from hypersdk.errors import HyperSDKError, UsageError, register
from hypersdk.migration.formats import FORMATS
from hypersdk.migration.spec import PARALLEL, Compression, ExportSpec, FileHash, Method, OutputFormat, SourceState
from hypersdk.migration.yamltext import BadYaml, read_yaml
from hypersdk.secret import Secret
from hypersdk.units import MiB
from hypersdk.vsphere.endpoint import Address, parse_address

MAX_TEXT: Final = 4 * MiB
"""Characters of one file: about 10,000 jobs."""
MAX_JOBS: Final = 10_000
_MAX_FIELDS_NAMED: Final = 100
"""Limit of the fields that an error names for programs."""

JOB_UNREADABLE = register(
    "job_unreadable",
    "The text is neither JSON nor YAML, or not a job, a list of jobs or {jobs: [...]}.",
    "Compare it with the example in docs/job-file.md; the message names the line.",
)
JOB_INVALID = register(
    "job_invalid",
    "A field of the job is missing or has an invalid value.",
    "Correct the field that the message names.",
)
JOB_UNKNOWN_FIELD = register(
    "job_unknown_field",
    "The job has a field that does not exist; no field is silently ignored.",
    "Correct its spelling or remove it; docs/job-file.md lists all fields.",
)
UNSUPPORTED_OPTION = register(
    "unsupported_option",
    "The job asks for more than an export, which is all that `hyper2kvm export` does.",
    "Submit the file to the daemon with `hyperctl submit`, which does these steps; or use `hyper2kvm migrate`.",
    "Or remove the option that the message names.",
)


# --- the definition --------------------------------------------------------------------------------------------------


def secret_text(value: object) -> Secret:
    """Wraps a password from the moment it is read. Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError("should be a text in quotes")
    if _HALF_CHARACTER.search(value):
        raise ValueError("has half a character: a surrogate without the other one")
    return Secret(value)


def one_spelling(value: object) -> object:
    """Words may be written in capitals."""
    return value.lower() if isinstance(value, str) else value


def _texts(value: object) -> object:
    """Converts device keys and numbers, which may be written without quotes."""
    if not isinstance(value, list):
        return value
    return [str(item) if isinstance(item, int) and not isinstance(item, bool) else item for item in value]


_HALF_CHARACTER: Final = re.compile(r"[\ud800-\udfff]")
"""JSON can have one; no encoding can. pydantic refuses it in other texts."""
Flag = Annotated[bool, Strict()]
Number = Annotated[int, Strict()]
Line = Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=r"^[^\x00-\x1f\x7f]*$")]
Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Tag = Annotated[str, StringConstraints(max_length=4096, pattern=r"^[^\x00]*$")]
Metadata = Annotated[dict[Line, Tag | Number | float | Flag], Field(max_length=256)]


DEFAULT_FORMAT: Final = OutputFormat.OVF


class JobPart(BaseModel):
    """Unknown fields are errors. ``null`` and ``""`` mean "not given": programs write all fields of a structure."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, arbitrary_types_allowed=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, data: object) -> object:
        if not isinstance(data, Mapping):
            return data
        return {key: value for key, value in data.items() if not (key in cls.model_fields and value in (None, ""))}


class VcenterPart(JobPart):
    """The endpoint of the job."""

    server: Line
    username: Line | None = None
    password: Annotated[Secret, BeforeValidator(secret_text)] | None = None
    insecure: Flag | None = None


class JobOptions(JobPart):
    """Options that job files use. ``enable_pipeline`` and ``libvirt_integration`` ask for steps after the export;
    the others in ``LATER`` say how (``landing.pipeline``). None for those that are not given."""

    LATER: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "enable_pipeline": (False,),
        "pipeline_inspect": (None, False),
        "pipeline_fix": (None, False),
        "pipeline_convert": (None, False),
        "pipeline_validate": (None, False),
        "pipeline_compress": (False,),
        "compress_level": (0, 6),
        "libvirt_integration": (False,),
        "libvirt_uri": ("qemu:///system",),
        "libvirt_autostart": (False,),
        "libvirt_bridge": ("virbr0",),
        "libvirt_pool": ("default",),
    }
    """Each with the values that ask for nothing: programs write all fields of a structure."""

    parallel_downloads: Annotated[Number, Field(ge=0, le=64)] = PARALLEL
    remove_cdrom: Flag = False
    show_individual_progress: Flag = True
    source: Line = "auto"
    file_hash: FileHash = FileHash.TREE
    exclude_disks: Annotated[tuple[Line, ...], BeforeValidator(_texts), Field(max_length=256)] = ()
    enable_pipeline: Flag = False
    pipeline_inspect: Flag | None = None
    pipeline_fix: Flag | None = None
    pipeline_convert: Flag | None = None
    pipeline_validate: Flag | None = None
    pipeline_compress: Flag = False
    compress_level: Annotated[Number, Field(ge=0, le=9)] = 0
    libvirt_integration: Flag = False
    libvirt_uri: Line = "qemu:///system"
    libvirt_autostart: Flag = False
    libvirt_bridge: Line = "virbr0"
    libvirt_pool: Line = "default"

    def switched_on(self) -> Iterator[str]:
        """Names of the options that ask for something after the export."""
        return (name for name, harmless in self.LATER.items() if getattr(self, name) not in harmless)


CompressWord = Literal["none", "checked", "unchecked", "repack"]
MethodWord = Literal["auto", "lease", "datastore", "ctl", "govc", "ovftool", "web"]


@dataclass(frozen=True, slots=True)
class EndpointOverrides:
    """The endpoint as the job defines it; ``None`` where environment and configuration decide."""

    url: str | None
    username: str | None
    password: Secret | None
    insecure: bool | None
    datacenter: str | None


class MachineJob(JobPart):
    """What is done with one machine begins with its export. ``output_dir`` and ``method`` are older names of
    ``output_path`` and ``export_method``."""

    id: Id | None = None
    name: Line = ""
    vm_path: Line
    output_path: Line = ""
    output_dir: Line = ""
    format: Annotated[OutputFormat, BeforeValidator(one_spelling)] = DEFAULT_FORMAT
    export_method: Annotated[MethodWord, BeforeValidator(one_spelling)] = "auto"
    method: Annotated[MethodWord, BeforeValidator(one_spelling)] = "auto"
    compress: Flag | CompressWord = False
    thin: Flag | None = None
    vcenter: VcenterPart | None = None
    vcenter_url: Line | None = None
    datacenter: Line | None = None
    insecure: Flag | None = None
    options: JobOptions = JobOptions()
    metadata: Metadata = Field(default_factory=dict)
    created_at: datetime | None = None

    @property
    def folder(self) -> str:
        """The output folder, from either name of the field."""
        return self.output_path or self.output_dir

    @property
    def title(self) -> str:
        """``name``, or the name of the machine: the last part of its path, where it is given by path. A plain name may
        contain a slash."""
        path = self.vm_path.rstrip("/")
        return self.name or (path.rpartition("/")[2] if path.startswith("/") else path)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Fields that were accepted and have no effect."""
        found: list[str] = []
        word = self._method_word
        if word not in ("auto", "lease", "datastore"):
            found.append(f"export_method '{word}' names another program; the method is chosen automatically")
        if self.thin is False:
            found.append("thin: false has no effect: holes stay holes in every format")
        if self.output_path and self.output_dir:
            found.append("output_dir and output_path are both given, with the same value")
        return tuple(found)

    @property
    def endpoint(self) -> EndpointOverrides:
        """The arguments for ``resolve_endpoint``. A user or password in the address is taken out of it; ``vcenter``
        takes precedence over the address."""
        part = self.vcenter
        text = part.server if part else self.vcenter_url
        address = Address() if text is None else parse_address(text)
        insecure = part.insecure if part and part.insecure is not None else self.insecure
        return EndpointOverrides(
            url=address.url if text is not None else None,
            username=part.username if part and part.username else address.username,
            password=part.password if part and part.password else address.password,
            insecure=insecure,
            datacenter=self.datacenter,
        )

    @property
    def _method_word(self) -> str:
        return self.export_method if self.export_method != "auto" else self.method

    def to_spec(self) -> ExportSpec:
        """The requested export. Raises UsageError ``job_invalid`` for values that ``load_jobs`` does not accept."""
        word = self._method_word
        state, snapshot = _source_state(self.options.source)
        return ExportSpec(
            machine=self.vm_path,
            output_dir=Path(self.folder),
            format=self.format,
            compress=_compression(self.compress),
            method=Method(word) if word in ("auto", "lease", "datastore") else Method.AUTO,
            state=state,
            snapshot=snapshot,
            remove_cdrom=self.options.remove_cdrom,
            file_hash=self.options.file_hash,
            show_disks=self.options.show_individual_progress,
            exclude_disks=self.options.exclude_disks,
            parallel=self.options.parallel_downloads or PARALLEL,
            job_id=self.id,
            job_name=self.title,
            metadata=tags_of(self.metadata),
        )

    def as_dict(self) -> dict[str, Any]:
        """The definition as JSON, with the given fields and without any secret."""
        data = self.model_dump(mode="json", exclude_unset=True, exclude={"vcenter", "vcenter_url"})
        if self.vcenter:
            data["vcenter"] = self.vcenter.model_dump(exclude_unset=True, exclude={"password"})
            data["vcenter"]["server"] = self.endpoint.url
        elif self.vcenter_url:
            data["vcenter_url"] = self.endpoint.url
        return data


class JobDefinition(MachineJob):
    """One export."""

    kind: Literal["export"] = Field(default="export", exclude=True)


AnyJob = TypeVar("AnyJob", bound=MachineJob)


# --- from text to definitions ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class JobEntry:
    """One job of a file, by its number from 1: ``definition`` or ``error`` is set, never both."""

    number: int
    definition: JobDefinition | None
    error: HyperSDKError | None


def load_jobs(text: str, *, content_type: str | None = None, environ: Mapping[str, str]) -> list[JobEntry]:
    """The exports in ``text``, in order. ``environ`` provides ``HOME`` for output folders that start with ``~/``.
    Raises as ``load_documents``; errors of a single job are in its entry."""
    documents = load_documents(text, content_type=content_type)
    return [_entry(number, document, environ) for number, document in enumerate(documents, start=1)]


def load_documents(text: str, *, content_type: str | None = None) -> list[object]:
    """The job documents in ``text``, in order. ``content_type`` (a MIME type) decides the syntax; without it JSON, then
    YAML is tried. Raises UsageError ``job_unreadable`` when there is no document."""
    if len(text) > MAX_TEXT:
        raise _unreadable(f"the job file has {len(text)} characters, more than {MAX_TEXT}")
    document = _parser_for(content_type)(text.removeprefix("\ufeff"))
    jobs = document
    if isinstance(document, dict):
        jobs = [document]
        if "jobs" in document:
            jobs = document["jobs"]
            if unknown := sorted(str(key) for key in document if key != "jobs"):
                raise UsageError(
                    f"unknown field '{unknown[0][:60]}' beside 'jobs'", code=JOB_UNKNOWN_FIELD, field=unknown[0][:60]
                )
    if not isinstance(jobs, list):
        raise _unreadable("the job file holds neither a job nor a list of jobs")
    if len(jobs) > MAX_JOBS:
        raise _unreadable(f"the job file holds {len(jobs)} jobs, more than {MAX_JOBS}")
    return jobs


def fields_of(document: object) -> Mapping[Any, Any]:
    """The fields of one job. Raises UsageError ``job_invalid``."""
    if not isinstance(document, Mapping):
        raise invalid_field("", "a job is a set of fields, not a single value")
    return document


def _entry(number: int, job: object, environ: Mapping[str, str]) -> JobEntry:
    try:
        return JobEntry(number, parse_definition(job, environ), None)
    except UsageError as error:
        return JobEntry(number, None, error)


def parse_definition(job: object, environ: Mapping[str, str]) -> JobDefinition:
    """The definition of one export and nothing more. Raises UsageError that names the field."""
    kind = fields_of(job).get("kind")
    if isinstance(kind, str) and kind not in ("", "export"):
        raise UsageError(f"a job of the kind {kind[:60]!a} is for the daemon", code=UNSUPPORTED_OPTION, field="kind")
    definition = parse_as(JobDefinition, job, environ)
    for name in definition.options.switched_on():
        raise UsageError(f"option '{name}' is for jobs of the daemon", code=UNSUPPORTED_OPTION, field=f"options.{name}")
    return definition


def parse_as(model: type[AnyJob], job: object, environ: Mapping[str, str]) -> AnyJob:
    """The definition of a job whose fields are those of ``model``. Raises UsageError that names the field."""
    try:
        definition = model.model_validate(fields_of(job))
    except ValidationError as error:
        raise problems_of(error, model) from None  # the original holds the values, passwords among them
    if not definition.folder:
        raise invalid_field("output_path", "missing")
    if definition.output_path and definition.output_dir and definition.output_path != definition.output_dir:
        raise invalid_field("output_dir", "differs from output_path; they are two names of one field")
    if definition.vcenter and definition.vcenter_url:
        raise invalid_field("vcenter_url", "given beside vcenter; name the endpoint once")
    if reason := FORMATS[definition.format].refusal(_compression(definition.compress)):
        raise invalid_field("compress", f"{reason}; choose qcow2, or leave it out")
    definition.to_spec()  # checks the values now, not when the job runs
    try:
        _ = definition.endpoint
    except UsageError as error:
        raise invalid_field("vcenter.server" if definition.vcenter else "vcenter_url", error.message) from None
    names = [name for name in ("output_path", "output_dir") if getattr(definition, name)]
    return definition.model_copy(update=dict.fromkeys(names, whole_folder(definition.folder, environ)))


def problems_of(error: ValidationError, model: type[JobPart]) -> UsageError:
    """All problems that pydantic found in a job with the fields of ``model``, in one message without values; the code
    is that of the first unknown field, if there is one."""
    details = error.errors(include_url=False, include_input=False, include_context=False)
    found = {".".join(_path(detail["loc"])): (detail["type"], detail["msg"]) for detail in reversed(details)}
    unknown = [place for place, (kind, _) in found.items() if kind == "extra_forbidden"]
    places = sorted(found)
    problems = [_problem(model, place, *found[place]) for place in places[:5]]  # looking for similar names is slow
    first = unknown[0] if unknown else places[0]
    return UsageError(
        "; ".join(problems) + (f"; and {len(places) - 5} more" if len(places) > 5 else ""),
        code=JOB_UNKNOWN_FIELD if unknown else JOB_INVALID,
        field=first,
        fields=places[:_MAX_FIELDS_NAMED],
    )


def _path(location: tuple[int | str, ...]) -> list[str]:
    """The path of the field, without the name of the union's branch that pydantic appends."""
    names = [str(part)[:60] for part in location]
    if names[0] in ("compress", "metadata"):
        return names[: 1 if names[0] == "compress" else 2]
    return names


def _problem(model: type[JobPart], place: str, kind: str, text: str) -> str:
    if kind == "extra_forbidden":
        near = _nearest(model, place)
        return f"unknown field '{place}'" + (f" (did you mean '{near}'?)" if near else "")
    if kind == "missing":
        return f"{place}: missing"
    if place == "compress":
        return "compress: should be true, false, none, checked, unchecked or repack"
    if place.startswith("metadata."):
        return f"{place}: should be a text, a number, true or false"
    if kind in _SHAPES:
        return f"{place}: {_SHAPES[kind]}"
    text = text.removeprefix("Value error, ")
    hint = "; put it in quotes" if kind == "string_type" else ""
    return f"{place}: {text[0].lower()}{text[1:]}{hint}"


_SHAPES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("model_type", "dict_type"), "should be a set of fields"),
    **dict.fromkeys(("tuple_type", "list_type"), "should be a list"),
}
_PARTS: Final[Mapping[str, type[JobPart]]] = {"vcenter": VcenterPart, "options": JobOptions}


@functools.lru_cache(maxsize=1024)
def _nearest(model: type[JobPart], place: str) -> str | None:
    """The path of the most similar field. Cached, as thousands of jobs from one program have the same wrong fields."""
    part, _, name = place.rpartition(".")
    if part and part not in _PARTS:
        return None
    parts = [(part, fields) for part, fields in _PARTS.items() if part in model.model_fields]
    places = {name: f"{part}.{name}" for part, fields in parts for name in fields.model_fields}
    places |= {name: name for name in model.model_fields}
    return next((places[near] for near in difflib.get_close_matches(name, places, n=1)), None)


def invalid_field(field: str, why: str) -> UsageError:
    """The error ``job_invalid`` of one field; of the whole job without one."""
    return UsageError(f"{field}: {why}" if field else why, code=JOB_INVALID, field=field)


# --- values ----------------------------------------------------------------------------------------------------------


def _source_state(text: str) -> tuple[SourceState, str | None]:
    """``auto``, ``power-off``, ``shutdown`` or ``snapshot:NAME``."""
    word, colon, name = text.partition(":")
    if word == "snapshot":
        if not name.strip():
            raise invalid_field("options.source", "'snapshot:' must be followed by the name of a snapshot")
        return SourceState.SNAPSHOT, name.strip()
    if colon or word not in ("auto", "power-off", "shutdown"):
        raise invalid_field("options.source", "should be auto, power-off, shutdown or snapshot:NAME")
    return SourceState(word), None


def _compression(value: bool | str) -> Compression:
    if isinstance(value, bool):
        return Compression.CHECKED if value else Compression.NONE
    return Compression(value)


def whole_folder(text: str, environ: Mapping[str, str], field: str = "output_path") -> str:
    """The path with the home directory instead of ``~``. Raises UsageError ``job_invalid``."""
    if text != "~" and not text.startswith("~/"):
        return text
    home = environ.get("HOME")
    if not home:
        raise invalid_field(field, "'~' cannot be resolved here; give the whole path")
    return str(Path(home, text[2:]))


def tags_of(metadata: Mapping[str, object]) -> dict[str, str]:
    """``metadata`` as the manifest has it."""
    return {key: json.dumps(value) if isinstance(value, bool) else str(value) for key, value in metadata.items()}


# --- untrusted JSON and YAML -----------------------------------------------------------------------------------------

_YAML_TYPES: Final = ("application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml", "text/vnd.yaml")


def _parser_for(content_type: str | None) -> Callable[[str], object]:
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind == "application/json" or kind.endswith("+json"):
        return _from_json
    if kind in _YAML_TYPES or kind.endswith("+yaml"):
        return _from_yaml
    return _from_either


def _from_either(text: str) -> object:
    """Tries JSON, then YAML. JSON is nearly YAML, but its errors are clearer, so they are reported for a text that
    starts like JSON."""
    if not text.lstrip().startswith(("{", "[")):
        return _from_yaml(text)
    try:
        return _from_json(text)
    except UsageError as error:
        try:
            return _from_yaml(text)
        except UsageError:
            raise error from None


def _from_json(text: str) -> object:
    try:
        return json.loads(text, object_pairs_hook=_unique_fields, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise _unreadable(f"not JSON: {error.msg} in line {error.lineno}, column {error.colno}") from None
    except ValueError:  # CPython's limit on the conversion of digits
        raise _unreadable("a number in the JSON has thousands of digits") from None
    except RecursionError:
        raise _unreadable("the JSON is nested too deeply") from None


def _unique_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _unreadable(f"the field '{name[:60]}' is given twice")
            seen.add(name)
    return fields


def _refuse_constant(name: str) -> None:
    raise _unreadable(f"{name} is not a value in JSON")


def _from_yaml(text: str) -> object:
    try:
        return read_yaml(text)
    except BadYaml as error:
        raise _unreadable(str(error)) from None


def _unreadable(message: str) -> UsageError:
    return UsageError(message, code=JOB_UNREADABLE)
