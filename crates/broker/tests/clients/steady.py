"""An idempotent producer and a consumer of a group that live through failovers.

steady.py SERVERS TOPIC STOP: produces numbers with acks=all until the file STOP is there, and consumes them as they come. Every number must
be acknowledged, and be consumed once and in order.
"""
import os
import sys
import threading
import time

from confluent_kafka import Consumer, Producer

servers, topic, stop = sys.argv[1:]
failures, total, seen = [], [None], []


def delivered(error, message):
    if error is not None:
        failures.append(f"{message.value()}: {error}")


def produce():
    producer = Producer({"bootstrap.servers": servers, "enable.idempotence": True, "linger.ms": 2, "batch.size": 4000, "on_delivery": delivered,
                         "topic.metadata.refresh.interval.ms": 5000, "reconnect.backoff.max.ms": 500})
    n = 0
    while not os.path.exists(stop) and not failures:
        producer.produce(topic, str(n).encode(), partition=0)
        n += 1
        producer.poll(0.003)
    left = producer.flush(90)
    if left:
        failures.append(f"{left} of {n} are not acknowledged")
    total[0] = n


thread = threading.Thread(target=produce)
thread.start()
consumer = Consumer({"bootstrap.servers": servers, "group.id": "steady", "auto.offset.reset": "earliest", "auto.commit.interval.ms": 200,
                     "session.timeout.ms": 10000, "reconnect.backoff.max.ms": 500})
consumer.subscribe([topic])
end = None
while not failures and (total[0] is None or len(seen) < total[0]):
    if total[0] is not None:
        end = end or time.time() + 60
        if time.time() > end:
            break
    message = consumer.poll(0.2)
    if message is None:
        continue
    if message.error():
        print("consumer:", message.error(), flush=True)
        continue
    n = int(message.value())
    # After a rebalance what was read but not committed comes again.
    if n < len(seen):
        continue
    if n != len(seen):
        failures.append(f"{n} comes after {len(seen) - 1}")
    seen.append(n)
thread.join()
consumer.close()
assert not failures, failures[:5]
assert len(seen) == total[0] > 0, f"{len(seen)} of {total[0]} are consumed"
print(total[0], "records")
print("done")
