"""confluent-kafka with enable.idempotence against one broker; its address is the only argument."""
import sys
from confluent_kafka import Consumer, OFFSET_BEGINNING, Producer, TopicPartition

servers = sys.argv[1]
errors, sent = [], {}
producer = Producer({"bootstrap.servers": servers, "enable.idempotence": True, "compression.type": "lz4", "linger.ms": 1})
for i in range(3000):
    producer.produce("orders", key=str(i), value=b"v" * (i % 40), on_delivery=lambda e, m: errors.append(e) if e else sent.update({m.key(): (m.partition(), m.offset())}))
    if i % 50 == 0:
        producer.poll(0)
assert producer.flush(30) == 0 and not errors, errors
assert len(sent) == 3000
consumer = Consumer({"bootstrap.servers": servers, "group.id": "g", "check.crcs": True})
consumer.assign([TopicPartition("orders", p, OFFSET_BEGINNING) for p in range(3)])
got = []
while len(got) < 3000:
    more = consumer.consume(500, 10)
    assert more, len(got)
    for m in more:
        assert m.error() is None, m.error()
        assert sent[m.key()] == (m.partition(), m.offset())
        got.append((m.partition(), int(m.key())))
# Each once, in order in its partition.
assert len(set(got)) == 3000
for p in range(3):
    keys = [k for q, k in got if q == p]
    assert keys == sorted(keys), p
consumer.close()
# Transactions are refused at once, not after a time-out.
t = Producer({"bootstrap.servers": servers, "transactional.id": "mine"})
try:
    t.init_transactions(20)
    sys.exit("a transaction was promised")
except Exception as e:
    assert "TRANSACTIONAL_ID_AUTHORIZATION_FAILED" in str(e), e
print("done")
