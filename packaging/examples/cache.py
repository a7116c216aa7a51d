#!/usr/bin/env python3
"""An application in Python that is asked about moves: it writes its cache to disk before each.

    cache.py [SOCKET [FILE]]

One JSON object per line, both ways, on the agent's socket. Registered is who keeps the connection open; it is not
waited for once it hangs up, and answering nothing is ready when the notice time (here 5 s) is over.
"""

import json
import socket
import sys
import threading


class Agent:
    def __init__(self, path):
        self.stream = socket.socket(socket.AF_UNIX)
        self.stream.connect(path)
        self.lines = self.stream.makefile("r", encoding="utf-8")

    def say(self, command, **fields):
        self.stream.sendall(json.dumps({"command": command, **fields}).encode() + b"\n")

    def hear(self):
        line = self.lines.readline()
        return json.loads(line) if line else None


def flush(agent, file, migration, cache):
    """Takes as long as it takes; the move is held meanwhile, for 30 s at most."""
    with open(file, "w", encoding="utf-8") as out:
        json.dump(cache, out)
    agent.say("ready", migration=migration)


def main():
    path = sys.argv[1] if len(sys.argv) > 1 else "/run/coms/agent.sock"
    file = sys.argv[2] if len(sys.argv) > 2 else "/var/tmp/cache.json"
    cache = {"answer": 42}
    agent = Agent(path)
    agent.say("register", name="cache", notice_s=5, hold_s=30)
    while (heard := agent.hear()) is not None:
        if heard.get("ok") is False:
            print("cache: refused:", heard["error"], file=sys.stderr)
        simulated = " (simulated)" if heard.get("simulated") else ""
        match heard.get("event"):
            case "notice":
                migration = heard["migration"]
                if heard.get("hold_up_to_ms", 0) > 0:
                    agent.say("hold", migration=migration, for_s=30)
                threading.Thread(target=flush, args=(agent, file, migration, cache), daemon=True).start()
            case "completed":
                where = heard.get("to", {}).get("region", "?")
                print(f"cache: moved{simulated}, now in {where}", flush=True)
            case "failed" | "cancelled":
                print(f"cache: stays here{simulated}", flush=True)


if __name__ == "__main__":
    main()
