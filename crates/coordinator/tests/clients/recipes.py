"""kazoo against an ensemble: ACLs, null data, transactions and the recipes. Prints `ok` at the end."""
import sys
import threading

from kazoo.client import KazooClient
from kazoo.exceptions import AuthFailedError, BadVersionError, InvalidACLError, NoAuthError, NoNodeError, RolledBackError
from kazoo.security import CREATOR_ALL_ACL, OPEN_ACL_UNSAFE, make_acl, make_digest_acl, make_digest_acl_credential

HOSTS = sys.argv[1]
open_clients = []


def client(**more):
    c = KazooClient(hosts=HOSTS, timeout=10, **more)
    c.start()
    open_clients.append(c)
    return c


def raises(error, f, *args, **kwargs):
    try:
        f(*args, **kwargs)
    except error:
        return
    raise AssertionError("%s was not raised" % error)


one, two = client(), client()

# ACLs
acl = make_digest_acl("fred", "iamfred", all=True)
one.add_auth("digest", "fred:iamfred")
one.create("/acl", b"x", acl=(acl,))
two.sync("/acl")
raises(NoAuthError, two.get, "/acl")
raises(NoAuthError, two.set, "/acl", b"y")
two.add_auth("digest", "fred:iamfred")
assert two.get("/acl")[0] == b"x"
assert one.get_acls("/acl")[0] == [acl]
one.set_acls("/acl", OPEN_ACL_UNSAFE, version=0)
raises(BadVersionError, one.set_acls, "/acl", OPEN_ACL_UNSAFE, version=0)
raises(InvalidACLError, one.create, "/bad", b"", acl=(make_acl("sasl", "me", all=True),))
one.create("/creator", b"", acl=CREATOR_ALL_ACL)
third = client()
raises(NoNodeError, third.delete, "/acl/none")
raises(NoAuthError, third.get, "/creator")
boss = client(auth_data=[("digest", "super:test")])
assert boss.get("/creator")[0] == b""
raises(AuthFailedError, third.add_auth, "unknown-scheme", "x")

# null data
one.create("/null", None)
assert one.get("/null")[0] is None
one.set("/null", b"")
assert one.get("/null")[0] == b""
one.set("/null", None)
assert two.sync("/null") and two.get("/null")[0] is None

# chroot, sequences, containers by create2, transactions
one.ensure_path("/root")
rooted = client()
rooted.chroot = "/root"
rooted.create("/inside", b"")
# Another client, perhaps at another server.
one.sync("/root")
assert one.exists("/root/inside")
names = [one.create("/root/s-", sequence=True, ephemeral=True) for _ in range(3)]
assert names == ["/root/s-%010d" % i for i in (1, 2, 3)], names
path, stat = one.create("/root/two", b"abc", include_data=True)
assert path == "/root/two" and stat.data_length == 3
t = one.transaction()
t.create("/t", b"1")
t.check("/t", 0)
t.set_data("/t", b"2", 0)
t.delete("/nothing")
results = t.commit()
assert isinstance(results[0], RolledBackError) and isinstance(results[3], NoNodeError), results
assert not one.exists("/t")

# recipes
lock, other = one.Lock("/lock", "one"), two.Lock("/lock", "two")
with lock:
    assert not other.acquire(blocking=False)
assert other.acquire(timeout=10)
other.release()
counter = one.Counter("/counter")
threads = [threading.Thread(target=lambda c=c: [c.Counter("/counter") + 1 for _ in range(20)]) for c in (one, two)]
[x.start() for x in threads]
[x.join() for x in threads]
assert one.Counter("/counter").value == 40
queue = one.LockingQueue("/queue")
queue.put_all([b"a", b"b"])
assert queue.get(5) == b"a" and queue.consume()
semaphore = two.Semaphore("/semaphore", max_leases=1)
assert semaphore.acquire(blocking=False) and not one.Semaphore("/semaphore", max_leases=1).acquire(blocking=False)
semaphore.release()
elected = threading.Event()
election = two.Election("/election", "two")
threading.Thread(target=election.run, args=(elected.set,), daemon=True).start()
assert elected.wait(10)
party = one.Party("/party", "one")
party.join()
assert list(two.Party("/party", "two")) == ["one"]
barrier = one.DoubleBarrier("/double", 2)
inside = threading.Thread(target=two.DoubleBarrier("/double", 2).enter)
inside.start()
barrier.enter()
inside.join(10)
assert not inside.is_alive()

for c in open_clients:
    c.stop()
    c.close()
print("ok")
