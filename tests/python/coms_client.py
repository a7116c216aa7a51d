#!/usr/bin/env python3
"""A small agent for the port org.coms.agent.0: the example to protocol/PROTOCOL.md, whose sections its comments name.

    coms_client.py status                 where am I, may I take part
    coms_client.py migrate --wait         ask to be moved, wait for the final answer
    coms_client.py watch                  everything that happens
    coms_client.py ping --count 10        round trips

Prints one JSON object per event. Exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 no port, no host or no
answer in time. Python 3.9 or later, standard library only.
"""
import argparse
import errno
import json
import os
import select
import signal
import sys
import time

from coms_wire import (ACK, HEARTBEAT, HELLO, KEPT, MESSAGES, NUMBERS, STRUCTS, WITHDRAWN, Deframer, Malformed,
                       body_of, frame, header_of, put_fields, put_varint, take_fields)

NAME = "coms_client.py 0.1"


# --- 5. and 6. Handshake and session: bytes and time in, events and bytes out. Times in seconds.
class Session:
    def __init__(self, epoch, hello):
        self.me, self.hello = epoch, hello  # hello() gives the GuestHello of that moment
        self.state, self.peer, self.former = "down", 0, {}
        self.heard, self.greeted, self.owed = 0, False, False
        self.queue, self.next_seq, self.in_flight, self.sent = [], 1, 0, 0  # queue: [seq, number, payload]
        self.once, self.events, self.frames = [], [], Deframer()
        self.greet_due = self.resend_due = None
        self.greet_wait, self.resend_wait, self.last_greeting = 0.2, 0.3, -1.0
        self.last_sent = self.last_heard = 0.0

    def send(self, name, **value):
        number = NUMBERS[name]
        payload = put_fields(MESSAGES[number][1], value)
        if number in KEPT:
            self.queue.append([self.next_seq, number, payload])
            self.next_seq += 1
        elif self.state == "established":
            self.once.append((number, payload))

    def waits(self, name):
        return any(number == NUMBERS[name] for _, number, _ in self.queue)

    def take_back(self, name):
        for message in self.queue[self.sent:]:
            if message[1] == NUMBERS[name]:
                message[1:] = [WITHDRAWN, b""]

    def link_up(self, now):
        self.begin_greeting(now)
        self.last_heard = now

    def link_down(self):
        self.lose("down")
        self.greet_due = None

    def begin_greeting(self, now):
        self.lose("greeting")
        self.greet_wait = 0.2
        self.greet_soon(now)

    def lose(self, state):
        if self.state == "established":
            self.events.append(("lost", {}))
        if state == "down" or self.state == "down":
            self.frames = Deframer()
        self.state, self.in_flight, self.resend_due, self.resend_wait = state, 0, None, 0.3
        self.greeted, self.owed, self.once = False, False, []

    def greet_soon(self, now):
        due = max(now, self.last_greeting + 0.02)
        self.greet_due = due if self.greet_due is None else min(due, self.greet_due)

    def receive(self, now, data):
        for body in self.frames.bodies(data) if self.state != "down" else ():
            try:
                self.frame(now, *header_of(body))
            except Malformed:
                pass

    def frame(self, now, number, sender, to, seq, ack, payload):
        if sender in (0, self.me):
            return
        if number == HELLO:
            return self.hear_hello(now, sender, to, seq, ack, payload)
        if sender != self.peer or to != self.me or self.state != "established":
            return self.greet_soon(now)
        self.last_heard = now
        self.acknowledged(now, ack)
        if seq:
            self.owed = True
            if seq != self.heard + 1:
                return
            self.heard = seq
        if number in MESSAGES:
            name, names = MESSAGES[number]
            self.events.append((name, take_fields(names, payload)[0]))

    def hear_hello(self, now, sender, to, seq, ack, payload):
        low, high = (int.from_bytes(payload[i:i + 2], "little") for i in (4, 6))
        if payload[:4] != b"COMS" or len(payload) < 8 or low > high:
            return
        common = low <= 1 <= high
        body = take_fields(STRUCTS["HostHello"], payload, 8)[0] if common else None
        self.last_heard = now
        if sender != self.peer:
            self.former[self.peer] = self.heard
            self.former = dict(list(self.former.items())[-16:])
            self.peer, self.heard, self.sent = sender, self.former.pop(sender, 0), 0
            self.begin_greeting(now)
        if not common:
            if self.state != "incompatible":
                self.lose("incompatible")
                self.greet_wait = 10.0
                self.greet_soon(now)
                self.events.append(("incompatible", {"min": low, "max": high}))
            return
        self.heard = max(self.heard, seq - 1)
        answer = ack == 0 or to != self.me or not self.greeted
        if answer:
            self.greet_soon(now)
        if to == self.me and self.state != "established":
            self.state, self.last_sent = "established", now
            if not answer:
                self.greet_due = None
            self.events.append(("connected", {"epoch": f"{sender:016x}", **body}))

    def acknowledged(self, now, ack):
        done = ack - self.queue[0][0] + 1 if self.queue else 0
        if 0 < done <= self.sent:
            del self.queue[:done]
            self.sent, self.in_flight, self.resend_wait = self.sent - done, max(0, self.in_flight - done), 0.3
            self.resend_due = now + 0.3 if self.in_flight else None

    def next_timeout(self):
        due = [self.greet_due]
        if self.state == "established":
            due += [self.resend_due, self.last_sent + 15, self.last_heard + 50]
        return min((t for t in due if t is not None), default=None)

    def transmit(self, now, unix_us):
        """Call it when what receive() brought has been acted on and saved, and at next_timeout()."""
        out = b""
        if self.state == "established" and now >= self.last_heard + 50:
            self.begin_greeting(now)
        elif self.state == "established" and self.resend_due is not None and now >= self.resend_due:
            self.in_flight, self.resend_due, self.resend_wait = 0, None, min(self.resend_wait * 2, 5.0)
            if self.resend_wait == 5.0:
                self.greet_soon(now)
        if self.greet_due is not None and now >= self.greet_due:
            out += self.write_hello(now)
        if self.state != "established" or self.greet_due is not None:
            return out
        for number, payload in self.once:
            out += self.write(now, number, 0, payload)
        self.once = []
        while self.in_flight < min(16, len(self.queue)):
            seq, number, payload = self.queue[self.in_flight]
            out += self.write(now, number, seq, payload)
            self.in_flight += 1
            self.sent = max(self.sent, self.in_flight)
            self.resend_due = self.resend_due or now + self.resend_wait
        if self.owed:
            out += self.write(now, ACK, 0)
        if now >= self.last_sent + 15:
            out += self.write(now, HEARTBEAT, 0, put_varint(unix_us))
        return out

    def write(self, now, number, seq, payload=b""):
        self.last_sent, self.owed = now, False
        return frame(body_of(number, self.me, self.peer, seq, self.heard, payload))

    def write_hello(self, now):
        self.last_sent = self.last_greeting = now
        self.greeted = self.peer != 0
        met = self.state == "established"
        self.greet_due = None if met else now + self.greet_wait
        self.greet_wait = self.greet_wait if met else min(self.greet_wait * 2, 10.0)
        payload = b"COMS\1\0\1\0" + put_fields(STRUCTS["GuestHello"], self.hello())
        first = self.queue[0][0] if self.queue else self.next_seq
        return frame(body_of(HELLO, self.me, self.peer, first, int(met), payload))


# --- 7. The life of a request.
class Agent:
    def __init__(self, path, emit):
        self.path, self.emit = path, emit
        self.request, self.migration, self.ended, self.answer = None, None, {}, None
        try:
            with open(path) as file:
                self.request, self.migration, self.ended = json.load(file)
        except FileNotFoundError:
            pass
        self.session = Session(int.from_bytes(os.urandom(8), "little") or 1, self.hello)

    def hello(self):
        waiting = [{"request": self.request["id"], "migration": self.migration}] if self.request else []
        return {"agent": NAME, "waiting": waiting}

    def save(self):
        self.ended = dict(list(self.ended.items())[-64:])
        with open(self.path + ".new", "w") as file:
            json.dump([self.request, self.migration, self.ended], file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(self.path + ".new", self.path)

    def ask(self, wishes):
        self.request = {"id": int.from_bytes(os.urandom(8), "little"), "reason": "manual", "evidence": [],
                        "wishes": wishes}
        self.save()
        self.session.send("request", **self.request)
        self.emit("asked", request=self.request["id"])

    def hear(self, name, m):
        mine = self.request is not None and m.get("request") == self.request["id"]
        if name in ("accepted", "already_running"):
            if mine and m["migration"] in self.ended:
                return self.final(self.ended[m["migration"]], m)
            if not mine or self.migration == m["migration"]:
                return
            self.migration = m["migration"]
            self.save()
        elif name == "denied":
            return self.final(name, m) if mine else None
        elif name == "resend":
            if not mine:
                return
            if not self.session.waits("request"):
                self.migration = None
                self.save()
                self.session.send("request", **self.request)
        elif name in ("completed", "failed", "cancelled"):
            mine = mine or self.request is not None and m["migration"] == self.migration
            before = self.ended.get(m["migration"])
            outranks = name == "completed" and before != "completed"
            if before is None or outranks:
                self.ended[m["migration"]] = name
            if mine:
                return self.final(self.ended[m["migration"]], m)
            if before is not None and not outranks:
                return
            self.save()
        elif name in ("notice", "progress") and m["migration"] in self.ended:
            return
        self.emit(name, **m)

    def final(self, name, m):
        answered, self.request, self.migration, self.answer = self.request["id"], None, None, name
        self.save()
        self.emit(name, **{**m, "answers": answered})


# --- 1. The port.
class Port:
    def __init__(self, path):
        self.path, self.fd, self.up, self.look, self.absent_since, self.unsent = path, None, False, 0.0, 0.0, b""

    def close(self, now):
        os.close(self.fd)
        self.fd, self.up, self.look = None, False, now + 1

    def gone(self, now):
        """Nobody at the other end, for the moment."""
        if self.up or not self.absent_since:
            self.absent_since = now
        self.up, self.unsent = False, b""
        self.look = now + (0.1 if now - self.absent_since < 60 else 1)

    def read(self, now):
        """Bytes, or None when there are none; sets `up`."""
        try:
            if self.fd is None:
                self.fd = os.open(self.path, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY)
            data = os.read(self.fd, 4096)
        except BlockingIOError:
            self.up = True
            return None
        except OSError as e:
            if self.fd is not None and e.errno in (errno.ENODEV, errno.ENXIO):
                self.close(now)
            elif self.fd is not None:
                self.gone(now)
            else:
                self.look = now + 1
            return None
        if not data:
            return self.gone(now)
        self.up = True
        return data

    def write(self, data):
        self.unsent += data
        try:
            while self.unsent:
                self.unsent = self.unsent[os.write(self.fd, self.unsent):]
        except OSError:
            pass  # EAGAIN: later; anything else shows when reading

    def wait(self, now, until):
        if not self.up:
            return time.sleep(max(0, min(self.look, until) - now))
        poll = select.poll()
        poll.register(self.fd, select.POLLIN | (select.POLLOUT if self.unsent else 0))
        poll.poll(max(0, until - now) * 1000 + 1)


def run(agent, port, done, deadline):
    """Lives until done(now) gives an exit status, or the deadline passes."""
    session = agent.session
    while True:
        now = time.monotonic()
        was_up, data = port.up, None
        if port.up or now >= port.look:
            data = port.read(now)
        if port.up != was_up:
            session.link_up(now) if port.up else session.link_down()
        if data:
            session.receive(now, data)
        while session.events:
            name, value = session.events.pop(0)
            agent.hear(name, value)
        status = done(now)
        if port.up and not port.unsent:
            port.write(session.transmit(now, time.time_ns() // 1000))
        if status is not None and not port.unsent:
            return status
        if now >= deadline:
            return 3
        if not data:
            port.wait(now, min(session.next_timeout() or now + 1, deadline, now + 1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", default="/dev/virtio-ports/org.coms.agent.0")
    parser.add_argument("--state", default="/var/lib/coms/python-client.json", help="what must survive a restart")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds; default %(default)s")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("status")
    commands.add_parser("watch")
    commands.add_parser("ping").add_argument("--count", type=int, default=1)
    migrate = commands.add_parser("migrate")
    migrate.add_argument("--wait", action="store_true", help="until the final answer; exit 0 only if moved")
    migrate.add_argument("--linger", type=float, default=0.5, help="live on for so many seconds afterwards")
    migrate.add_argument("--region")
    migrate.add_argument("--avoid-this-host", action="store_true")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    begun = time.monotonic()
    seen, over = {}, []

    def emit(event, **value):
        seen[event] = seen.get(event, 0) + 1
        print(json.dumps({"event": event, "at_ms": round((time.monotonic() - begun) * 1000), **value}), flush=True)
        if event == "pong" and seen[event] < args.count:
            agent.session.send("ping", number=seen[event] + 1)

    agent = Agent(args.state, emit)
    if args.command == "migrate" and agent.request is None:
        agent.ask({"region": args.region, "avoid_this_host": args.avoid_this_host, "deadline_s": None,
                   "max_downtime_ms": None, "never": []})
    if args.command == "ping":
        agent.session.send("ping", number=1)

    def done(now):
        if args.command == "status":
            return 0 if "connected" in seen else None
        if args.command == "ping":
            return 0 if seen.get("pong", 0) >= args.count else None
        if args.command == "watch":
            return None
        if agent.answer or not args.wait and not agent.session.waits("request"):
            over[:] = over or [now + args.linger]
        return (1 if agent.answer not in (None, "completed") else 0) if over and now >= over[0] else None

    return run(agent, Port(args.port), done, begun + (args.timeout if args.command != "watch" else float("inf")))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(1)
