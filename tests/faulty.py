"""Broken lines: a proxy in front of a loopback Hub that cuts, resets or delays a connection at a byte."""

import contextlib
import socket
import struct
import threading
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from tests.minihub import MiniHub


@dataclass
class Break:
    """
    Args:
        after: this many bytes towards "server" or "client" in one connection.
        how: "cut" closes, "reset" resets, "slow" pauses for `seconds`.
    """

    towards: str
    after: int
    how: str = "cut"
    seconds: float = 0.0


class Proxy:
    """Forwards one port; `breaks` happen in order, each on the first connection that has bytes in its direction."""

    def __init__(self, target: str):
        self.host, self.port = urlsplit(target).hostname, urlsplit(target).port
        self.breaks: list[Break] = []
        self.broken, self.lock = 0, threading.Lock()
        self.server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.server.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.server.accept()
            except OSError:
                return
            upstream = socket.create_connection((self.host, self.port))
            for end in (client, upstream):  # or each small piece waits 40 ms for the answer to the one before
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
            for source, target, towards in ((client, upstream, "server"), (upstream, client, "client")):
                threading.Thread(target=self.pump, args=(source, target, towards), daemon=True).start()

    def next_break(self, towards: str) -> Break | None:
        with self.lock:
            return self.breaks.pop(0) if self.breaks and self.breaks[0].towards == towards else None

    def pump(self, source: socket.socket, target: socket.socket, towards: str):
        fault, seen = None, 0
        try:
            while data := source.recv(1 << 16):
                if fault is None:  # connections live long: one that is open already can break too
                    fault, seen = self.next_break(towards), 0
                if fault is not None and seen + len(data) > fault.after:
                    target.sendall(data[: max(0, fault.after - seen)])
                    self.broken += 1
                    if fault.how != "slow":
                        return
                    time.sleep(fault.seconds)
                    target.sendall(data[max(0, fault.after - seen) :])
                    fault = None
                else:
                    target.sendall(data)
                seen += len(data)
        except OSError:
            pass
        finally:
            for end in (source, target):
                with contextlib.suppress(OSError):
                    if fault is not None and fault.how == "reset":
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    end.shutdown(socket.SHUT_RDWR)  # wakes the other direction, which holds the socket open
                with contextlib.suppress(OSError):
                    end.close()

    def close(self):
        self.server.close()


def strict(handler: type) -> type:
    """A server that does nothing with half a request, as servers do, and says nothing of broken lines."""

    class Strict(handler):  # type: ignore[misc, valid-type]
        def body(self):
            data, length = super().body(), int(self.headers.get("Content-Length") or 0)
            if len(data) < length:
                self.close_connection = True
                raise ConnectionAbortedError("half a request")
            return data

        def handle(self):
            with contextlib.suppress(OSError):
                super().handle()

        def finish(self):
            with contextlib.suppress(OSError):
                super().finish()

    return Strict


class FaultyHub(MiniHub):
    """A MiniHub whose two ports, of the Hub and of its storage, are reached through proxies."""

    def __init__(self, **settings):
        super().__init__(**settings)
        for server in self.servers:
            server.RequestHandlerClass = strict(server.RequestHandlerClass)
        self.line, self.store = Proxy(self.url), Proxy(self.cdn)
        self.url, self.cdn = self.line.url, self.store.url

    def stop(self):
        self.line.close()
        self.store.close()
        super().stop()
