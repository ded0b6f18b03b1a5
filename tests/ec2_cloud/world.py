"""All that the parts of this cloud share: settings, the lock, timers, logs.

Invariant: moto's state and everything in here but the call log and the faults is touched only under `lock`. Timers
never run by themselves: whoever takes the lock to look at the state runs those that are due first, so what is seen
is always what the clock says.
"""

import heapq
import itertools
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass

from moto.ec2.models import ec2_backends

from calls import ACCOUNT, CallLog
from errors import AwsError
from faults import Faults


@dataclass
class Settings:
    state_delay_s: float = 0.3
    consistency_ms: float = 0
    # whether calls that change something do not know either of what is too new
    late_everywhere: bool = False
    page_size: int | None = None
    vcpu_limit: int | None = 256
    iam: dict | None = None
    clock_skew_s: float = 0
    # whether the account has opted in to a Local Zone
    local_zones: bool = False
    # whether the account's default is that instances see their tags in the metadata
    metadata_tags: bool = False

    def update(self, values):
        for name, value in values.items():
            if name not in vars(self):
                raise AwsError("InvalidSetting", f"no setting is called {name}")
            setattr(self, name, value)


class Timers:
    """Things to do later, run by whoever looks next."""

    def __init__(self):
        self._heap = []
        self._numbers = itertools.count()

    def after(self, seconds, action):
        heapq.heappush(self._heap, (time.monotonic() + seconds, next(self._numbers), action))

    def run_due(self):
        while self._heap and self._heap[0][0] <= time.monotonic():
            heapq.heappop(self._heap)[2]()


class World:
    def __init__(self, region):
        self.region = region
        self.lock = threading.RLock()
        self.settings = Settings()
        self.timers = Timers()
        self.calls = CallLog()
        self.faults = Faults()
        # Set by whoever starts the cloud; see `machines.py` for what it must do.
        self.machines = None
        self.births = None
        self.states = None
        # The default network's addresses, None for AWS's own.
        self.default_cidr = None
        # What the action under way makes, and what it is to answer instead of making it again.
        self.made = self.replay = None
        self.ending = threading.Event()

    @contextmanager
    def state(self):
        """The state as of now."""
        with self.lock:
            self.timers.run_due()
            yield self

    def backend(self, region=None):
        """moto's EC2 of a region."""
        return ec2_backends[ACCOUNT][region or self.region]

    def later(self, action):
        """Does something after the delay that state changes have."""
        self.timers.after(float(self.settings.state_delay_s), action)
