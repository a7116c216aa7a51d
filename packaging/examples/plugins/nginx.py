#!/usr/bin/env python3
"""nginx: how long a request takes, what nginx has served since, and the clients of its access log.

    nginx [URL [STATUS-URL [ACCESS-LOG]]]

STATUS-URL is a location with `stub_status;`. The plugin's user must be able to read the log (on Debian: add it to the group adm).
Clients count by what was sent to them; the log is in the format `combined`.
"""

import collections
import json
import os
import sys
import time
import urllib.request

INTERVAL_S = 2.0


def fetch(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode("ascii", "replace")


def served(status):
    """The third number of the line below `server accepts handled requests`."""
    lines = iter(status.splitlines())
    for line in lines:
        if line.startswith("server accepts handled requests"):
            return int(next(lines).split()[2])
    raise ValueError("the status URL is none of stub_status")


class Log:
    """What was added to the log since the last look, at most 1 MiB of it; also across a rotation."""

    def __init__(self, path):
        self.path = path
        self.place = (0, 0)
        self.place = self.look()[0]

    def look(self):
        with open(self.path, "rb") as file:
            info = os.fstat(file.fileno())
            inode, at = self.place
            if inode != info.st_ino or at > info.st_size:
                at = 0
            at = max(at, info.st_size - (1 << 20))
            file.seek(at)
            text = file.read(1 << 20)
        whole = text[: text.rfind(b"\n") + 1]
        return (info.st_ino, at + len(whole)), whole.decode("utf-8", "replace").splitlines()

    def added(self):
        self.place, lines = self.look()
        return lines


def of_log(lines):
    clients, errors = collections.Counter(), 0
    for line in lines:
        quoted = line.split('"')
        if len(quoted) < 3:
            continue
        status, size = (quoted[2].split() + ["0", "0"])[:2]
        errors += status.startswith("5")
        clients[line.split(" ", 1)[0]] += max(1, int(size) if size.isdigit() else 1)
    return clients, errors


def main():
    url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1/"
    status_url = sys.argv[2] if len(sys.argv) > 2 else None
    log = Log(sys.argv[3]) if len(sys.argv) > 3 else None
    before = None
    while True:
        try:
            begun = time.monotonic()
            fetch(url)
            sample = {"latency_ms": (time.monotonic() - begun) * 1000}
            if status_url:
                now = served(fetch(status_url))
                if before is not None and now >= before:
                    sample["requests"] = now - before
                    sample["throughput_per_s"] = (now - before) / INTERVAL_S
                before = now
            if log:
                clients, errors = of_log(log.added())
                sample["errors"] = min(errors, sample.get("requests", errors))
                if clients:
                    sample["clients"] = [{"address": a, "weight": w} for a, w in clients.most_common(64)]
        except (OSError, ValueError, LookupError) as error:
            sample, before = {"failed": str(error)}, None
        print(json.dumps({"v": 1, **sample}), flush=True)
        time.sleep(INTERVAL_S)


if __name__ == "__main__":
    main()
