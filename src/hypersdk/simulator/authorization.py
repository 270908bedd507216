"""AuthorizationManager: the privileges of the account: all but those that the configuration denies."""

from __future__ import annotations

from typing import Final

from hypersdk.simulator.managed import Call, operation, prop
from hypersdk.simulator.platform import PlatformObject
from hypersdk.simulator.values import Data, MethodFault, not_authenticated

PRIVILEGES: Final = (
    "System.Anonymous", "System.Read", "System.View", "Global.CancelTask", "Global.Licenses",
    "Sessions.TerminateSession", "Sessions.ValidateSession", "Datastore.Browse", "Datastore.FileManagement",
    "Datastore.DeleteFile", "Datastore.AllocateSpace", "Datastore.UpdateVirtualMachineFiles",
    "Host.Config.AutoStart", "VApp.Export", "VApp.Import", "VApp.ApplicationConfig", "Resource.AssignVMToPool",
    "VirtualMachine.Interact.PowerOn", "VirtualMachine.Interact.PowerOff", "VirtualMachine.Interact.Suspend",
    "VirtualMachine.Interact.Reset", "VirtualMachine.Interact.SetCDMedia",
    "VirtualMachine.Interact.DeviceConnection", "VirtualMachine.Config.EditDevice",
    "VirtualMachine.Config.AddRemoveDevice", "VirtualMachine.Config.Rename", "VirtualMachine.Config.ChangeTracking",
    "VirtualMachine.Config.Settings", "VirtualMachine.State.CreateSnapshot", "VirtualMachine.State.RemoveSnapshot",
    "VirtualMachine.State.RenameSnapshot", "VirtualMachine.State.RevertToSnapshot",
    "VirtualMachine.Provisioning.Clone", "VirtualMachine.Provisioning.MarkAsTemplate",
    "VirtualMachine.Provisioning.MarkAsVM", "VirtualMachine.Provisioning.DiskRandomRead",
    "VirtualMachine.Provisioning.DiskRandomAccess", "VirtualMachine.Provisioning.GetVmFiles",
    "VirtualMachine.Inventory.Delete", "VirtualMachine.Inventory.Create",
)  # fmt: skip


class AuthorizationManager(PlatformObject, api_type="AuthorizationManager"):
    """Lists privileges, and says which the account has."""

    def granted(self) -> list[str]:
        """The privileges that the account has."""
        return [name for name in PRIVILEGES if name not in self.platform.config.denied_privileges]

    @prop("privilegeList")
    def _privileges(self) -> list[Data]:
        return [
            Data(
                "AuthorizationPrivilege",
                privId=name,
                onParent=False,
                name=name.rpartition(".")[2],
                privGroupName=name.rpartition(".")[0],
            )
            for name in PRIVILEGES
        ]

    @prop("roleList")
    def _roles(self) -> list[Data]:
        info = Data("Description", label="Administrator", summary="Full access rights")
        return [Data("AuthorizationRole", roleId=-1, system=True, name="Admin", info=info, privilege=self.granted())]

    @operation("HasPrivilegeOnEntities")
    def _has_on_entities(self, call: Call) -> list[Data]:
        self._check_session(call.args.sessionId)
        granted = set(self.granted())
        return [
            Data(
                "EntityPrivilege",
                entity=ref,
                privAvailability=[
                    Data("PrivilegeAvailability", privId=name, isGranted=name in granted)
                    for name in call.args.privId or []
                ],
            )
            for ref in call.args.entity
        ]

    @operation("HasPrivilegeOnEntity")
    def _has_on_entity(self, call: Call) -> list[bool]:
        self._check_session(call.args.sessionId)
        granted = set(self.granted())
        return [name in granted for name in call.args.privId or []]

    def _check_session(self, key: str) -> None:
        if self.platform.sessions.by_key(key) is None:
            raise not_authenticated()

    @operation("FetchUserPrivilegeOnEntities")
    def _fetch(self, call: Call) -> list[Data]:
        if not self.platform.sessions.knows(call.args.userName):
            raise MethodFault.of("NotFound", f"There is no user '{call.args.userName}'.")
        return [Data("UserPrivilegeResult", entity=ref, privileges=self.granted()) for ref in call.args.entities]
