"""HTTP on 127.0.0.1: AWS's calls to the gateway, /_cloud/ to the control plane.

Invariant: every connection has a thread of its own, and the world's lock is never held while a connection is read
or written, so one that hangs holds up nobody else.
"""

import json
import select
import socket
import struct
import sys
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import calls
from control import Control
from errors import internal_error, render
from gateway import Gateway

_LOOK_EVERY_S = 0.2


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, world, port):
        super().__init__(("127.0.0.1", port), _Handler)
        self.world = world
        self.gateway = Gateway(world)
        self.control = Control(world)

    def handle_error(self, request, client_address):
        # A client that goes away in the middle is everyday in tests of exactly that.
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            traceback.print_exc()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Small answers at once: every call is a round trip.
    disable_nagle_algorithm = True

    def _handle(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        raw_path, _, query = self.path.partition("?")
        path = unquote(raw_path)
        if path.startswith("/_cloud/"):
            status, answer = self.server.control.answer(self.command, path, query, body)
            return self._send(status, [("Content-Type", "application/json")], json.dumps(answer).encode())
        headers = {k.lower(): v for k, v in self.headers.items()}
        try:
            call = calls.parse(self.command, path, query, headers, body)
        except Exception:
            traceback.print_exc()
            status, kind, body = render(internal_error(), "ec2")
            return self._send(status, [("Content-Type", kind)], body)
        answer = self.server.gateway.answer(call)
        if answer.end == "hang":
            self._wait_for_end()
        if answer.end:
            return self._reset()
        self._send(answer.status, answer.headers, answer.body)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _handle

    def _send(self, status, headers, body):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _wait_for_end(self):
        """Says nothing until the client goes or the server ends."""
        while not self.server.world.ending.is_set():
            if select.select([self.connection], [], [], 0)[0] and self._gone():
                return
            time.sleep(_LOOK_EVERY_S)

    def _gone(self):
        try:
            return not self.connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

    def _reset(self):
        """Breaks the connection off, so that the client sees a reset and not an end."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # The file that reads holds the connection open otherwise.
        self.rfile.close()
        self.connection.close()

    def finish(self):
        try:
            super().finish()
        except (OSError, ValueError):
            pass

    def date_time_string(self, timestamp=None):
        """What the header `Date` says: this cloud's clock."""
        skew = float(self.server.world.settings.clock_skew_s)
        return super().date_time_string((time.time() if timestamp is None else timestamp) + skew)

    def log_message(self, format, *args):
        pass
