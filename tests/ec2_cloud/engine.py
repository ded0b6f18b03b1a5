"""Docker Engine by its command line: what pairing needs of it.

Invariant: everything made here carries this cloud's labels and nothing else is ever removed.
"""

import os
import subprocess
import time

LABEL = "septet.test.cloud"
# Process numbers mean something only among those who see the same ones.
_SPACE = "septet.test.pids"


class EngineError(Exception):
    pass


def run(*arguments, data=None, timeout=120):
    """Runs a docker command; returns what it prints."""
    done = subprocess.run(["docker", *arguments], input=data, capture_output=True, timeout=timeout)
    if done.returncode != 0:
        raise EngineError(f"docker {arguments[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode(errors="replace").strip()


def labels():
    return ["--label", f"{LABEL}={os.getpid()}", "--label", f"{_SPACE}={_space()}"]


def _space():
    return os.stat("/proc/self/ns/pid").st_ino


def remove_all(pid=None):
    """Removes all that the cloud of a process has made."""
    chosen = ["-q", "--filter", f"label={LABEL}={pid or os.getpid()}", "--filter", f"label={_SPACE}={_space()}"]
    for listing, removal in (
        (["ps", "-a"], ["rm", "-f", "-v"]),
        (["network", "ls"], ["network", "rm"]),
        (["volume", "ls"], ["volume", "rm", "-f"]),
    ):
        _remove(lambda: run(*listing, *chosen).split(), removal)


def _remove(find, removal, attempts=20):
    """Removes what is found until nothing is; what goes away by itself at the same time makes a removal fail."""
    for left in range(attempts - 1, -1, -1):
        found = find()
        if not found:
            return
        try:
            run(*removal, *found)
        except EngineError:
            if not left:
                raise
            time.sleep(0.5)


def sweep():
    """Removes what clouds have left that were killed and could not do it themselves."""
    name = f'{{{{.Label "{LABEL}"}}}}'
    pids = set()
    for listing in (["ps", "-a"], ["network", "ls"], ["volume", "ls"]):
        pids.update(run(*listing, "--filter", f"label={_SPACE}={_space()}", "--format", name).split())
    for pid in pids:
        if pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            remove_all(pid)
