"""Copies the disks of a machine, and compares them with the server's manifest.

::

    lease      streams of one lease; the server's manifest is the proof
    datastore  /folder ranges of flat files that do not change; there is no manifest, and the result says so
    auto       lease; datastore where the server does not export by lease (its licence, its version, a virtual TPM), or
               where a resume reads less that way
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from hypersdk.errors import HyperSDKError, IntegrityError, Refused, SourceError, register
from hypersdk.formats.ovf import OvfDisk
from hypersdk.migration.disks import DiskSet
from hypersdk.migration.machineprogress import MachineProgress
from hypersdk.migration.point import SNAPSHOT_GONE, SOURCE_CHANGED, PointInTime, check_snapshot_there, point_of
from hypersdk.migration.prepare import SourceWork
from hypersdk.migration.proof import PROVED, with_checks
from hypersdk.migration.resumption import ResumeCost
from hypersdk.migration.runfile import DiskRecord
from hypersdk.migration.spec import Method
from hypersdk.migration.takeover import damage_of
from hypersdk.model import Phase
from hypersdk.remedies import ExcludeDisk, First, Resume, Retry, SetOption
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.source import DiskSource, RangeSource, StreamDigests
from hypersdk.vsphere.faults import LICENSE_REFUSES_EXPORT, NOT_SUPPORTED, VSPHERE_FAULT
from hypersdk.vsphere.lease import LeasedExport, Verdict
from hypersdk.vsphere.machine import read_machine
from hypersdk.vsphere.nfc import server_descriptor
from hypersdk.vsphere.routes import VIA
from hypersdk.vsphere.sources import FlatDiskSource, LeaseDiskSource, probe_flat

LOG: Final = logging.getLogger(__name__)

NO_RANGES: Final = register(
    "no_ranges",
    "The datastore does not serve ranges of the disk.",
    SetOption("export_method", "lease"),
    SetOption("export_method", "auto"),
)
DISK_NOT_SERVED: Final = register(
    "disk_not_served",
    "The export lease does not offer one of the machine's disks.",
    First("check the disk in vCenter"),
    Retry(),
    ExcludeDisk(),
)
FINISHED_DAMAGED: Final = register(
    "finished_disk_damaged",
    "The file of a disk that an earlier run had finished was damaged or replaced before it was published.",
    First("check the drive that the folder is on"),
    Resume(),
    "That disk is copied again.",
)
NO_LEASE: Final = frozenset({LICENSE_REFUSES_EXPORT, NOT_SUPPORTED})
"""Refusals of a server that does not export by lease. Any other refusal concerns this machine at this moment, and is
reported."""

UNPROVED_RANGES: Final = "unproved: read as datastore ranges, for which the server has no manifest"
UNPROVED_NO_MANIFEST: Final = "unproved: the server gave no manifest"
UNPROVED_UNVERIFIABLE: Final = (
    "unproved: the export lease was lost after some disks were complete, and with it the server's manifest of them"
)
UNPROVED_INTERRUPTED: Final = (
    "unproved: the run was interrupted after the last disk was complete, before the server's manifest was compared"
)
UNPROVED_EARLIER: Final = "unproved: some disks were copied in an earlier run, under another lease"


@dataclass(frozen=True, slots=True)
class MachineCopy:
    """Copies the disks that are not copied yet. Method, proof and the server's descriptor are in the run file when
    ``run`` returns."""

    work: SourceWork
    progress: MachineProgress
    disks: DiskSet

    def run(self, cancel: CancelToken) -> None:
        """Copies all pending disks. Raises IntegrityError ``finished_disk_damaged``."""
        self._check_finished(cancel)
        pending = [record for record in self.work.records if not record.done]
        for record in self.work.records:
            if record.done:
                self.work.outputs.close_disk(record)  # a kill may have prevented it
                self.progress.meters[record.key].expect_read_back(1.0)
                self.disks.hash_later(record, cancel)
        if pending:
            try:
                self._copy(pending, cancel)
            except (SourceError, IntegrityError) as error:
                self._blame_snapshot(error)
                raise
        elif self.work.run.record.proof is None:
            self._note_interrupted()

    def _check_finished(self, cancel: CancelToken) -> None:
        """Checks disks that an earlier process finished; those whose files are damaged are copied again.

        Where all was copied the machine may have changed, and this run was planned not to touch it: the run ends, and
        the next one copies.
        """
        finished = [record for record in self.work.records if record.done]
        copied = self.work.run.record.copied
        if finished:
            self.progress.phase(Phase.PREPARING, "checking the disks that an earlier run finished")
        damage = {record.label: self._damage_of(record, cancel) for record in finished}
        wrong = [record for record in finished if damage[record.label]]
        if not wrong:
            return
        self._forget(wrong)
        if copied:
            reasons = "; ".join(f"{record.label}: {damage[record.label]}" for record in wrong)
            raise IntegrityError(reasons, code=FINISHED_DAMAGED, disks=[record.label for record in wrong])
        for record in wrong:
            self.work.warn(f"{record.label} was finished by an earlier run and is copied again: {damage[record.label]}")

    def _damage_of(self, record: DiskRecord, cancel: CancelToken) -> str | None:
        size = record.size_bytes
        damage = damage_of(self.work.outputs, record, self.progress.meters[record.key], cancel)
        if record.size_bytes != size:
            self.work.run.save()
        return damage

    def _blame_snapshot(self, error: HyperSDKError) -> None:
        """Raises ``snapshot_gone`` in place of ``error`` where the snapshot is gone: that breaks a stream, or changes
        its data."""
        try:
            self.check_snapshot()
        except SourceError as gone:
            if gone.code == SNAPSHOT_GONE:
                raise gone from error
        except HyperSDKError as unknown:
            LOG.info("cannot tell whether the snapshot still exists: %s", unknown.message)

    def check_snapshot(self) -> None:
        """Raises SourceError ``snapshot_gone`` where the exported snapshot no longer exists."""
        if self._point.snapshot is not None:
            check_snapshot_there(read_machine(self.work.session, self.work.run.record.moref), self._point)

    def _note_interrupted(self) -> None:
        """Records the proof where an earlier process ended after the last disk and before it. The lease is gone, and
        the server's manifest with it."""
        receipts = [record.receipt for record in self.work.records if record.receipt]
        streamed = any(receipt.stream for receipt in receipts)
        with self.work.run.changing() as record:
            record.method = (Method.LEASE if streamed else Method.DATASTORE).value
            record.proof = (
                with_checks(UNPROVED_INTERRUPTED, self.work.records, self.work.warn) if streamed else UNPROVED_RANGES
            )

    def _copy(self, pending: Sequence[DiskRecord], cancel: CancelToken) -> None:
        method = self.work.plan.method
        if method is Method.DATASTORE:
            self._copy_ranges(self._ranges(pending, cancel), cancel)
        elif method is Method.AUTO and (ranges := self._ranges_for_resume(pending, cancel)):
            self._copy_ranges(ranges, cancel)
        else:
            self._copy_lease_or_ranges(pending, cancel)

    def _copy_lease_or_ranges(self, pending: Sequence[DiskRecord], cancel: CancelToken) -> None:
        try:
            self._copy_lease(pending, cancel)
        except (Refused, SourceError) as refused:
            left = [record for record in pending if not record.done]
            if self.work.plan.method is not Method.AUTO or not self._needs_no_lease(refused) or not left:
                raise
            ranges = self._ranges_instead(left, refused, cancel)
            self.work.warn(f"the server refused the lease ({refused.message}); the datastore was read instead")
            self._copy_ranges(ranges, cancel)

    def _needs_no_lease(self, refused: HyperSDKError) -> bool:
        """Whether the datastore may be read in place of the lease. By which fault a server refuses a machine with a
        virtual TPM is not documented."""
        return refused.code in NO_LEASE or (refused.code == VSPHERE_FAULT and self.work.plan.machine.encrypted)

    def _ranges_instead(
        self, pending: Sequence[DiskRecord], refused: HyperSDKError, cancel: CancelToken
    ) -> list[tuple[DiskRecord, DiskSource]]:
        """Ranges for all of ``pending``. Raises ``refused`` where there are none: it says why the server refuses the
        export."""
        try:
            return self._ranges(pending, cancel)
        except Refused as neither:
            refused.fields["no_ranges"] = neither.message
            refused.add_note(f"and the datastore cannot be read instead: {neither.message}")
            raise refused from neither

    @property
    def _point(self) -> PointInTime:
        point = self.work.run.record.point
        assert point is not None  # recorded before any copy
        return point

    @property
    def _stall_timeout_s(self) -> float:
        return self.disks.resources.settings.stall_timeout_s

    # Lease

    def _copy_lease(self, pending: Sequence[DiskRecord], cancel: CancelToken) -> None:
        work = self.work
        self.progress.phase(Phase.PREPARING, "waiting for the export lease")
        with LeasedExport(
            work.session,
            moref=work.run.record.moref,
            snapshot=self._point.snapshot,
            same_point=self._check_point,
            cancel=cancel,
            on_opened=work.journal.lease_opened,
            on_closed=work.journal.lease_closed,
            on_wait=self.progress.note,
            stall_timeout_s=self._stall_timeout_s,
        ) as lease:
            self.progress.watch_lease(lease)
            try:
                self.disks.copy(_matched(pending, lease.sources), self._point.identity, cancel)
            finally:
                self.progress.watch_lease(None)
            self._warn_of_detours()
            proof = with_checks(self._proof(self._verify(lease, pending)), work.records, work.warn)
            self.check_snapshot()  # after a removal the server's manifest proves nothing
            descriptor = self._descriptor()
            lease.complete()
        with work.run.changing() as record:
            record.method, record.proof, record.descriptor = Method.LEASE.value, proof, descriptor

    def _verify(self, lease: LeasedExport, pending: Sequence[DiskRecord]) -> Mapping[str, Verdict]:
        """Compares the streams with the server's manifest. Raises IntegrityError ``manifest_mismatch``; the disks that
        differ count as not copied then, so that no resume publishes them."""
        try:
            return lease.verify(_streams(pending))
        except IntegrityError as error:
            labels = error.fields.get("disks")
            assert isinstance(labels, list)
            self._forget([record for record in pending if record.label in labels])
            raise

    def _forget(self, wrong: Sequence[DiskRecord]) -> None:
        records = self.work.records
        if wrong and not self.work.outputs.parallel:
            wrong = records[records.index(wrong[0]) :]  # the disks after it start where it ends
        with self.work.run.changing() as run:
            run.proof = run.descriptor = None
            for record in wrong:
                record.reset()
        for record in reversed(wrong):
            self.work.outputs.forget(record)

    def _proof(self, verdicts: Mapping[str, Verdict]) -> str:
        if len(self.work.records) > len(verdicts):
            return UNPROVED_EARLIER
        if Verdict.UNVERIFIABLE in verdicts.values():
            return UNPROVED_UNVERIFIABLE
        return PROVED if all(verdict is Verdict.PROVED for verdict in verdicts.values()) else UNPROVED_NO_MANIFEST

    def _warn_of_detours(self) -> None:
        """Warns of data that came through vCenter: that is slow and a load on vCenter, and the cause is a firewall rule
        that can be changed."""
        routes = {record.receipt.route for record in self.work.records if record.receipt}
        for route in sorted(route for route in routes if VIA in route):
            self.work.warn(f"the data came from {route}: the host could not be reached directly")

    def _descriptor(self) -> str | None:
        """The server's descriptor, requested while the lease (and the snapshot) still exists; None where it has
        none."""
        disks = [
            OvfDisk(
                device_key=record.key,
                file_name=record.file_name,
                size_bytes=record.size_bytes or 0,
                capacity_bytes=record.capacity_bytes,
                populated_bytes=None,
                format="vmdk-stream",
                lease_key=record.lease_key,
            )
            for record in self.work.records
        ]
        text = server_descriptor(self.work.session, self.work.run.record.moref, self._point.snapshot, disks)
        return None if text is None else text.decode()

    # Ranges

    def _ranges(self, pending: Sequence[DiskRecord], cancel: CancelToken) -> list[tuple[DiskRecord, DiskSource]]:
        """Ranges for all of ``pending``. Raises Refused ``no_ranges`` with the reason of each disk that cannot be read
        that way."""
        pairs, reasons = self._probe(pending, cancel)
        if reasons:
            raise Refused("; ".join(reasons), code=NO_RANGES)
        return [*pairs]

    def _ranges_for_resume(
        self, pending: Sequence[DiskRecord], cancel: CancelToken
    ) -> list[tuple[DiskRecord, DiskSource]] | None:
        """Ranges for all of ``pending``. None where nothing is on disk yet, where a disk cannot be read that way, or
        where a new stream is less data."""
        if not any(self.work.outputs.has_data(record) for record in pending):
            return None
        pairs, reasons = self._probe(pending, cancel)
        if reasons:
            return None
        cost = ResumeCost.of_all([self._resume_cost(record, source, cancel) for record, source in pairs])
        self.work.warn(cost.choice)
        return [*pairs] if cost.takes_ranges else None

    def _resume_cost(self, record: DiskRecord, source: RangeSource, cancel: CancelToken) -> ResumeCost:
        allocated = {disk.key: disk.allocated_bytes for disk in self.work.plan.disks}
        return ResumeCost.of(
            record.capacity_bytes,
            areas_bytes=sum(length for _, length in source.extents(cancel)),
            allocated_bytes=allocated.get(record.key),
            recorded_bytes=self.work.outputs.recorded_bytes(record),
        )

    def _probe(
        self, pending: Sequence[DiskRecord], cancel: CancelToken
    ) -> tuple[list[tuple[DiskRecord, FlatDiskSource]], list[str]]:
        """The disks as ranges, and the reasons of those that cannot be read that way. The range that is read as a test
        counts as a stream of the budget."""
        session, budget = self.work.session, self.disks.resources.budget
        moref, snapshot = self.work.run.record.moref, self._point.snapshot
        machine = read_machine(session, moref)
        disks = {disk.key: disk for disk in machine.disks}
        then = {disk.key: disk.file for disk in self._point.disks}
        pairs, reasons = [], []
        for record in pending:
            disk = disks.get(record.key)
            if disk is None:
                reasons.append(f"{record.label}: the VM no longer has this disk")
                continue
            if snapshot and then.get(record.key) not in disk.chain:
                reasons.append(f"{record.label}: another disk replaced it after the snapshot was made")
                continue
            with budget.stream(session.endpoint.host, cancel):
                found = probe_flat(
                    session, machine, disk, snapshot=snapshot, cancel=cancel, stall_timeout_s=self._stall_timeout_s
                )
            if isinstance(found, str):
                reasons.append(f"{record.label}: {found}")
            else:
                pairs.append((record, found))
        return pairs, reasons

    def _copy_ranges(self, pairs: Sequence[tuple[DiskRecord, DiskSource]], cancel: CancelToken) -> None:
        self.disks.copy(pairs, self._point.identity, cancel)
        # Nothing prevents a power-on while the files are read, so it is checked afterwards.
        self._check_point()
        with self.work.run.changing() as record:
            record.method, record.proof = Method.DATASTORE.value, UNPROVED_RANGES

    def _check_point(self) -> None:
        """Raises SourceError ``source_changed`` or ``snapshot_gone`` unless the machine is provably still at the run's
        point in time."""
        machine = read_machine(self.work.session, self.work.run.record.moref)
        check_snapshot_there(machine, self._point)
        if reason := self._point.difference(point_of(machine, self._point.snapshot)):
            raise SourceError(f"'{machine.name}' changed while it was copied: {reason}", code=SOURCE_CHANGED)


def _matched(pending: Sequence[DiskRecord], sources: Sequence[LeaseDiskSource]) -> list[tuple[DiskRecord, DiskSource]]:
    """Each disk with its stream of the lease; records the lease's key for the descriptor."""
    by_key = {source.device_key: source for source in sources}
    missing = [record.label for record in pending if record.key not in by_key]
    if missing:
        raise SourceError(f"the lease does not offer {', '.join(missing)}", code=DISK_NOT_SERVED, disks=missing)
    for record in pending:
        record.lease_key = by_key[record.key].lease_key
    return [(record, by_key[record.key]) for record in pending]


def _streams(pending: Sequence[DiskRecord]) -> dict[str, StreamDigests]:
    """Digests of the received streams, by lease key, for the comparison with the server's manifest."""
    return {
        record.lease_key: record.receipt.stream
        for record in pending
        if record.lease_key and record.receipt and record.receipt.stream
    }
