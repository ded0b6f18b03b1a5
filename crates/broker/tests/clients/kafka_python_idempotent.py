"""kafka-python at its defaults, which are idempotent, against one broker; its address is the only argument."""
import sys
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

servers = sys.argv[1]
producer = KafkaProducer(bootstrap_servers=servers)
futures = [producer.send("orders", key=str(i).encode(), value=b"v" * (i % 40)) for i in range(2000)]
sent = {}
for i, f in enumerate(futures):
    m = f.get(timeout=30)
    sent[m.partition, m.offset] = i
producer.close()
assert len(sent) == 2000
consumer = KafkaConsumer(bootstrap_servers=servers, consumer_timeout_ms=5000)
partitions = [TopicPartition("orders", p) for p in range(3)]
consumer.assign(partitions)
consumer.seek_to_beginning()
got = {}
for m in consumer:
    got[m.partition, m.offset] = int(m.key)
    if len(got) == 2000:
        break
assert got == sent, (len(got), len(sent))
for p in range(3):
    keys = [got[k] for k in sorted(got) if k[0] == p]
    assert keys == sorted(keys), p
print("done")
