#!/usr/bin/env python3
"""good: how long it takes to connect to a service, in Python. Put your own measurement in place of `measure`.

One JSON object per line on standard output; messages for people on standard error. It ends when its standard input does.

    good [HOST [PORT]]
"""

import json
import select
import socket
import sys
import time

INTERVAL_S = 5.0


def measure(host, port):
    """Returns seconds; an OSError is a failed measurement."""
    begun = time.monotonic()  # a clock that nobody sets
    with socket.create_connection((host, port), timeout=5):
        return time.monotonic() - begun


def main():
    host = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1"
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 80
    due = time.monotonic()
    while True:
        readable, _, _ = select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))
        if readable:
            if not sys.stdin.readline():
                return
            continue
        due = max(due + INTERVAL_S, time.monotonic())
        try:
            sample = {"latency_ms": measure(host, port) * 1000}
        except OSError as error:
            sample = {"failed": str(error)}
        print(json.dumps({"v": 1, **sample}), flush=True)


if __name__ == "__main__":
    main()
