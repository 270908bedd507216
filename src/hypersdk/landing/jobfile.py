"""Job files of migrations: the fields of an export, and where and how the machine is landed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from hypersdk.kvm.address import LibvirtAddress
from hypersdk.kvm.prove import ProofOptions
from hypersdk.landing.conversions import ConversionOptions
from hypersdk.landing.options import ALL_OTHERS, MAX_NETWORKS, LandOptions, parse_network_target
from hypersdk.landing.request import LandingRequest
from hypersdk.migration.jobfile import Flag, Line, MachineJob, Number, invalid_field, one_spelling, parse_as
from hypersdk.migration.spec import ExportSpec, OutputFormat
from hypersdk.model.guestplan import Acceleration, DiskBus, NicModel


class MigrationDefinition(MachineJob):
    """One migration. ``to`` is a stored endpoint of the kind libvirt, or an address of libvirt; ``domain`` the name of
    the landed machine."""

    kind: Literal["migrate"] = Field(default="migrate", exclude=True)
    format: Annotated[OutputFormat, BeforeValidator(one_spelling)] = OutputFormat.QCOW2
    to: Line
    networks: Annotated[dict[Line, Line], Field(max_length=MAX_NETWORKS)] = Field(default_factory=dict)
    pool: Line | None = None
    domain: Line | None = None
    convert: Flag = True
    prove: Flag = False
    prove_marker: Line | None = None
    prove_timeout: Annotated[Number, Field(ge=1, le=86_400)] | None = None
    start: Flag = False
    autostart: Flag = False
    disconnect_source: Flag = False
    keep_source_running: Flag = False
    disk_bus: DiskBus | None = None
    nic_model: NicModel | None = None
    acceleration: Acceleration = Acceleration.AUTO

    def to_spec(self) -> ExportSpec:
        """The export that comes before."""
        return replace(super().to_spec(), hold=self.is_fenced, disconnect=self.disconnect_source)

    def request(self, address: LibvirtAddress) -> LandingRequest:
        """What is done at ``address``. Raises UsageError ``bad_network_map``."""
        return LandingRequest(
            address=address, options=self.options_at_target(), conversion=self._conversion, proof=self._proof
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
            new_macs=self.keep_source_running,
            accelerated=self.acceleration.demanded,
            autostart=self.autostart,
            start=self.start,
        )

    def conflict(self) -> tuple[str, str] | None:
        """The field, and why it cannot be meant beside the others."""
        if self.format is not OutputFormat.QCOW2:
            return "format", "a machine is landed from qcow2 images"
        if not self.prove and (self.prove_marker or self.prove_timeout):
            return "prove", "is to be true where prove_marker or prove_timeout is given"
        if self.disconnect_source and not self.is_fenced:
            return "disconnect_source", "has no effect without start or autostart, or with keep_source_running"
        if self.keep_source_running and self.options.source in ("power-off", "shutdown"):
            return "keep_source_running", f"excludes the source '{self.options.source}'"
        return None

    @property
    def is_fenced(self) -> bool:
        """Whether the source has to be off the network once the machine is landed."""
        return (self.start or self.autostart) and not self.keep_source_running

    @property
    def _conversion(self) -> ConversionOptions | None:
        return ConversionOptions(acceleration=self.acceleration, disk_bus=self.disk_bus) if self.convert else None

    @property
    def _proof(self) -> ProofOptions | None:
        return ProofOptions(marker=self.prove_marker, timeout_s=self.prove_timeout) if self.prove else None


def parse_migration(job: Mapping[str, Any], environ: Mapping[str, str]) -> MigrationDefinition:
    """The definition of one migration. Raises UsageError that names the field, and ``bad_network_map``."""
    definition = parse_as(MigrationDefinition, job, environ)
    if conflict := definition.conflict():
        raise invalid_field(*conflict)
    definition.options_at_target()
    return definition
