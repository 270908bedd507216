"""Tasks: work that takes time, watched through ``info``."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, Final

from hypersdk.simulator.managed import Call, Managed, operation, prop
from hypersdk.simulator.values import Data, MethodFault, Ref, unexpected
from hypersdk.simulator.world import World, now

MAX_TASKS: Final = 2000
"""Old tasks stay readable (libvirt reads the info of each recent task); beyond this the oldest go."""
RECENT_TASKS: Final = 10


class Task(Managed, api_type="Task", computed={"info": attrgetter("info")}):
    """One piece of work. ``on_cancel`` is called when a client cancels it, if it is cancelable."""

    on_cancel: Callable[[], None]

    def __init__(self, world: World, moref: str, info: Data) -> None:
        self.info = info
        super().__init__(world, moref)

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.info.state in ("queued", "running")

    def update(self, **fields: Any) -> None:
        """Changes fields of ``info``."""
        self.info = self.info.replace(**fields)
        self.touch()

    def succeed(self, result: Any = None) -> None:
        """Ends it successfully, with its result."""
        self._end(state="success", result=result)

    def fail(self, fault: MethodFault) -> None:
        """Ends it with a fault."""
        self._end(state="error", error=fault.localized())

    def _end(self, **fields: Any) -> None:
        if self.running:
            self.update(**fields, completeTime=now(), progress=None, cancelable=False)

    @operation("CancelTask")
    def _cancel(self, _call: Call) -> None:
        if not self.running:
            raise MethodFault.of("InvalidState", "The task has ended already.")
        if not self.info.cancelable:
            raise MethodFault.of("NotSupported", "The task cannot be canceled.")
        self.update(cancelled=True)
        self.fail(MethodFault.of("RequestCanceled", "The task was canceled by a user."))
        self.on_cancel()


class TaskManager(Managed, api_type="TaskManager"):
    """Starts tasks and keeps them."""

    def __init__(self, world: World, moref: str, *, task_s: float) -> None:
        super().__init__(world, moref, maxCollector=32)
        self.task_s = task_s
        self._tasks: list[Task] = []
        self._event_chain = 0

    @prop("recentTask")
    def _recent(self) -> list[Ref]:
        return [task.ref for task in self._tasks[-RECENT_TASKS:]]

    @prop("description")
    def _description(self) -> Data:
        states = [
            Data("ElementDescription", key=key, label=key, summary=key)
            for key in ("queued", "running", "success", "error")
        ]
        reason = Data("TypeDescription", key="TaskReasonUser", label="User", summary="User")
        return Data("TaskDescription", methodInfo=[], state=states, reason=[reason])

    def recent_of(self, entity: Ref) -> list[Ref]:
        """The most recent tasks of an entity."""
        own = [task for task in self._tasks[-200:] if task.info.entity == entity]
        return [task.ref for task in own[-RECENT_TASKS:]]

    def open(self, call: Call, entity: Managed, *, cancelable: bool = False) -> Task:
        """A running task, to be ended by its owner, who sets ``on_cancel`` where it is cancelable."""
        moref = self.world.number("task-")
        self._event_chain += 1
        user = call.session.user if call.session else "system"
        moment = now()
        info = Data(
            "TaskInfo",
            key=moref,
            task=Ref("Task", moref),
            name=call.method,
            descriptionId=description_id(entity.api_type, call.method),
            entity=entity.ref,
            entityName=entity.get("name"),
            state="running",
            cancelled=False,
            cancelable=cancelable,
            reason=Data("TaskReasonUser", userName=user),
            queueTime=moment,
            startTime=moment,
            eventChainId=self._event_chain,
            progress=0,
        )
        task = Task(self.world, moref, info)
        self._tasks.append(task)
        if len(self._tasks) > MAX_TASKS:
            self.world.remove(self._tasks.pop(0))
        self.touch()
        return task

    def run(self, call: Call, entity: Managed, work: Callable[[], Any]) -> Task:
        """Starts a task that runs ``work`` after a moment and ends with its result or fault."""
        task = self.open(call, entity)
        entity.touch()

        def finish() -> None:
            try:
                result = work()
            except MethodFault as fault:
                task.fail(fault)
            except Exception as error:  # noqa: BLE001 - a bug must not leave the task running for ever
                task.fail(unexpected(error))
            else:
                task.succeed(result)
            entity.touch()

        self.world.later(self.task_s, finish)
        return task


def description_id(api_type: str, method: str) -> str:
    """``VirtualMachine.powerOff`` for ``PowerOffVM_Task``."""
    known = {
        "PowerOnVM_Task": "powerOn",
        "PowerOffVM_Task": "powerOff",
        "SuspendVM_Task": "suspend",
        "ResetVM_Task": "reset",
        "ReconfigVM_Task": "reconfigure",
        "CloneVM_Task": "clone",
        "ConsolidateVMDisks_Task": "consolidateDisks",
        "RevertToSnapshot_Task": "revert",
        "RemoveSnapshot_Task": "remove",
    }
    bare = method.removesuffix("_Task")
    owner = {"VirtualMachineSnapshot": "vm.Snapshot", "HostDatastoreBrowser": "host.DatastoreBrowser"}.get(
        api_type, api_type
    )
    return f"{owner}.{known.get(method, bare[:1].lower() + bare[1:])}"
