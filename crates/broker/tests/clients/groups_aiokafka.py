"""Groups with aiokafka against a cluster of three; its addresses are the only argument."""
import asyncio, sys, time
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

servers = sys.argv[1]

async def main():
    producer = AIOKafkaProducer(bootstrap_servers=servers)
    await producer.start()
    async def produce(n):
        for i in range(n):
            await producer.send_and_wait("orders", str(i).encode(), partition=i % 3)
    await produce(90)
    got, parts = {}, {}

    async def member(name, **more):
        c = AIOKafkaConsumer("orders", bootstrap_servers=servers, group_id="reader", auto_offset_reset="earliest", **more)
        await c.start()
        async def read():
            async for m in c:
                assert (m.partition, m.offset) not in got, "twice"
                got[m.partition, m.offset] = name
        return c, asyncio.create_task(read())

    async def wait(until, what):
        end = time.time() + 60
        while not until():
            assert time.time() < end, what
            await asyncio.sleep(0.05)

    async def leave(c, task):
        task.cancel()
        try: await task
        except asyncio.CancelledError: pass
        await c.stop()

    a, read_a = await member("a")
    await wait(lambda: len(got) == 90 and len(a.assignment()) == 3, "one has all")
    b, read_b = await member("b")
    await wait(lambda: sorted(len(c.assignment()) for c in (a, b)) == [1, 2], "two share")
    await produce(90)
    await wait(lambda: len(got) == 180, "each record once")
    assert set(got.values()) == {"a", "b"}
    await leave(b, read_b)
    await wait(lambda: len(a.assignment()) == 3, "the other has all")
    await leave(a, read_a)
    again = AIOKafkaConsumer(bootstrap_servers=servers, group_id="reader")
    await again.start()
    assert [await again.committed(TopicPartition("orders", p)) for p in range(3)] == [60] * 3
    await again.stop()
    await producer.stop()

asyncio.run(main())
print("done")
