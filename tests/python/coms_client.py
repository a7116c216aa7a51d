#!/usr/bin/env python3
"""A small client of the guest-host protocol, version 1, written from protocol/PROTOCOL.md alone, whose section numbers
(§) it names. It asks; it does not measure, and it does not cancel.

    coms_client.py status                 where am I, may I take part
    coms_client.py migrate --wait         ask to be moved, wait for the final answer
    coms_client.py watch                  everything that happens
    coms_client.py ping --count 10        round trips

Prints one JSON object per event. Exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 no port, no host or no
answer in time. Python 3.9 or later, standard library only.
"""
import argparse
import errno
import glob
import json
import math
import os
import secrets
import select
import stat
import sys
import time
from collections import OrderedDict

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import coms_wire as wire  # noqa: E402

NAME = "coms_client.py 0.1"
DOWN, GREETING, ESTABLISHED, INCOMPATIBLE = "down", "greeting", "established", "incompatible"  # §5
HELLO_GAP, GREET_FIRST, GREET_MOST = 0.02, 0.2, 10.0           # §5, seconds
WINDOW, RESEND_FIRST, RESEND_MOST, FORMER = 16, 0.3, 5.0, 16   # §6
HEARTBEAT_AFTER, SILENCE = 15.0, 50.0                          # §6
ENDED = 64                                                     # §7.7
QUIET = 1.0  # stay this long behind the last kept message: a lost acknowledgement is asked for again after 0.3 s


class Session:
    """§5, §6: without a port and without a clock. `waiting()` is what a hello names; `met(body)` is called with
    the host's hello that establishes; `act(number, payload)` must save and tell before it returns."""

    def __init__(self, waiting, met, act):
        self.waiting, self.met, self.act = waiting, met, act
        self.epoch = secrets.randbits(64) or 1
        self.state, self.peer, self.heard = DOWN, 0, 0
        self.former = OrderedDict()   # epoch -> how far it got
        self.queue, self.next_seq = [], 1  # kept and not acknowledged: (seq, number, payload)
        self.once = []
        self.hello_soon, self.hello_at, self.greet_after, self.last_hello = False, None, GREET_FIRST, -math.inf
        self.last_sent = self.last_heard = self.last_kept = 0.0
        self.new_peer()

    def new_peer(self):
        self.sent = 0  # the highest number that this peer was sent: it may acknowledge no more
        self.nothing_in_flight()

    def nothing_in_flight(self):
        self.flight, self.resend_at, self.resend_after = 0, None, RESEND_FIRST
        self.owed, self.greeted = False, False
        self.once.clear()

    # ---- the port ----
    def up(self, now):
        self.nothing_in_flight()
        self.state, self.hello_at, self.greet_after = GREETING, now, GREET_FIRST

    def down(self):
        self.nothing_in_flight()
        self.state, self.hello_at, self.hello_soon = DOWN, None, False

    # ---- sending ----
    def keep(self, name, fields):
        number = wire.NUMBERS[name]
        self.queue.append((self.next_seq, number, wire.encode(number, fields)))
        self.next_seq += 1

    def next_frame(self, now):
        """The next bytes to write, or None."""
        if self.state == ESTABLISHED and now - self.last_heard >= SILENCE:
            self.up(now)
        if self.resend_at is not None and now >= self.resend_at:  # §6 sending: all again, from the oldest on
            self.flight, self.resend_after = 0, min(self.resend_after * 2, RESEND_MOST)
            self.hello_soon |= self.resend_after >= RESEND_MOST
            self.resend_at = now + self.resend_after
        if self.hello_soon or self.hello_at is not None and now >= self.hello_at:
            return self._hello(now) if now - self.last_hello >= HELLO_GAP else None
        if self.state != ESTABLISHED:
            return None
        for seq, number, payload in self.queue[:WINDOW]:
            if seq > self.flight:
                self.flight, self.sent = seq, max(self.sent, seq)
                if self.resend_at is None:
                    self.resend_at = now + self.resend_after
                return self._frame(now, number, seq, payload)
        if self.once:
            return self._frame(now, *self.once.pop(0))
        if self.owed:
            return self._frame(now, wire.ACK)
        if now - self.last_sent >= HEARTBEAT_AFTER:
            return self._frame(now, wire.HEARTBEAT, 0, wire.varint(int(time.time() * 1e6)))
        return None

    def _frame(self, now, number, seq=0, payload=b""):
        self.last_sent, self.owed = now, False
        return wire.frame(wire.Header(number, self.epoch, self.peer, seq, self.heard).encode() + payload)

    def _hello(self, now):
        if self.state in (GREETING, INCOMPATIBLE):  # any hello counts as one of the timetable
            self.hello_at = now + (GREET_MOST if self.state == INCOMPATIBLE else self.greet_after)
            self.greet_after = min(self.greet_after * 2, GREET_MOST)
        self.hello_soon, self.greeted, self.last_hello, self.last_sent = False, True, now, now
        oldest = self.queue[0][0] if self.queue else self.next_seq
        header = wire.Header(wire.HELLO, self.epoch, self.peer, oldest, int(self.state == ESTABLISHED))
        return wire.frame(header.encode() + wire.hello_payload("GuestHello", {"agent": NAME, "waiting": self.waiting()}))

    def next_time(self):
        """When next_frame is to be called again, if nothing comes before."""
        if self.state == DOWN:
            return math.inf
        times = [self.hello_at, self.resend_at, self.last_hello + HELLO_GAP if self.hello_soon else None]
        if self.state == ESTABLISHED:
            times += [self.last_sent + HEARTBEAT_AFTER, self.last_heard + SILENCE]
        # a timetable within the 20 ms must not make the caller spin
        return max(self.last_hello + HELLO_GAP, min(t for t in times + [math.inf] if t is not None))

    # ---- receiving ----
    def receive(self, body, now):
        try:
            header, payload = wire.split_body(body)
        except wire.Malformed:
            return
        if header.frm in (0, self.epoch):
            return
        if header.number == wire.HELLO:
            try:
                self._hello_came(header, payload, now)
            except wire.Malformed:
                pass
        elif self.state != ESTABLISHED or header.frm != self.peer or header.to != self.epoch:
            self.hello_soon = True
        else:
            self.last_heard = now
            self._acknowledged(header.ack, now)
            if header.number in (wire.ACK, wire.HEARTBEAT):  # §4: their seq is not looked at
                return
            if header.seq == 0:
                self.act(header.number, payload)
                return
            self.owed, self.last_kept = True, now
            if header.seq == self.heard + 1:
                self.act(header.number, payload)
                self.heard = header.seq

    def _hello_came(self, header, payload, now):
        low, high, rest = wire.split_hello(payload)
        common = min(high, wire.VERSION) >= max(low, wire.VERSION)
        body = wire.decode("HostHello", rest) if common else None
        self.last_heard = now
        if header.frm != self.peer:  # 1
            if self.peer:
                self.former[self.peer] = self.heard
            self.peer, self.heard = header.frm, self.former.pop(header.frm, 0)
            while len(self.former) > FORMER:
                self.former.popitem(last=False)
            self.new_peer()
            self.up(now)
        if not common:  # 2
            if self.state != INCOMPATIBLE:
                self.nothing_in_flight()
                self.state, self.hello_at, self.hello_soon = INCOMPATIBLE, now, False
            return
        if self.state == INCOMPATIBLE:  # it was upgraded
            self.up(now)
        self.heard = max(self.heard, header.seq - 1)  # 3
        if header.ack == 0 or header.to != self.epoch or not self.greeted:  # 4
            self.hello_soon = True
        if header.to == self.epoch and self.state != ESTABLISHED:  # 5
            self.state, self.hello_at = ESTABLISHED, None
            self.met(body)

    def _acknowledged(self, ack, now):
        if ack > self.sent or not self.queue or ack < self.queue[0][0]:
            return
        self.queue = [kept for kept in self.queue if kept[0] > ack]
        self.resend_after = RESEND_FIRST
        self.resend_at = now + RESEND_FIRST if self.queue and self.queue[0][0] <= self.flight else None


class Port:
    """§1. Never raises for what the port does; `up` and `gone` tell."""

    def __init__(self, path):
        self.path, self.fd, self.up, self.look_at, self.down_since, self.rest = path, None, False, 0.0, 0.0, b""

    def open(self):
        path = self.path
        if not os.path.exists(path):  # without udev
            for name in glob.glob("/sys/class/virtio-ports/*/name"):
                with open(name) as f:
                    if f.read().strip() == os.path.basename(path):
                        path = "/dev/" + name.split("/")[-2]
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        if not stat.S_ISCHR(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.ENODEV, "no character device")
        if os.isatty(fd):
            self.raw(fd)
        self.fd, self.up, self.rest = fd, False, b""

    @staticmethod
    def raw(fd):  # §1, a serial terminal
        import termios
        a = termios.tcgetattr(fd)
        a[0] = termios.IGNBRK
        a[1] = a[3] = 0
        a[2] = a[2] & ~(termios.CSIZE | termios.PARENB | termios.CSTOPB | termios.CRTSCTS) | \
            termios.CS8 | termios.CREAD | termios.CLOCAL
        a[6][termios.VMIN], a[6][termios.VTIME] = 1, 0
        termios.tcsetattr(fd, termios.TCSANOW, a)

    def close(self):
        if self.fd is not None:
            os.close(self.fd)
        self.fd, self.up, self.rest = None, False, b""

    def read(self, now):
        """The bytes there are, b"" for none. May turn `up` either way, or close the port."""
        try:
            data = os.read(self.fd, 65536)
        except (BlockingIOError, InterruptedError):
            self.up = True
            return b""
        except OSError:  # unplugged
            self.close()
            self.down_since, self.look_at = now, now + 1
            return b""
        if data:
            self.up = True
            return data
        if self.up:
            self.down_since = now
        self.up, self.rest = False, b""
        self.look_at = now + (0.1 if now - self.down_since < 60 else 1.0)
        return b""

    def write(self, next_frame):
        """Writes until there is no more to write or no room. What stays is in `rest`."""
        while self.rest or next_frame is not None:
            self.rest = self.rest or next_frame() or b""
            if not self.rest:
                return
            try:
                self.rest = self.rest[os.write(self.fd, self.rest):]
            except OSError:  # no room, nobody there, unplugged: read tells which
                return


class State:
    """What must survive a restart: the request under way with its answer, and the last migrations that ended."""

    def __init__(self, path):
        self.path, self.request, self.ended = path, None, OrderedDict()
        try:
            with open(path) as f:
                stored = json.load(f)
            self.request, self.ended = stored["request"], OrderedDict(stored["ended"])
        except FileNotFoundError:
            pass

    def save(self):
        while len(self.ended) > ENDED:
            self.ended.popitem(last=False)
        os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
        temporary = self.path + ".new"
        with open(temporary, "w") as f:
            json.dump({"request": self.request, "ended": list(self.ended.items())}, f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, self.path)
        directory = os.open(os.path.dirname(os.path.abspath(self.path)), os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)

    def waiting(self):
        """The request that has no final answer, or None."""
        return self.request if self.request and not self.request["answer"] else None


class Client:
    def __init__(self, args, out=sys.stdout):
        self.args, self.out, self.start = args, out, time.monotonic()
        self.state = State(args.state)
        self.session = Session(self.named, self.met, self.act)
        self.port, self.deframer = Port(args.port), wire.Deframer()
        self.place = None           # what was last told as connected
        self.said = set()           # accepted, once per process
        self.answer = None          # the final answer that this process told
        self.done = None            # exit status, once it is known
        self.end_at = None
        self.pings = {}             # number -> when
        self.ping_number, self.pongs = secrets.randbits(63), 0

    def say(self, event, **fields):
        at = round((time.monotonic() - self.start) * 1000, 3)
        print(json.dumps({"event": event, "at_ms": at, **fields}), file=self.out, flush=True)

    def finish(self, status, linger=0.0):
        if self.done is None:
            self.done, self.end_at = status, time.monotonic() + linger

    # ---- §7 the life of a request ----
    def named(self):
        r = self.state.waiting()
        return [{"request": r["fields"]["id"], "migration": r["migration"]}] if r else []

    def ask(self):
        fields = {"id": secrets.randbits(64), "reason": wire.ENUMS["RequestReason"].index("manual"), "evidence": [],
                  "wishes": {"region": None, "avoid_this_host": False, "deadline_s": None, "max_downtime_ms": None, "never": []}}
        self.state.request = {"fields": fields, "migration": None, "answer": None, "told": False, "wait": self.args.wait}
        self.state.save()
        self.session.keep("request", fields)
        self.say("asked", request=fields["id"])

    def answered(self, request, event):
        """7.5, 7.6: save, tell; the session acknowledges when act has returned."""
        request["answer"] = event
        self.state.save()
        self.tell_answer(event)

    def tell_answer(self, event):
        self.answer = event
        self.say(**event)
        if self.args.command == "migrate":
            self.finish(0 if event["event"] == "completed" else 1, max(QUIET, self.args.linger))

    def met(self, hello):
        place = ("%016x" % self.session.peer, hello["place"], hello["enabled"])
        if place != self.place:
            self.place = place
            self.say("connected", epoch=place[0], place=place[1], enabled=place[2])
        if self.args.command == "status":
            self.finish(0)
        elif self.args.command == "migrate" and self.done is None and self.state.request is None:
            self.ask()
        elif self.args.command == "ping" and not self.pings:
            self.ping()

    def ping(self):
        self.ping_number += 1
        self.pings[self.ping_number] = time.monotonic()
        self.session.keep("ping", {"number": self.ping_number})

    def act(self, number, payload):
        if number not in wire.MESSAGES or number < 256:
            return  # withdrawn, heartbeat, or from the future: §12.3
        try:
            m = wire.decode(number, payload)
        except wire.Malformed:
            return
        name, shown = wire.MESSAGES[number][0], wire.show(number, m)
        mine = self.state.waiting()
        asked = mine is not None and m.get("request") == mine["fields"]["id"]
        if name in ("completed", "failed", "cancelled"):
            self.outcome(name, m, shown, mine, asked)
        elif name in ("accepted", "already_running") and asked:
            self.accepted(name, m, shown, mine)
        elif name == "denied" and asked:
            self.answered(mine, {"event": "denied", **shown})
        elif name == "resend" and asked:  # 7.4
            mine["migration"] = None
            self.state.save()
            if not any(n == wire.NUMBERS["request"] for _, n, _ in self.session.queue):
                self.session.keep("request", mine["fields"])
        elif name in ("notice", "progress") and shown["migration"] not in self.state.ended:
            self.say(name, **shown)
        elif name == "pong" and m["number"] in self.pings:
            self.pong(m["number"])

    def pong(self, number):
        self.say("pong", rtt_us=round((time.monotonic() - self.pings.pop(number)) * 1e6))
        self.pongs += 1
        if self.pongs < self.args.count:
            self.ping()
        else:
            self.finish(0, QUIET)

    def accepted(self, name, m, shown, mine):
        mine["migration"] = m["migration"]
        ended = self.state.ended.get(shown["migration"])
        self.state.save()
        if (name, m["migration"]) not in self.said:
            self.said.add((name, m["migration"]))
            self.say(name, **shown)
        if ended:  # 7.7
            self.answered(mine, {**ended, "request": m["request"], "answers": m["request"]})
        elif self.args.command == "migrate" and not self.args.wait:
            self.finish(0, max(QUIET, self.args.linger))

    def outcome(self, name, m, shown, mine, asked):
        """7.5, 7.7, 7.9"""
        ends_mine = asked or mine is not None and m["migration"] == mine["migration"]
        before = self.state.ended.get(shown["migration"])
        request = mine["fields"]["id"] if ends_mine else None
        event = {"event": name, **shown, "request": request, "answers": request}
        is_new = before is None or before["event"] != "completed" and name == "completed"
        if is_new:
            self.state.ended[shown["migration"]] = event
        if ends_mine:
            self.answered(mine, event)
        elif is_new:
            self.state.save()
            self.say(**event)

    # ---- the process ----
    def run(self):
        try:
            self.port.open()
        except OSError as e:
            if e.errno != errno.EBUSY:
                return self.fail(3, "no port: %s" % e)
            self.port.look_at = time.monotonic() + 1
        self.resume()
        while True:
            now = time.monotonic()
            if now >= self.leave_at():
                return self.leave(self.done)
            if now - self.start >= self.args.timeout and (self.done is None or self.args.command == "watch"):
                if self.args.command == "watch" and self.place:
                    return self.leave(0)
                self.leave(3)
                return self.fail(3, "no answer in time" if self.place else "no host" if self.port.fd is not None else "no port")
            self.step(now)

    def leave_at(self):
        if self.end_at is None:
            return math.inf
        if self.args.command == "status":
            return self.end_at
        return max(self.end_at, min(self.end_at + 5, self.session.last_kept + QUIET))

    def resume(self):
        """What an earlier process left in the state."""
        r = self.state.request
        if r is None or self.args.command not in ("migrate", "watch"):
            return
        if r["answer"] is None:
            self.say("resumed", request=r["fields"]["id"], migration=wire.show("optional(MigrationId)", r["migration"]))
        elif not r["told"]:
            self.tell_answer(r["answer"])
            if self.end_at is not None:  # the host may still wait for the acknowledgement
                self.end_at += 4
        elif self.args.command == "migrate":
            self.state.request = None

    def leave(self, status):
        """An answer counts as told when its process ends by itself; `migrate --wait`'s only when such a one told it."""
        r = self.state.request
        if r and r["answer"] and self.answer and not r["told"] and (self.args.command == "migrate" or not r["wait"]):
            r["told"] = True
            self.state.save()
        return status

    @staticmethod
    def fail(status, text):
        print("coms_client: " + text, file=sys.stderr)
        return status

    def step(self, now):
        port, session = self.port, self.session
        if not port.up and now < port.look_at:
            return self.sleep(port.look_at - now)
        if port.fd is None:
            try:
                port.open()
            except OSError:
                port.look_at = now + 1
                return
        was_up, data = port.up, port.read(now)
        if not port.up:
            if was_up:
                session.down()
                self.deframer.reset()
            return
        if not was_up:
            self.deframer.reset()
            session.up(now)
        for body in self.deframer.feed(data):
            session.receive(body, now)
        port.write(lambda: session.next_frame(time.monotonic()))
        if not data:
            self.sleep(1.0 if port.rest else session.next_time() - time.monotonic())

    def sleep(self, seconds):
        ends = [self.start + self.args.timeout] if self.done is None or self.args.command == "watch" else []
        seconds = max(0.001, min([seconds, 1.0] + [end - time.monotonic() for end in ends + [self.leave_at()]]))
        if not self.port.up:
            return time.sleep(seconds)
        p = select.poll()
        p.register(self.port.fd, select.POLLIN | (select.POLLOUT if self.port.rest else 0))
        p.poll(math.ceil(seconds * 1000))


def parse(words):
    def seconds(text):
        value = float(text)
        if not 0 <= value < 1e9:
            raise ValueError
        return value

    def count(text):
        if int(text) < 1:
            raise ValueError
        return int(text)

    p = argparse.ArgumentParser(prog="coms_client.py", description="Talks with the host of this virtual machine.")
    p.add_argument("--port", default="/dev/virtio-ports/org.coms.agent.0")
    p.add_argument("--state", default="/var/lib/coms-client.json", help="a file that survives a restart")
    p.add_argument("--timeout", type=seconds, default=600.0, metavar="SECONDS")
    commands = p.add_subparsers(dest="command", required=True)
    commands.add_parser("status", help="where am I, may I take part")
    commands.add_parser("watch", help="everything that happens")
    ping = commands.add_parser("ping", help="round trips")
    ping.add_argument("--count", type=count, default=1, metavar="N")
    migrate = commands.add_parser("migrate", help="ask to be moved")
    migrate.add_argument("--wait", action="store_true", help="until the final answer")
    migrate.add_argument("--linger", type=seconds, default=0.0, metavar="S", help="keep listening after it")
    return p.parse_args(words)


def main(words=None):
    args = parse(words)
    try:
        return Client(args).run()
    except (OSError, ValueError, KeyError) as e:  # the state cannot be read or written, nobody reads what is told
        return Client.fail(1, "%s: %s" % (type(e).__name__, e))


if __name__ == "__main__":
    sys.exit(main())
