"""Groups with confluent-kafka (librdkafka) against a cluster of three; its addresses are the only argument."""
import faulthandler, os, signal, subprocess, sys, time
from confluent_kafka import Consumer, ConsumerGroupState, ConsumerGroupTopicPartitions, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

servers = sys.argv[1]
faulthandler.dump_traceback_later(120, exit=True)

class Member(Consumer):
    pass

def consumer(group, **more):
    events = []
    c = Member({"bootstrap.servers": servers, "group.id": group, "auto.offset.reset": "earliest", **{k.replace("_", "."): v for k, v in more.items()}})
    c.subscribe(["orders"], on_assign=lambda c, ps: events.append(("+", sorted(p.partition for p in ps))),
                on_revoke=lambda c, ps: events.append(("-", sorted(p.partition for p in ps))), on_lost=lambda c, ps: events.append(("lost", len(ps))))
    c.events, c.got = events, {}
    return c

if sys.argv[2:]:
    # A member that is killed.
    c = consumer(sys.argv[2], session_timeout_ms=6000)
    while True:
        c.poll(0.2)
        print(len(c.assignment()), flush=True)

def pump(consumers, until, what, limit=30):
    end = time.time() + limit
    while not until():
        assert time.time() < end, (what, [(sorted(p.partition for p in c.assignment()), c.events) for c in consumers])
        for c in consumers:
            m = c.poll(0.05)
            if m is not None:
                assert m.error() is None, m.error()
                assert (m.partition(), m.offset()) not in c.got, "twice"
                c.got[m.partition(), m.offset()] = m.value()

def shared(consumers, each):
    return lambda: [len(c.assignment()) for c in consumers] == each and len({p.partition for c in consumers for p in c.assignment()}) == 4

admin = AdminClient({"bootstrap.servers": servers})
admin.create_topics([NewTopic("orders", num_partitions=4, replication_factor=1)])["orders"].result(20)
producer = Producer({"bootstrap.servers": servers, "enable.idempotence": False})
def produce(n):
    for i in range(n):
        producer.produce("orders", value=str(i), partition=i % 4)
    assert producer.flush(20) == 0
produce(400)

# At defaults: alone, then two, then alone again.
a = consumer("plain")
pump([a], lambda: len(a.got) == 400 and len(a.assignment()) == 4, "one has all")
b = consumer("plain")
pump([a, b], shared([a, b], [2, 2]), "two share")
produce(400)
pump([a, b], lambda: len(a.got) + len(b.got) == 800, "each record once")
b.close()
pump([a], lambda: len(a.assignment()) == 4, "the other has all")
described = admin.describe_consumer_groups(["plain"])["plain"].result(20)
assert described.state == ConsumerGroupState.STABLE and len(described.members) == 1 and described.partition_assignor == "range", described
assert len(described.members[0].assignment.topic_partitions) == 4 and described.members[0].host.endswith("127.0.0.1"), described.members[0].host
a.close()
kept = Consumer({"bootstrap.servers": servers, "group.id": "plain"})
assert [t.offset for t in kept.committed([TopicPartition("orders", p) for p in range(4)], timeout=20)] == [200] * 4
kept.close()
offsets = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions("plain")])["plain"].result(20)
assert sorted((t.partition, t.offset) for t in offsets.topic_partitions) == [(p, 200) for p in range(4)], offsets

# Cooperative: what stays is not revoked.
cooperative = lambda: consumer("cooperative", partition_assignment_strategy="cooperative-sticky")
a = cooperative()
pump([a], lambda: len(a.assignment()) == 4, "one has all")
a.events.clear()
b = cooperative()
pump([a, b], shared([a, b], [2, 2]), "two share")
assert [e for e in a.events if e[0] == "-" and len(e[1]) == 2] and not [e for e in a.events if e[0] == "lost" or len(e[1]) > 2], a.events
a.close(); pump([b], lambda: len(b.assignment()) == 4, "the other has all"); b.close()

# Static: one that comes back has what it had, and the others do not notice.
a, b = (consumer("static", group_instance_id=f"i{n}", session_timeout_ms=30000) for n in range(2))
pump([a, b], shared([a, b], [2, 2]), "two share")
had = sorted(p.partition for p in b.assignment())
a.events.clear()
b.close()
b = consumer("static", group_instance_id="i1", session_timeout_ms=30000)
pump([a, b], shared([a, b], [2, 2]), "it is back")
assert sorted(p.partition for p in b.assignment()) == had and not a.events, (had, a.events)
# A second one with its name fences the first.
c = consumer("static", group_instance_id="i1", session_timeout_ms=30000)
fenced = None
end = time.time() + 30
while fenced is None and time.time() < end:
    for x in (a, c, b):
        try:
            m = x.poll(0.05)
            if m is not None and m.error() is not None: fenced = m.error()
        except KafkaException as e:
            fenced = e.args[0]
assert fenced is not None and fenced.code() in (KafkaError.FENCED_INSTANCE_ID, KafkaError._FATAL), fenced
for x in (a, b, c): x.close()

# Killed: its partitions go to the other when its session ends.
killed = subprocess.Popen([sys.executable, "-B", sys.argv[0], servers, "killed"], stdout=subprocess.PIPE, text=True)
while killed.stdout.readline().strip() != "4": pass
a = consumer("killed", session_timeout_ms=6000)
pump([a], lambda: len(a.assignment()) == 2, "two share")
os.kill(killed.pid, signal.SIGKILL)
pump([a], lambda: len(a.assignment()) == 4, "the other has all", 30)

names = {g.group_id: g.state for g in admin.list_consumer_groups().result(20).valid}
assert {"plain", "cooperative", "static", "killed"} <= set(names) and names["killed"] == ConsumerGroupState.STABLE, names
assert names["plain"] == ConsumerGroupState.EMPTY
try:
    admin.delete_consumer_groups(["killed"])["killed"].result(20)
    sys.exit("a group with members was deleted")
except KafkaException as e:
    assert e.args[0].code() == KafkaError.NON_EMPTY_GROUP, e
a.close()
admin.delete_consumer_groups(["killed"])["killed"].result(20)
assert "killed" not in {g.group_id for g in admin.list_consumer_groups().result(20).valid}
print("done")
