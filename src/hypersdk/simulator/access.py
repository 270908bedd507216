"""Access: the API's managers of login sessions and of privileges. The account has all privileges but those that the
configuration denies."""

from __future__ import annotations

from typing import Final

from hypersdk.simulator.managed import Call, Managed, operation, prop
from hypersdk.simulator.platform import PlatformObject
from hypersdk.simulator.session import SimulatedSessions
from hypersdk.simulator.values import Data, MethodFault, not_authenticated
from hypersdk.simulator.world import World

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


class SessionManager(Managed, api_type="SessionManager"):
    """Logs in and out, and lists the sessions."""

    def __init__(self, world: World, moref: str, sessions: SimulatedSessions) -> None:
        super().__init__(
            world, moref, messageLocaleList=["en"], supportedLocaleList=["en"], defaultLocale="en", message=""
        )
        self.sessions = sessions

    @prop("currentSession")
    def _current_session(self) -> Data | None:
        caller = self.sessions.caller
        return caller.as_data() if caller else None

    @prop("sessionList")
    def _session_list(self) -> list[Data]:
        return [session.as_data() for session in self.sessions.all()]

    @operation("Login")
    def _login(self, call: Call) -> Data:
        if call.session is not None:
            raise MethodFault.of("InvalidLogin", "The session is logged in already.")
        call.session = self.sessions.log_in(call.args.userName, call.args.password)
        return call.session.as_data()

    @operation("Logout")
    def _logout(self, call: Call) -> None:
        self.sessions.end(call.caller)

    @operation("TerminateSession", privilege="Sessions.TerminateSession")
    def _terminate(self, call: Call) -> None:
        for key in call.args.sessionId:
            session = self.sessions.by_key(key)
            if session is None:
                raise MethodFault.of("NotFound", f"There is no session {key}.")
            if session is call.session:
                raise MethodFault.of(
                    "InvalidArgument", "A session cannot terminate itself.", invalidProperty="sessionId"
                )
            self.sessions.end(session)

    @operation("SessionIsActive", privilege="Sessions.ValidateSession")
    def _is_active(self, call: Call) -> bool:
        session = self.sessions.by_key(call.args.sessionID)
        return session is not None and session.user == call.args.userName
