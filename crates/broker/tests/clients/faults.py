"""Producers and a consumer group that go on while servers fail. Arguments: addresses, topic, partitions, directory; ends after the file
`stop` is in the directory. Writes one line for each event:
A producer partition sequence offset - acknowledged;  F producer partition sequence error - not delivered;
R partition offset value - read;  C partition offset - committed;  T seconds A R C - how many of each there were until then;  X what - a contradiction."""
import faulthandler, logging, os, random, sys, threading, time
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from kafka import KafkaConsumer
from kafka import TopicPartition as PyPartition
from kafka.structs import OffsetAndMetadata

servers, topic, partitions, directory = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
logging.basicConfig(level=logging.ERROR)
lock, acked, read, out = threading.Lock(), {}, {}, sys.stdout
ended = threading.Event()

counts = {"A": 0, "R": 0, "C": 0}

def say(*words):
    with lock:
        if words[0] in counts: counts[words[0]] += 1
        print(*words, file=out, flush=True)

def tick():
    begun = time.time()
    while True:
        say("T", f"{time.time() - begun:.1f}", counts["A"], counts["R"], counts["C"])
        time.sleep(0.5)

def stopping():
    return os.path.exists(os.path.join(directory, "stop"))

def produce(k):
    p = Producer({"bootstrap.servers": servers, "enable.idempotence": True, "enable.gapless.guarantee": True, "linger.ms": 5,
                  "message.timeout.ms": 0, "socket.timeout.ms": 10000, "topic.metadata.refresh.interval.ms": 5000, "retry.backoff.ms": 50,
                  "reconnect.backoff.max.ms": 500, "client.id": f"producer{k}",
                  "error_cb": lambda e: say("X", f"producer {k}: fatal: {e}") if e.fatal() else None},
                 logger=logging.getLogger("producer"))
    rng, sequences, left = random.Random(k), [0] * partitions, [0]
    def delivered(part, seq):
        def done(e, m):
            left[0] -= 1
            say("F", k, part, seq, e) if e else say("A", k, part, seq, -1 if m.offset() is None else m.offset())
        return done
    while not stopping():
        part = rng.randrange(partitions)
        try:
            p.produce(topic, f"{k}:{sequences[part]}".encode(), partition=part, on_delivery=delivered(part, sequences[part]))
        except BufferError:
            p.poll(0.1)
            continue
        except KafkaException as e:
            say("X", f"producer {k}: {e}")
            break
        left[0] += 1
        sequences[part] += 1
        p.poll(0)
        time.sleep(0.004)
    end = time.time() + 90
    while left[0] and time.time() < end:
        p.flush(1)
    if left[0]:
        say("X", f"producer {k}: {left[0]} records are still not acknowledged")
    say("P", k, *sequences)

def floors(parts):
    with lock:
        return {p: acked.get(p, 0) for p in parts}

def check_start(who, before, found):
    for p, offset in found.items():
        if offset >= 0 and offset < before.get(p, 0):
            say("X", f"{who}: committed offset of partition {p} is {offset}, after {before[p]} was acknowledged")

def note_read(part, offset, value):
    with lock:
        counts["R"] += 1
        print("R", part, offset, value, file=out, flush=True)
        read.setdefault(part, set()).add(offset)

def note_commit(part, offset):
    with lock:
        counts["C"] += 1
        print("C", part, offset, file=out, flush=True)
        acked[part] = max(acked.get(part, 0), offset)

def consume(name):
    c = Consumer({"bootstrap.servers": servers, "group.id": "readers", "auto.offset.reset": "earliest", "enable.auto.commit": False,
                  "session.timeout.ms": 6000, "heartbeat.interval.ms": 500, "client.id": name, "fetch.wait.max.ms": 100,
                  "socket.timeout.ms": 10000, "partition.assignment.strategy": "range", "reconnect.backoff.max.ms": 500,
                  "topic.metadata.refresh.interval.ms": 5000}, logger=logging.getLogger(name))
    def assigned(c, parts):
        before = floors([p.partition for p in parts])
        try:
            found = c.committed(parts, timeout=5)
            check_start(name, before, {p.partition: p.offset for p in found if not p.error})
        except KafkaException:
            pass
    c.subscribe([topic], on_assign=assigned)
    while not ended.is_set():
        batch = c.consume(200, timeout=0.2)
        last = {}
        for m in batch:
            if m.error():
                if m.error().code() not in (KafkaError._PARTITION_EOF,): print("consumer", name, m.error(), file=sys.stderr, flush=True)
                continue
            note_read(m.partition(), m.offset(), m.value().decode())
            last[m.partition()] = m.offset() + 1
        if last:
            try:
                for p in c.commit(offsets=[TopicPartition(topic, p, o) for p, o in last.items()], asynchronous=False):
                    if not p.error: note_commit(p.partition, p.offset)
            except KafkaException as e:
                print("commit", name, e, file=sys.stderr, flush=True)
    c.close()

def consume_python():
    while not ended.is_set():
        c = None
        try:
            c = KafkaConsumer(topic, bootstrap_servers=servers.split(","), group_id="readers", auto_offset_reset="earliest",
                              enable_auto_commit=False, session_timeout_ms=6000, heartbeat_interval_ms=500, client_id="py",
                              request_timeout_ms=10000, metadata_max_age_ms=5000)
            while not ended.is_set():
                for tp, records in c.poll(timeout_ms=200, max_records=200).items():
                    for m in records:
                        note_read(m.partition, m.offset, m.value.decode())
                    offset = records[-1].offset + 1
                    try:
                        c.commit({tp: OffsetAndMetadata(offset, "", -1)}, timeout_ms=5000)
                        note_commit(tp.partition, offset)
                    except Exception as e:
                        print("commit py", repr(e), file=sys.stderr, flush=True)
        except Exception as e:
            print("consumer py", repr(e), file=sys.stderr, flush=True)
            time.sleep(0.5)
        finally:
            if c is not None:
                try: c.close(autocommit=False)
                except Exception as e: print("close py", repr(e), file=sys.stderr, flush=True)

producers = [threading.Thread(target=produce, args=(k,), daemon=True) for k in range(2)]
readers = [threading.Thread(target=consume, args=(f"c{i}",), daemon=True) for i in range(2)] + [threading.Thread(target=consume_python, daemon=True)]
for t in producers + readers: t.start()
threading.Thread(target=tick, daemon=True).start()
for t in producers: t.join()
look = Consumer({"bootstrap.servers": servers, "group.id": "looker"})
end, wanted, state = time.time() + 90, None, None
while time.time() < end:
    try:
        wanted = {p: look.get_watermark_offsets(TopicPartition(topic, p), timeout=5)[1] for p in range(partitions)}
        with lock: state = {p: acked.get(p, 0) for p in range(partitions)}
        if wanted == state: break
    except KafkaException as e:
        print("watermarks", e, file=sys.stderr, flush=True)
    time.sleep(0.2)
if wanted != state: say("X", f"the group has committed {state} of {wanted}")
for p, end_offset in (wanted or {}).items():
    missing = sorted(set(range(end_offset)) - read.get(p, set()))
    if missing: say("X", f"partition {p}: {len(missing)} records were not read by the group, the first at {missing[0]}")
ended.set()
faulthandler.dump_traceback_later(40, exit=True)
for t in readers: t.join(15)
say("done")
os._exit(0)
