#!/usr/bin/env python3
"""refuses: says that a move is unwelcome for as long as a file exists, such as the lock of a backup.

    refuses FILE

In /etc/coms/plugins.toml: kind = "execd", notices = true, notice_s = 5, hold_s = 600. A move that is announced meanwhile waits until
the file is gone, for 600 s at most, and no longer than the operator allows.
"""

import json
import os
import select
import sys


def say(**fields):
    print(json.dumps({"v": 1, **fields}), flush=True)


def main():
    lock = sys.argv[1] if len(sys.argv) > 1 else "/run/backup.lock"
    was_busy = None
    while True:
        busy = os.path.exists(lock)
        if busy != was_busy:
            say(bad_moment=f"{lock} exists" if busy else False)
            was_busy = busy
        readable, _, _ = select.select([sys.stdin], [], [], 1.0)
        if not readable:
            continue
        line = sys.stdin.readline()
        if not line:
            return
        event = json.loads(line)
        print(f"refuses: {event.get('event')}", file=sys.stderr, flush=True)
        # Said at once, so that nobody waits for the whole notice.
        if event.get("event") == "notice" and not os.path.exists(lock):
            say(ready=True)


if __name__ == "__main__":
    main()
