"""coms_client.py against a fake host on a pseudo terminal, written from PROTOCOL.md. A hang-up is imitated with VMIN 0
(read then says 0 bytes instead of EAGAIN); the client sets VMIN 1 only when it opens the port.

COMS_TRIALS=n: so many lines in trouble, and so many requests whose process is killed; 2 unless told."""
import json
import os
import pty
import random
import select
import subprocess
import sys
import tempfile
import termios
import threading
import time
import unittest

TRIALS = int(os.environ.get("COMS_TRIALS", "2"))
KILLS = 5 if TRIALS <= 2 else 12
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import coms_client as cc  # noqa: E402
import coms_wire as w  # noqa: E402

M, M2 = 0x1122, 0x3344
FIGURES = dict.fromkeys(n for n, _ in w.STRUCTS["Figures"])
FIGURES["downtime_ms"] = 87


def outcome(name, migration, request, alias="host-b"):
    m = {"migration": migration, "request": request, "figures": FIGURES}
    if name == "completed":
        m.update(initiator=0, technique=0, encryption=1, to={"alias": alias, "region": "north"}, told_after_ms=3)
        m["from"] = {"alias": "host-a", "region": "west"}
    return name, {**m, "reason": 3, "by": 77}


class Broker:
    """One connection of one host. on_waiting(broker, request id), on_message(broker, name, fields)."""
    def __init__(self, line, alias, on_waiting=None, on_message=None, enabled=True, versions=(1, 1)):
        self.line, self.alias, self.on_waiting, self.on_message = line, alias, on_waiting, on_message
        self.enabled, self.versions = enabled, versions
        self.epoch, self.peer, self.heard, self.met, self.greeted = random.getrandbits(64) | 1, 0, 0, False, False
        self.queue, self.next_seq, self.acked, self.log, self.again = [], 1, [], [], 0
        line.broker = self

    def tell(self, name, fields):
        number = name if isinstance(name, int) else w.NUMBERS[name]
        payload = fields if isinstance(fields, bytes) else w.encode(number, fields)
        self.queue.append((self.next_seq, number, payload))
        self.next_seq += 1
        self.again = 0

    def put(self, number, seq=0, payload=b""):
        self.line.put(w.frame(w.Header(number, self.epoch, self.peer, seq, self.heard).encode() + payload))

    def hello(self):
        self.greeted = True
        body = w.hello_payload("HostHello", {"place": {"alias": self.alias, "region": "west"}, "enabled": self.enabled},
                               *self.versions) + b"and more"
        seq = self.queue[0][0] if self.queue else self.next_seq
        self.line.put(w.frame(w.Header(0, self.epoch, self.peer, seq, int(self.met)).encode() + body))

    def tick(self, now):
        if now >= self.again:
            self.again = now + 0.1
            if not self.met:
                return self.hello()
            for seq, number, payload in self.queue:
                self.put(number, seq, payload)

    def receive(self, body):
        h, payload = w.split_body(body)
        if h.number == 0:
            hello = w.decode("GuestHello", w.split_hello(payload)[2])
            assert hello["agent"] == cc.NAME
            if h.frm != self.peer:
                self.peer, self.heard, self.met, self.greeted = h.frm, 0, False, False
            self.heard = max(self.heard, h.seq - 1)
            self.log.append(("hello", hello["waiting"]))
            if h.to == self.epoch:
                self.met = True
            if h.ack == 0 or h.to != self.epoch or not self.greeted:
                self.hello()
            for waiting in hello["waiting"]:
                if self.met and self.on_waiting:
                    self.on_waiting(self, waiting["request"])
        elif (h.frm, h.to, self.met) != (self.peer, self.epoch, True):
            self.hello()
        else:
            self.acked += [(n, p) for s, n, p in self.queue if s <= h.ack]
            self.queue = [k for k in self.queue if k[0] > h.ack]
            if h.seq:
                if h.seq == self.heard + 1:
                    self.heard = h.seq
                    name, fields = w.MESSAGES[h.number][0], w.decode(h.number, payload)
                    self.log.append((name, fields))
                    if name == "ping":
                        self.tell("pong", fields)
                    elif self.on_message:
                        self.on_message(self, name, fields)
                self.put(1)

    def has_acked(self, name):
        return any(n == w.NUMBERS[name] for n, _ in self.acked)


class Line(threading.Thread):
    """The pseudo terminal, and what goes wrong on it."""
    def __init__(self, trouble=0.0, seed=1):
        super().__init__(daemon=True)
        self.master, self.slave = pty.openpty()
        cc.Port.raw(self.slave)
        os.set_blocking(self.master, False)
        self.path, self.trouble, self.random = os.ttyname(self.slave), trouble, random.Random(seed)
        self.broker, self.hung, self.stop, self.lock, self.deframer = None, False, False, threading.RLock(), w.Deframer()
        self.error = None
        self.start()

    def put(self, frame):
        r, t = self.random, self.trouble
        if r.random() < t:
            return
        if r.random() < t:
            frame = bytes(r.randrange(256) for _ in range(r.randrange(60))) + frame
        if r.random() < t:
            frame += frame
        try:
            os.write(self.master, frame)
        except BlockingIOError:
            pass

    def run(self):
        while not self.stop:
            select.select([self.master], [], [], 0.01)
            with self.lock:
                try:
                    data = os.read(self.master, 4096)
                except BlockingIOError:
                    data = b""
                if self.hung or self.broker is None:
                    continue
                try:
                    for body in self.deframer.feed(data):
                        if self.random.random() >= self.trouble:
                            self.broker.receive(body)
                    self.broker.tick(time.monotonic())
                except Exception as e:
                    self.error = e
                    raise

    def hang(self, yes):
        with self.lock:
            self.hung = yes
            termios.tcflush(self.slave, termios.TCIFLUSH)
            termios.tcflush(self.master, termios.TCIFLUSH)
            a = termios.tcgetattr(self.slave)
            a[6][termios.VMIN] = 0 if yes else 1
            termios.tcsetattr(self.slave, termios.TCSANOW, a)

    def close(self):
        self.stop = True
        self.join()
        os.close(self.master)
        os.close(self.slave)


class World:
    """Requests and outcomes, as the operator's hosts know them between them."""
    def __init__(self):
        self.ids, self.accepted_at = [], None

    def waiting_a(self, b, request):
        if request not in self.ids:
            b.tell("resend", {"request": request})
        else:
            b.tell("accepted", {"request": request, "migration": M})

    def message(self, b, name, fields):
        if name == "request":
            if fields["id"] not in self.ids:
                self.ids.append(fields["id"])
            self.accepted_at = time.monotonic()
            b.tell("notice", {"migration": M, "request": fields["id"], "initiator": 0, "technique": 900, "starts_in_ms": 0,
                              "predicted_downtime_ms": None, "predicted_total_ms": 5})
            b.tell("accepted", {"request": fields["id"], "migration": M})


class Stage(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.state = os.path.join(self.dir.name, "state.json")
        self.lines = []

    def tearDown(self):
        for line in self.lines:
            line.close()
            self.assertIsNone(line.error)
        self.dir.cleanup()

    def line(self, *args):
        self.lines.append(Line(*args))
        return self.lines[-1]

    def start(self, line, *words, timeout=30):
        return subprocess.Popen([sys.executable, "-S", "-E", "-B", os.path.join(HERE, "coms_client.py"), "--port", line.path,
                                 "--state", self.state, "--timeout", str(timeout), *words],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def end(self, p, status=0):
        out, err = p.communicate(timeout=60)
        self.assertEqual(p.returncode, status, out + err)
        self.events = [json.loads(text) for text in out.splitlines()]
        return [e["event"] for e in self.events]

    def until(self, what, seconds=20):
        end = time.monotonic() + seconds
        while not what():
            self.assertLess(time.monotonic(), end)
            time.sleep(0.01)

    def move(self, line, seed, hang):
        """asked, accepted, moved (with a hang-up or in the middle of a frame), completed."""
        world = World()
        a = Broker(line, "host-a", world.waiting_a, world.message)
        p = self.start(line, "migrate", "--wait")
        self.until(lambda: world.accepted_at)
        time.sleep(random.Random(seed).random() * 0.2)
        if hang:
            line.hang(True)
            time.sleep(0.7)
        with line.lock:
            if not hang:
                os.write(line.master, w.frame(b"abc" * 30)[:40])
            b = Broker(line, "host-b")
            told = []

            def waiting(b, request):
                if request not in told:
                    told.append(request)
                    b.tell(*outcome("completed", M, None if request % 2 else request))
            b.on_waiting = lambda b, request: (b.tell("accepted", {"request": request, "migration": M}), waiting(b, request))
        if hang:
            line.hang(False)
        names = self.end(p)
        self.assertEqual((names.count("asked"), names.count("completed")), (1, 1), names)
        last = [e for e in self.events if e["event"] == "completed"][0]
        self.assertEqual((last["request"], last["answers"], last["migration"]), (*world.ids, world.ids[0], "m%016x" % M))
        self.assertEqual((last["to"]["alias"], last["figures"]["downtime_ms"]), ("host-b", 87))
        self.until(lambda: b.has_acked("completed"), 10)
        if not line.trouble:  # else a resend may cross the request's acknowledgement: sent again, the same id
            self.assertEqual([name for name, _ in a.log].count("request"), 1)
        self.assertEqual(len(world.ids), 1)

class Everyday(Stage):
    def test_usage_status_ping(self):
        line = self.line()
        self.end(self.start(line, "fly"), 2)
        self.end(self.start(line, "ping", "--count", "0"), 2)
        self.end(self.start(line, "status", timeout=0.5), 3)
        Broker(line, "host-a", enabled=False)
        self.assertEqual(self.end(self.start(line, "status")), ["connected"])
        self.assertEqual((self.events[0]["place"]["alias"], self.events[0]["enabled"]), ("host-a", False))
        self.assertEqual(self.end(self.start(line, "ping", "--count", "5")), ["connected"] + ["pong"] * 5)
        Broker(line, "host-x", versions=(2, 3))
        self.end(self.start(line, "status", timeout=0.5), 3)
        p = self.start(line, "watch", timeout=3)
        time.sleep(0.5)
        self.lines.remove(line)
        line.close()  # unplugged: tried again every second, until the time is over
        self.end(p, 3)
        line.path = "/nowhere"
        self.end(self.start(line, "status"), 3)

    def test_denied_and_the_future(self):
        line = self.line()

        def message(b, name, fields):
            b.tell(400, b"whatever")
            b.tell("completed", b"\1")
            b.tell(3, b"")
            b.tell("denied", {"request": fields["id"], "reason": 300, "retry_after_s": None})
        b = Broker(line, "host-a", on_message=message)
        self.assertEqual(self.end(self.start(line, "migrate", "--wait"), 1), ["connected", "asked", "denied"])
        self.assertEqual(b.queue, [])

    def test_move_with_hangup(self):
        self.move(self.line(), 1, True)

    def test_move_without(self):
        self.move(self.line(), 2, False)

    def test_lost_request(self):
        """Broker a took the request and died with it; b asks for it again, and completes it under another migration."""
        line, world = self.line(), World()
        a = Broker(line, "host-a", world.waiting_a, world.message)
        p = self.start(line, "migrate", "--wait")
        self.until(lambda: a.has_acked("accepted"))

        def again(b, name, fields):
            b.tell(*outcome("completed", M2, None))  # its end is heard before the accepted: 7.7
            b.tell("accepted", {"request": fields["id"], "migration": M2})
        with line.lock:
            b = Broker(line, "host-b", lambda b, request: b.tell("resend", {"request": request}), again)
        self.assertEqual(self.end(p)[-4:], ["connected", "completed", "accepted", "completed"])
        self.assertEqual([e["answers"] for e in self.events if e["event"] == "completed"], [None, world.ids[0]])
        self.assertIn(("hello", [{"request": world.ids[0], "migration": M}]), b.log)

    def test_outranks(self):
        line = self.line()
        b = Broker(line, "host-a")
        p = self.start(line, "watch", timeout=4)
        self.until(lambda: b.met)
        with line.lock:
            for name in ("failed", "cancelled", "completed", "completed", "failed"):
                b.tell(*outcome(name, M, 5))
        self.assertEqual(self.end(p), ["connected", "failed", "completed"])
        self.assertEqual(self.events[1]["reason"], "source-error")

    def test_timers(self):
        """The session with a clock of its own."""
        s = cc.Session(lambda: [], lambda body: None, lambda number, payload: None)
        out, now, host = [], 0.0, 0x77

        def run(until):
            nonlocal now
            while now < until:
                f = s.next_frame(now)
                if f:
                    h = w.split_body(next(w.Deframer().feed(f)))[0]
                    out.append((round(now, 2), h.number, h.seq))
                else:
                    now = min(max(s.next_time(), now + 0.001), until)

        def host_hello(to, ack=1, frm=host, versions=(1, 1)):
            body = {"place": {"alias": "h", "region": "r"}, "enabled": True}
            s.receive(w.Header(0, frm, to, 1, ack).encode() + w.hello_payload("HostHello", body, *versions), now)
        s.up(0.0)
        run(40)
        self.assertEqual([t for t, _, _ in out], [0, 0.2, 0.6, 1.4, 3, 6.2, 12.6, 22.6, 32.6])
        out.clear()
        host_hello(s.epoch)
        self.assertEqual(s.state, cc.ESTABLISHED)
        run(95)  # the hello that tells the new peer, heartbeats, silence
        self.assertEqual([(t, n) for t, n, _ in out],
                         [(40, 0), (55, 2), (70, 2), (85, 2), (90, 0), (90.2, 0), (90.6, 0), (91.4, 0), (93, 0)])
        out.clear()
        now = 100.0
        host_hello(s.epoch)
        run(100.01)
        out.clear()
        s.keep("ping", {"number": 1})
        run(116)
        self.assertEqual([(round(t - 100.01, 1), n) for t, n, _ in out],
                         [(0, 17), (.3, 17), (.9, 17), (2.1, 17), (4.5, 17), (9.3, 0), (9.3, 17), (14.3, 0), (14.3, 17)])
        s.receive(w.Header(1, host, s.epoch, 0, 2).encode(), now)
        self.assertEqual(len(s.queue), 1)  # claims more than was sent
        s.receive(w.Header(1, host, s.epoch, 0, 1).encode(), now)
        self.assertEqual(s.queue, [])
        s.receive(w.Header(400, host, s.epoch, 1, 1).encode(), now)
        self.assertEqual(s.heard, 1)
        host_hello(0, frm=host + 1, ack=0)
        self.assertEqual((s.state, s.heard), (cc.GREETING, 0))
        host_hello(s.epoch)
        self.assertEqual((s.state, s.heard), (cc.ESTABLISHED, 1))  # a former peer
        now, out[:] = 120.0, []
        host_hello(s.epoch, versions=(2, 2))
        run(141)
        self.assertEqual([(t, n) for t, n, _ in out], [(120, 0), (130, 0), (140, 0)])


class Trouble(Stage):
    def test_move_in_trouble(self):
        for seed in range(TRIALS):
            self.move(self.line(0.3, seed), seed, seed % 2)
            os.unlink(self.state)

    def test_kill(self):
        """Killed again and again at any instant: one request, one answer, never lost, and acknowledged."""
        rand = random.Random(7)
        for trial in range(TRIALS):
            line, world = self.line(0.1, trial), World()

            def waiting(b, request):
                if request in world.ids and time.monotonic() - world.accepted_at > 1.5:
                    if not any(n == 262 for _, n, _ in b.queue):
                        b.tell(*outcome("completed", M, request))
                else:
                    world.waiting_a(b, request)
            b = Broker(line, "host-a", waiting, world.message)
            asked, finals, status = 0, 0, None
            for attempt in range(40):
                # This fake tells the end only to a hello that comes late enough: not before that may one live on.
                last = attempt >= KILLS and world.accepted_at and time.monotonic() - world.accepted_at > 1.5
                p = self.start(line, "migrate", "--wait", timeout=20)
                try:
                    status = p.wait(30 if last else rand.random() * 0.8)
                except subprocess.TimeoutExpired:
                    p.kill()
                text = p.communicate()[0]
                names = [json.loads(t)["event"] for t in text.splitlines()]
                asked += names.count("asked")
                finals += names.count("completed")
                self.assertLessEqual(names.count("completed"), 1)
                if status is not None:
                    break
                if trial % 2 and rand.random() < 0.3:  # this fake forgets what an earlier broker told
                    with line.lock:
                        b = Broker(line, "host-b", waiting, world.message)
            self.assertEqual((status, len(world.ids)), (0, 1))
            self.assertEqual(b.queue, [])
            self.assertTrue(trial % 2 or b.has_acked("completed"))
            self.assertLessEqual(asked, 1)
            self.assertGreaterEqual(finals, 1)
            os.unlink(self.state)


if __name__ == "__main__":
    unittest.main()
