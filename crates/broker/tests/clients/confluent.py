"""confluent-kafka (librdkafka) against a cluster of three; its addresses are the only argument."""
import sys, time
from confluent_kafka import Consumer, KafkaException, OFFSET_BEGINNING, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

servers = sys.argv[1]
admin = AdminClient({"bootstrap.servers": servers})
admin.create_topics([NewTopic("orders", num_partitions=4, replication_factor=1)])["orders"].result(20)
try:
    admin.create_topics([NewTopic("four", num_partitions=1, replication_factor=4)])["four"].result(20)
    sys.exit("four replicas were promised")
except KafkaException as e:
    assert e.args[0].name() == "INVALID_REPLICATION_FACTOR" and "larger than available brokers: 3" in e.args[0].str(), e
cluster = admin.list_topics(timeout=20)
assert sorted(cluster.brokers) == [1, 2, 3] and len(cluster.topics["orders"].partitions) == 4, cluster.topics

sent, errors = {}, []
for codec in ["none", "gzip", "snappy", "lz4", "zstd"]:
    producer = Producer({"bootstrap.servers": servers, "acks": "all", "compression.type": codec, "linger.ms": 10})
    for i in range(400):
        key, value = f"{codec}-{i}".encode(), b"v" * (i % 50)
        headers = [("n", str(i).encode())]
        producer.produce("orders", key=key, value=value, headers=headers, on_delivery=lambda e, m: errors.append(e) if e else sent.update({(m.partition(), m.offset()): m.key()}))
    assert producer.flush(20) == 0 and not errors, errors
assert len(sent) == 2000

consumer = Consumer({"bootstrap.servers": servers, "group.id": "reader", "enable.auto.commit": False, "check.crcs": True, "enable.partition.eof": False})
consumer.assign([TopicPartition("orders", p, OFFSET_BEGINNING) for p in range(4)])
got, until = {}, time.time() + 30
while len(got) < len(sent) and time.time() < until:
    for m in consumer.consume(500, 1):
        assert m.error() is None, m.error()
        assert m.headers() == [("n", m.key().split(b"-")[1])]
        got[m.partition(), m.offset()] = m.key()
assert got == sent, (len(got), len(sent))

for p in range(4):
    low, high = consumer.get_watermark_offsets(TopicPartition("orders", p), timeout=20)
    assert (low, high) == (0, sum(1 for (partition, _) in sent if partition == p))
future = consumer.offsets_for_times([TopicPartition("orders", 0, int(time.time() * 1000) + 3_600_000)], timeout=20)
past = consumer.offsets_for_times([TopicPartition("orders", 0, 1)], timeout=20)
assert (future[0].offset, past[0].offset) == (-1, 0), (future, past)

# The group's partition of the offsets topic is made when it is first asked for.
until = time.time() + 20
while True:
    try:
        consumer.commit(offsets=[TopicPartition("orders", p, 100 + p) for p in range(4)], asynchronous=False)
        break
    except KafkaException as e:
        assert time.time() < until, e
        time.sleep(0.2)
again = Consumer({"bootstrap.servers": servers, "group.id": "reader"})
kept = again.committed([TopicPartition("orders", p) for p in range(4)], timeout=20)
assert [t.offset for t in kept] == [100, 101, 102, 103], kept
consumer.close()
again.close()
print("done")
