"""Faults that a test orders: a refusal, a broken connection or silence, before or after the effect of a call.

Invariant: every matching call counts once for each fault's `skip` and `times`, whatever the other faults do; the
first fault that is due wins.
"""

import fnmatch
import threading
from dataclasses import dataclass, field

from errors import AwsError


@dataclass
class Fault:
    action: str
    when: str = "before"
    kind: str = "error"
    code: str = "InternalError"
    status: int = 500
    message: str = "Ordered by the test"
    times: int = 1
    skip: int = 0
    match: dict = field(default_factory=dict)
    # None: any call; otherwise only calls with (true) or without (false) DryRun. Capacity and the like never show
    # in a dry run, hence the default.
    dry_run: bool | None = False

    def __post_init__(self):
        if self.when not in ("before", "after") or self.kind not in ("error", "reset", "hang"):
            raise AwsError("InvalidFault", f"when={self.when} kind={self.kind}")

    def matches(self, call):
        if not fnmatch.fnmatchcase(call.action, self.action):
            return False
        if self.dry_run is not None and call.dry_run != self.dry_run:
            return False
        return all(_value_matches(call.params.get(name), glob) for name, glob in self.match.items())

    def due(self):
        """Counts a matching call; true if the fault strikes it."""
        if self.skip > 0:
            self.skip -= 1
            return False
        if self.times == 0:
            return False
        if self.times > 0:
            self.times -= 1
        return True

    def error(self):
        return AwsError(self.code, self.message, self.status)


def _value_matches(value, glob):
    """A glob of null says that the parameter must be absent."""
    if glob is None or value is None:
        return glob is None and value is None
    return fnmatch.fnmatchcase(value, str(glob))


class Faults:
    def __init__(self):
        self._lock = threading.Lock()
        self._faults = []

    def add(self, spec):
        try:
            fault = Fault(**spec)
        except TypeError as e:
            raise AwsError("InvalidFault", str(e)) from None
        with self._lock:
            self._faults.append(fault)

    def clear(self):
        with self._lock:
            self._faults.clear()

    def list(self):
        with self._lock:
            return [dict(vars(f)) for f in self._faults]

    def strike(self, call):
        """The fault that strikes this call, if any."""
        with self._lock:
            struck = [f for f in self._faults if f.matches(call) and f.due()]
            self._faults = [f for f in self._faults if f.times != 0]
        return struck[0] if struck else None
