"""Groups with kafka-python against a cluster of three; its addresses are the only argument."""
import sys, threading, time
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition

servers = sys.argv[1].split(",")
producer = KafkaProducer(bootstrap_servers=servers, acks="all", enable_idempotence=False)
def produce(n):
    for f in [producer.send("orders", value=str(i).encode(), partition=i % 3) for i in range(n)]:
        f.get(timeout=30)
produce(300)

class Member(threading.Thread):
    def __init__(self, group, **more):
        super().__init__(daemon=True)
        self.got, self.parts, self.go, self.error = {}, set(), True, None
        self.c = KafkaConsumer("orders", bootstrap_servers=servers, group_id=group, auto_offset_reset="earliest", **more)
        self.start()
    def run(self):
        try:
            while self.go:
                for records in self.c.poll(timeout_ms=200).values():
                    for r in records:
                        assert (r.partition, r.offset) not in self.got, "twice"
                        self.got[r.partition, r.offset] = r.value
                self.parts = {p.partition for p in self.c.assignment()}
            self.c.close()
        except Exception as e:
            self.error = e
    def end(self):
        self.go = False
        self.join(30)
        assert self.error is None, repr(self.error)

def wait(members, until, what, limit=60):
    end = time.time() + limit
    while not until():
        assert time.time() < end and not any(m.error for m in members), (what, [(m.parts, len(m.got), m.error) for m in members])
        time.sleep(0.05)

def shared(*members):
    return lambda: sorted(p for m in members for p in m.parts) == [0, 1, 2] and all(m.parts for m in members)

a = Member("reader")
wait([a], lambda: len(a.got) == 300 and len(a.parts) == 3, "one has all")
b = Member("reader")
wait([a, b], shared(a, b), "two share")
produce(300)
wait([a, b], lambda: len(a.got) + len(b.got) == 600, "each record once")
b.end()
wait([a], lambda: len(a.parts) == 3, "the other has all")
a.end()
again = KafkaConsumer(bootstrap_servers=servers, group_id="reader")
assert [again.committed(TopicPartition("orders", p)) for p in range(3)] == [200] * 3, "committed when they left"
again.close()
admin = KafkaAdminClient(bootstrap_servers=servers)
assert "reader" in str(admin.list_groups() if hasattr(admin, "list_groups") else admin.list_consumer_groups())
print("done")
