"""confluent-kafka (librdkafka) produces until a disk is full and beyond: addresses, topic, number of records. Says what was acknowledged."""
import sys, time
from confluent_kafka import Producer

servers, topic, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
producer = Producer({"bootstrap.servers": servers, "enable.idempotence": True, "topic.metadata.refresh.interval.ms": 1000})

def delivered(error, message):
    assert error is None, error
    print("sent", message.key().decode(), flush=True)

for i in range(number):
    producer.produce(topic, key=f"k{i}".encode(), value=b"v" * 20_000, on_delivery=delivered)
    producer.poll(0.02)
left = producer.flush(100)
assert left == 0, left
print("done")
