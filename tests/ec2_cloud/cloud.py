"""An EC2 cloud for tests: moto's EC2 in this process, and around it what moto lacks of AWS's behaviour.

    python cloud.py --port 0 [--work DIR] [--pair IMAGE] [--region REGION]

Listens on 127.0.0.1 only and prints one line of JSON, {"endpoint": "http://127.0.0.1:PORT"}, once it is ready. Ends
on SIGTERM, SIGINT and when its standard input ends, so that a test that dies leaves nothing behind.

Invariant: when this process has ended by one of these ways, no container, volume or network of it is left.
"""

import argparse
import json
import os
import signal
import threading

# One account, whoever signs; moto reads this when it is imported.
os.environ["MOTO_ACCOUNT_ID"] = "123456789012"

import account
import machines
import resources
import states
from server import Server
from world import World


def main():
    options = _options()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    threading.Thread(target=_watch_input, args=(ended,), daemon=True).start()
    world = World(options.region)
    account.install(world)
    world.births = resources.Births(world.settings)
    world.states = states.States(world)
    world.machines = _machines(world, options)
    server = Server(world, options.port)
    try:
        world.backend()
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        print(json.dumps({"endpoint": f"http://127.0.0.1:{server.server_address[1]}"}), flush=True)
        ended.wait()
    finally:
        world.ending.set()
        server.shutdown()
        world.machines.close()


def _options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--work", metavar="DIR", help="directory for what the instances' boots say")
    parser.add_argument("--pair", metavar="IMAGE", help="make every instance a container of this image")
    parser.add_argument("--region", default="us-east-1")
    return parser.parse_args()


def _machines(world, options):
    if not options.pair:
        return machines.NoMachines()
    from pairing import Containers

    return Containers(world, options.pair, options.work)


def _watch_input(ended):
    """The end of standard input is the end of whoever started this."""
    # Not by way of sys.stdin, whose lock a thread that waits would hold when Python ends.
    while os.read(0, 4096):
        pass
    ended.set()


if __name__ == "__main__":
    main()
