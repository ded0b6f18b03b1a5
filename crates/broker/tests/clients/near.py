"""confluent-kafka (librdkafka) reads a number of records of a topic's partition 0 with `client.rack`: addresses, topic, rack, number."""
import sys, time
from confluent_kafka import Consumer, OFFSET_BEGINNING, TopicPartition

servers, topic, rack, number = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
consumer = Consumer({
    "bootstrap.servers": servers, "group.id": "near", "client.rack": rack, "enable.auto.commit": False, "check.crcs": True,
    "topic.metadata.refresh.interval.ms": 500,
})
consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
got, until = [], time.time() + 60
while len(got) < number and time.time() < until:
    for m in consumer.consume(500, 0.5):
        assert m.error() is None, m.error()
        got.append(m.offset())
assert got == list(range(number)), (len(got), got[:3], got[-3:])
consumer.close()
print("done")
