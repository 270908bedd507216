"""Job files of migrations and imports: where and how the machine is landed.

::

    LandingFields ── MigrationDefinition   with the fields of an export
                  └─ ImportDefinition      with a local source
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar

from pydantic import BeforeValidator, Field, IPvAnyAddress, StringConstraints, ValidationError

from hypersdk.errors import UsageError
from hypersdk.guest.arguments import is_key_device, is_root
from hypersdk.guest.request import ANY_DEVICE, ONLY_ROOT, Customization, DiskKey, StaticAddress
from hypersdk.kvm.address import LibvirtAddress
from hypersdk.kvm.prove import ProofOptions
from hypersdk.landing.conversions import ConversionOptions
from hypersdk.landing.options import ALL_OTHERS, MAX_NETWORKS, LandOptions, parse_memory, parse_network_target
from hypersdk.landing.request import LandingRequest
from hypersdk.migration.jobfile import (
    Flag,
    Id,
    JobPart,
    Line,
    MachineJob,
    Metadata,
    Number,
    fields_of,
    invalid_field,
    one_spelling,
    parse_as,
    problems_of,
    secret_text,
    tags_of,
    whole_folder,
)
from hypersdk.migration.local import is_package_name
from hypersdk.migration.spec import ExportSpec, OutputFormat
from hypersdk.model.guestplan import Acceleration, DiskBus, NicModel
from hypersdk.secret import Secret
from hypersdk.units import KiB

MAX_KEYS: Final = 64
MAX_SCRIPTS: Final = 16
MAX_SCRIPT: Final = 64 * KiB
MAX_PASSPHRASE: Final = 512
"""The limit of cryptsetup for a passphrase that is typed."""
Mac: TypeAlias = Annotated[str, StringConstraints(pattern=r"^([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}$")]
Script: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=MAX_SCRIPT, pattern=r"^[^\x00]*$")]


class KeyPart(JobPart):
    """The passphrase of encrypted disks. It is no part of the stored definition."""

    device: Line = ANY_DEVICE
    passphrase: Annotated[Secret, BeforeValidator(secret_text)] | None = Field(default=None, exclude=True)


class AddressPart(JobPart):
    """The address that a network card keeps, as ``192.0.2.10/24``."""

    address: Line
    gateway: IPvAnyAddress | None = None
    nameservers: Annotated[tuple[IPvAnyAddress, ...], Field(max_length=8)] = ()

    def of(self, mac: str) -> StaticAddress:
        """Raises ValueError."""
        own = ipaddress.ip_interface(self.address)
        if "/" not in self.address:
            raise ValueError("should be like 192.0.2.10/24")
        return StaticAddress(mac, own.ip, self.gateway, own.network.prefixlen, self.nameservers)


class LandingFields(JobPart):
    """``to`` is a stored endpoint of the kind libvirt, or an address of libvirt; None lands nothing. ``domain`` is the
    name of the landed machine."""

    to: Line | None = None
    networks: Annotated[dict[Line, Line], Field(max_length=MAX_NETWORKS)] = Field(default_factory=dict)
    pool: Line | None = None
    domain: Line | None = None
    convert: Flag = True
    root: Line = ONLY_ROOT
    keys: Annotated[tuple[KeyPart, ...], Field(max_length=MAX_KEYS)] = ()
    static_ip: Annotated[dict[Mac, AddressPart], Field(max_length=MAX_KEYS)] = Field(default_factory=dict)
    firstboot: Annotated[tuple[Script, ...], Field(max_length=MAX_SCRIPTS)] = ()
    prove: Flag = False
    prove_marker: Line | None = None
    prove_timeout: Annotated[Number, Field(ge=1, le=86_400)] | None = None
    start: Flag = False
    autostart: Flag = False
    disk_bus: DiskBus | None = None
    nic_model: NicModel | None = None
    acceleration: Acceleration = Acceleration.AUTO
    tpm: Flag = True
    secure_boot: Flag = True

    @property
    def passphrases(self) -> tuple[Secret, ...]:
        """Those that were given, in the order of ``keys``."""
        return tuple(key.passphrase for key in self.keys if key.passphrase is not None)

    def request(self, address: LibvirtAddress, passphrases: Sequence[Secret] = ()) -> LandingRequest:
        """What is done at ``address``, with the passphrases of ``keys``. Raises UsageError ``bad_network_map``."""
        return LandingRequest(
            address=address,
            options=self.options_at_target(),
            conversion=self.conversion(passphrases),
            proof=ProofOptions(marker=self.prove_marker, timeout_s=self.prove_timeout) if self.prove else None,
        )

    def options_at_target(self) -> LandOptions:
        """Raises UsageError ``bad_network_map``."""
        networks = {source: parse_network_target(target) for source, target in self.networks.items()}
        return LandOptions(
            name=self.domain,
            default_network=networks.pop(ALL_OTHERS, None),
            networks=networks,
            pool=self.pool,
            disk_bus=self.disk_bus,
            nic_model=self.nic_model,
            accelerated=self.acceleration.demanded,
            tpm=None if self.tpm else False,
            secure_boot=None if self.secure_boot else False,
            autostart=self.autostart,
            start=self.start,
        )

    def conversion(self, passphrases: Sequence[Secret] = ()) -> ConversionOptions | None:
        """The guest conversion; None where the guest is landed as it is."""
        if not self.convert:
            return None
        return ConversionOptions(
            keys=tuple(DiskKey(secret, key.device) for key, secret in zip(self.keys, passphrases, strict=False)),
            static_addresses=tuple(part.of(mac) for mac, part in self.static_ip.items()),
            customizations=tuple(Customization("firstboot", text, is_content=True) for text in self.firstboot),
            acceleration=self.acceleration,
            disk_bus=self.disk_bus,
            root=self.root,
        )

    def conflict(self) -> tuple[str, str] | None:
        """The field, and why it cannot be meant beside the others."""
        if not self.prove and (self.prove_marker or self.prove_timeout):
            return "prove", "is to be true where prove_marker or prove_timeout is given"
        root = "" if self.root == ONLY_ROOT else self.root
        given = {"keys": self.keys, "static_ip": self.static_ip, "firstboot": self.firstboot, "root": root}
        for name, value in given.items():
            if value and not self.convert:
                return name, "has no effect without a guest conversion; leave it out, or leave out `convert: false`"
        if not is_root(self.root):
            return "root", "should be 'first' or a device such as /dev/sda2"
        return self._wrong_key() or self._wrong_address()

    def _wrong_key(self) -> tuple[str, str] | None:
        for number, key in enumerate(self.keys):
            if not is_key_device(key.device):
                return f"keys.{number}.device", f"should be a device such as /dev/sda2, a UUID or '{ANY_DEVICE}'"
            text = key.passphrase.reveal() if key.passphrase is not None else ""
            if not text:
                return f"keys.{number}.passphrase", "missing"
            if "\n" in text or len(text.encode()) > MAX_PASSPHRASE:
                return f"keys.{number}.passphrase", f"should be one line of at most {MAX_PASSPHRASE} bytes"
        return None

    def _wrong_address(self) -> tuple[str, str] | None:
        for mac, part in self.static_ip.items():
            try:
                part.of(mac)
            except ValueError:
                return f"static_ip.{mac}.address", "should be like 192.0.2.10/24; no address may have a zone"
        return None


class MigrationDefinition(LandingFields, MachineJob):
    """One migration."""

    kind: Literal["migrate"] = Field(default="migrate", exclude=True)
    format: Annotated[OutputFormat, BeforeValidator(one_spelling)] = OutputFormat.QCOW2
    verify: Flag = False
    disconnect_source: Flag = False
    keep_source_running: Flag = False

    def to_spec(self) -> ExportSpec:
        """The export that comes before."""
        return replace(super().to_spec(), hold=self.is_fenced, disconnect=self.disconnect_source)

    def options_at_target(self) -> LandOptions:
        """See LandingFields."""
        return replace(super().options_at_target(), new_macs=self.keep_source_running)

    def conflict(self) -> tuple[str, str] | None:
        """See LandingFields."""
        if self.format is not OutputFormat.QCOW2:
            return "format", "a machine is landed from qcow2 images"
        if self.disconnect_source and not self.is_fenced:
            return "disconnect_source", "has no effect without start or autostart, or with keep_source_running"
        if self.keep_source_running and self.options.source in ("power-off", "shutdown"):
            return "keep_source_running", f"excludes the source '{self.options.source}'"
        return super().conflict()

    @property
    def is_fenced(self) -> bool:
        """Whether the source has to be off the network once the machine is landed."""
        return (self.start or self.autostart) and not self.keep_source_running


class ImportDefinition(LandingFields):
    """One import: ``source`` is the folder of an export, or a package or image, of which images are made in
    ``output_path`` first."""

    kind: Literal["import"] = Field(default="import", exclude=True)
    id: Id | None = None
    name: Line = ""
    source: Line
    output_path: Line = ""
    cpus: Annotated[Number, Field(ge=1, le=1024)] | None = None
    memory: Line | None = None
    source_off: Flag = False
    new_macs: Flag = False
    metadata: Metadata = Field(default_factory=dict)

    @property
    def is_package(self) -> bool:
        """Whether it is a file of which images are made: by its name, as a worker on another host may have it."""
        return is_package_name(self.source)

    @property
    def folder(self) -> str:
        """Where the images are landed from."""
        return self.output_path if self.is_package else self.source.rstrip("/")

    @property
    def title(self) -> str:
        """``name``, or the name of the source."""
        return self.name or Path(self.source).name

    @property
    def tags(self) -> dict[str, str]:
        """``metadata`` as the manifest has it."""
        return tags_of(self.metadata)

    def options_at_target(self) -> LandOptions:
        """See LandingFields."""
        memory = parse_memory(self.memory) if self.memory else None
        return replace(super().options_at_target(), cpus=self.cpus, memory_bytes=memory, new_macs=self.new_macs)

    def conflict(self) -> tuple[str, str] | None:
        """See LandingFields."""
        if self.is_package and not self.output_path:
            return "output_path", "missing: the folder for the images of the source"
        if not self.is_package and self.output_path.rstrip("/") not in ("", self.source.rstrip("/")):
            return "output_path", "is for a package; the images of an export stay in its folder"
        if not self.is_package and self.metadata:
            return "metadata", "is for a package; an export has its own"
        if self.source_off and self.new_macs:
            return "source_off", "excludes new_macs"
        try:
            parse_memory(self.memory or "1GiB")
        except UsageError:
            return "memory", "should be a size like 4GiB"
        return super().conflict()


def parse_migration(job: Mapping[str, Any], environ: Mapping[str, str]) -> MigrationDefinition:
    """The definition of one migration. Raises UsageError that names the field, and ``bad_network_map``."""
    definition = parse_as(MigrationDefinition, job, environ)
    for name in definition.options.switched_on():
        raise invalid_field(f"options.{name}", "is for a job without `kind`; a migration has fields of its own")
    return _checked(definition)


def parse_import(job: Mapping[str, Any], environ: Mapping[str, str]) -> ImportDefinition:
    """The definition of one import. Raises as ``parse_migration``."""
    try:
        definition = ImportDefinition.model_validate(fields_of(job))
    except ValidationError as error:
        raise problems_of(error, ImportDefinition) from None  # the original holds the values, passphrases among them
    paths = {"source": definition.source, "output_path": definition.output_path}
    whole = {name: whole_folder(text, environ, name) for name, text in paths.items() if text}
    return _checked(definition.model_copy(update=whole))


AnyLanding = TypeVar("AnyLanding", bound=LandingFields)


def _checked(definition: AnyLanding) -> AnyLanding:
    """Raises UsageError that names the field."""
    if definition.to is None:
        raise invalid_field("to", "missing")
    if conflict := definition.conflict():
        raise invalid_field(*conflict)
    definition.options_at_target()
    return definition
