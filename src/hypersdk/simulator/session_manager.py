"""SessionManager: the API's side of the login sessions."""

from __future__ import annotations

from hypersdk.simulator.managed import Call, Managed, operation, prop
from hypersdk.simulator.session import SessionStore
from hypersdk.simulator.values import Data, MethodFault
from hypersdk.simulator.world import World


class SessionManager(Managed, api_type="SessionManager"):
    """Logs in and out, and lists the sessions."""

    def __init__(self, world: World, moref: str, sessions: SessionStore) -> None:
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
