"""kazoo as a client that may be read-only, and as one that may not. Driven by lines of standard input; prints what it sees."""
import sys
import threading

from kazoo.client import KazooClient, KeeperState
from kazoo.exceptions import NotReadOnlyCallError

HOSTS = sys.argv[1]


def seen(condition, what):
    """Waits until something is so."""
    for _ in range(300):
        if condition():
            return
        threading.Event().wait(0.1)
    raise AssertionError("not in time: " + what)


def raises(error, f, *args):
    try:
        f(*args)
    except error:
        return
    raise AssertionError("%s was not raised" % error)


reader = KazooClient(hosts=HOSTS, read_only=True, timeout=10)
reader.start(timeout=30)
seen(lambda: reader.client_state == KeeperState.CONNECTED_RO, "connected to a server that only reads")
assert reader.get("/x")[0] == b"kept"
assert reader.get_children("/", watch=lambda event: None) == ["x", "zookeeper"]
assert reader.exists("/none") is None
raises(NotReadOnlyCallError, reader.create, "/y", b"")
raises(NotReadOnlyCallError, reader.set, "/x", b"")
raises(NotReadOnlyCallError, reader.delete, "/x")
raises(NotReadOnlyCallError, reader.sync, "/x")
transaction = reader.transaction()
transaction.create("/z", b"")
raises(NotReadOnlyCallError, transaction.commit)
# One that writes is refused.
writer = KazooClient(hosts=HOSTS, timeout=10)
try:
    writer.start(timeout=2)
    raise AssertionError("a client that writes was served")
except writer.handler.timeout_exception:
    writer.stop()
print("read-only", flush=True)
sys.stdin.readline()
# The server has a majority again: the client finds that out and writes.
seen(lambda: reader.client_state == KeeperState.CONNECTED, "connected to a server that writes")
reader.create("/y", b"")
assert reader.get("/y")[0] == b""
reader.stop()
print("ok", flush=True)
