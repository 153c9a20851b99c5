"""Passes the core's events to hooks."""

from collections.abc import Sequence
from typing import Final

from tenantry.eventlog import EventLog
from tenantry.events import Event, Hook

HOOK_FAILED: Final = "tenantry.hook.failed"


class Hooks:
    """Calls each hook with each event. If a hook raises an error, the error is logged, and the tenant's call is not affected."""

    def __init__(self, hooks: Sequence[Hook], log: EventLog) -> None:
        self._hooks = list(hooks)
        self._log = log

    def add(self, hook: Hook) -> None:
        """Call `hook` with every event from now on."""
        self._hooks.append(hook)

    def report(self, event: Event) -> None:
        """Call every hook with an event."""
        for hook in self._hooks:
            try:
                hook(event)
            except Exception as error:  # noqa: BLE001  # a hook's error must not reach the core
                self._log.error(
                    HOOK_FAILED, hook=repr(hook), event_type=type(event).__name__, error=repr(error)
                )
