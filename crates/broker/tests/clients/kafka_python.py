"""kafka-python against a cluster of three; its addresses are the only argument."""
import sys, time
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.structs import OffsetAndMetadata

servers = sys.argv[1].split(",")
producer = KafkaProducer(bootstrap_servers=servers, acks="all", compression_type="gzip", linger_ms=10)
futures = [producer.send("orders", key=str(i).encode(), value=b"v" * (i % 90)) for i in range(1000)]
sent = {}
for i, f in enumerate(futures):
    m = f.get(timeout=30)
    sent[m.partition, m.offset] = str(i).encode()
producer.close()
assert len(sent) == 1000

partitions = [TopicPartition("orders", p) for p in range(3)]
consumer = KafkaConsumer(bootstrap_servers=servers, group_id="reader", enable_auto_commit=False, auto_offset_reset="earliest", check_crcs=True)
assert consumer.partitions_for_topic("orders") == {0, 1, 2}
consumer.assign(partitions)
got, until = {}, time.time() + 30
while len(got) < len(sent) and time.time() < until:
    for records in consumer.poll(timeout_ms=1000).values():
        got.update({(r.partition, r.offset): r.key for r in records})
assert got == sent, (len(got), len(sent))
ends = consumer.end_offsets(partitions)
assert sum(ends.values()) == 1000 and set(consumer.beginning_offsets(partitions).values()) == {0}, ends

meta = lambda n: OffsetAndMetadata(n, "noted", -1)
consumer.commit({p: meta(7 + p.partition) for p in partitions})
again = KafkaConsumer(bootstrap_servers=servers, group_id="reader")
assert [again.committed(p) for p in partitions] == [7, 8, 9]
consumer.close()
again.close()
print("done")
