#!/usr/bin/env python3
"""The client against the page and the golden bytes: python3 tests/python/test_golden.py"""
import json
import os
import re
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import coms_client  # noqa: E402
import coms_wire as wire  # noqa: E402

PROTOCOL = os.path.join(HERE, "../../protocol")


def read(name):
    with open(os.path.join(PROTOCOL, name), encoding="utf-8") as file:
        return file.read()


PAGE = read("PROTOCOL.md")
GOLDEN = dict(line.split(" = ") for line in read("tests/golden/v1.txt").splitlines() if " = " in line and line[0] != "#")
GOLDEN = {name: bytes.fromhex(hexed) for name, hexed in GOLDEN.items()}
MEANING = json.loads(read("tests/golden/v1.json"))


def tables():
    """The page's tables by their headings, without their heads."""
    found = {}
    for part in re.split(r"^###? ", PAGE, flags=re.M)[1:]:
        rows = [row.strip("|").split("|") for row in re.findall(r"(?:^\|.*\n)+", part, re.M)[0].splitlines()[2:]] \
            if re.search(r"^\|", part, re.M) else []
        found[part.splitlines()[0]] = [[cell.strip(" `") for cell in row] for row in rows]
    return found


def body(frame):
    (one,) = wire.Deframer().bodies(frame)
    return one


class Page(unittest.TestCase):
    """What the client believes is what the page says: the codec below is the page's."""

    def test_messages(self):
        page = tables()
        listed = {int(row[0]): row[1] for row in page["9. Messages"]}
        self.assertEqual(listed, {number: name for number, (name, _) in wire.MESSAGES.items()})
        for number, (name, fields) in wire.MESSAGES.items():
            self.assertEqual([tuple(row[:2]) for row in page[f"{number} {name}"]], fields, name)
        kept = {int(row[0]) for row in page["9. Messages"] if row[2:4] == ["guest", "yes"]}
        self.assertEqual(kept, wire.KEPT)

    def test_structures_and_enumerations(self):
        page = tables()
        for name, fields in wire.STRUCTS.items():
            self.assertEqual([tuple(row[:2]) for row in page[name]], fields, name)
        for name, values in wire.ENUMS.items():
            self.assertEqual([row[:2] for row in page[name]], [[str(i), v] for i, v in enumerate(values)], name)


class Bytes(unittest.TestCase):
    def test_every_line_is_known_here(self):
        kinds = {re.match(r"guest_to_host\.|host_to_guest\.|value\.|frame\.", name)[0] for name in GOLDEN}
        self.assertEqual(len(kinds), 4)

    def test_payloads(self):
        seen = set()
        for name, data in GOLDEN.items():
            if not re.match(r"(guest_to_host|host_to_guest)\.", name):
                continue
            number = int(name.split(".")[1])
            fields = wire.MESSAGES[number][1]
            value, end = wire.take_fields(fields, data)
            self.assertEqual((value, end), (MEANING[name], len(data)), name)
            self.assertEqual(wire.put_fields(fields, value), data, name)
            for cut in range(len(data)):
                with self.assertRaises(wire.Malformed):
                    wire.take_fields(fields, data[:cut])
            self.assertEqual(wire.take_fields(fields, data + b"later")[0], value, name)
            seen.add(number)
        self.assertEqual(seen, set(wire.MESSAGES))

    def test_values(self):
        seen = {name: 0 for name in wire.ENUMS}
        for name, data in GOLDEN.items():
            if name.startswith("value."):
                _, kind, value = name.split(".")
                self.assertEqual(wire.put(kind, value), data, name)
                self.assertEqual(wire.take(kind, data, 0), (value, len(data)), name)
                seen[kind] += 1
        self.assertEqual(seen, {name: len(values) for name, values in wire.ENUMS.items()})
        self.assertEqual(wire.take("DenyReason", b"\xe7\x24", 0), (4711, 2), "one from the future")

    def test_frames(self):
        hellos = {"guest": "GuestHello", "host": "HostHello"}
        frames = [name for name in GOLDEN if name.startswith("frame.")]
        for name in frames:
            raw = body(GOLDEN[name])
            number, sender, to, seq, ack, payload = wire.header_of(raw)
            if number == wire.HELLO:
                fields = wire.STRUCTS[hellos[name.split("_")[-1]]]
                value, end = wire.take_fields(fields, payload, 8)
                self.assertEqual(end, len(payload))
                payload = b"COMS\1\0\1\0" + wire.put_fields(fields, value)
            elif number == wire.HEARTBEAT:
                payload = wire.put("u64", wire.take("u64", payload, 0)[0])
            elif number in wire.MESSAGES:
                payload = wire.put_fields(wire.MESSAGES[number][1], wire.take_fields(wire.MESSAGES[number][1], payload)[0])
            else:
                self.assertIn((number, payload), [(wire.ACK, b""), (wire.WITHDRAWN, b"")])
            self.assertEqual(wire.frame(wire.body_of(number, sender, to, seq, ack, payload)), GOLDEN[name], name)
        self.assertEqual(len(frames), 18)
        hello = wire.take_fields(wire.STRUCTS["HostHello"], wire.header_of(body(GOLDEN["frame.hello.2_host"]))[5], 8)[0]
        self.assertEqual(hello, MEANING["hello.host"])

    def test_cobs(self):
        for data in [b"\0", b"\x11\x22\0\x33", b"", b"\0\0", b"x" * 254, b"x" * 255, b"x" * 508, b"x" * 254 + b"\0"]:
            self.assertNotIn(0, wire.cobs(data))
            self.assertEqual(wire.uncobs(wire.cobs(data)), data)
        self.assertEqual(wire.cobs(b"\x11\x22\0\x33"), b"\x03\x11\x22\x02\x33")
        self.assertEqual(wire.uncobs(wire.cobs(b"x" * 254) + b"\1"), b"x" * 254)

    def test_nothing_but_whole_frames(self):
        good = GOLDEN["frame.hello.2_host"]
        stream = good[:9] + good + b"noise" * 2000 + good + good[1:]
        for step in (1, 7, len(stream)):
            deframer = wire.Deframer()
            found = [b for i in range(0, len(stream), step) for b in deframer.bodies(stream[i:i + step])]
            self.assertEqual(found, [body(good)] * 3)
        for i in range(1, len(good) - 1):
            bad = bytearray(good)
            bad[i] ^= 4
            self.assertNotIn(body(good), list(wire.Deframer().bodies(bytes(bad))))

    def test_texts_and_numbers(self):
        for bad in ["a\n", "\x1b[2J", "\x85", "\u202e", "\u2066"]:
            data = bad.encode()
            with self.assertRaises(wire.Malformed):
                wire.take("text(64)", bytes([len(data)]) + data, 0)
            self.assertIn("\ufffd", wire.take("text(64)", wire.put("text(64)", bad), 0)[0])
        self.assertEqual(wire.put("text(4)", "naïvé"), b"\4na\xc3\xaf")
        self.assertEqual(wire.take("u64", b"\x81\x80\x00", 0), (1, 3))
        for kind, data in [("u16", b"\xff\xff\x04"), ("u16", b"\x80\x80\x80\x00"), ("u64", b"\xff" * 9 + b"\x02"),
                           ("text(64)", b"\x01\xff"), ("text(2)", b"\x03abc"), ("bool", b"\2")]:
            with self.assertRaises(wire.Malformed):
                wire.take(kind, data, 0)


class Conversation(unittest.TestCase):
    """The guest's side of the golden conversation, byte by byte, by this session."""

    def test_whole(self):
        g = coms_client.Session(0x0123456789abcdef, lambda: MEANING["hello.guest"])

        def says(ms, *names):
            out = g.transmit(ms / 1000, 1_790_000_000_000_000 + ms * 1000)
            self.assertEqual(out.hex(), b"".join(GOLDEN["frame." + n] for n in names).hex(), names)

        def hears(ms, name, *events):
            g.receive(ms / 1000, GOLDEN["frame." + name])
            self.assertEqual([e[0] for e in g.events], list(events), name)
            g.events.clear()

        g.link_up(0.0)
        says(0, "hello.1_guest")
        hears(200, "hello.2_host", "connected")
        says(200, "hello.3_guest")
        g.send("request", **MEANING["guest_to_host.16.request"])
        says(300, "guest_to_host.request")
        hears(300, "ack.host")
        self.assertFalse(g.queue)
        hears(400, "host_to_guest.accepted", "accepted")
        says(400, "ack.guest")
        g.send("time_query", number=7)
        says(500, "guest_to_host.once")
        says(15_500, "heartbeat.guest")
        hears(15_500, "heartbeat.host")
        g.send("ping", number=1000)
        says(16_000, "guest_to_host.ping")
        hears(16_050, "moved.hello.1_host", "lost")
        g.take_back("ping")
        says(16_050, "moved.hello.2_guest")
        hears(16_050, "moved.hello.3_host", "connected")
        says(16_050, "moved.withdrawn")
        hears(16_050, "moved.ack.host")
        self.assertFalse(g.queue)
        hears(16_100, "moved.completed", "completed")
        hears(16_100, "moved.completed")  # again: not told, but acknowledged
        says(16_100, "moved.ack.guest")

    def test_a_message_is_sent_again_until_acknowledged_and_to_the_next_peer(self):
        g = coms_client.Session(7, lambda: MEANING["hello.guest"])
        at, numbers, hellos = 0.0, [], 0
        g.link_up(at)
        g.transmit(at, 0)
        host = wire.body_of(0, 9, 7, 1, 1, b"COMS\1\0\1\0" + wire.put_fields(wire.STRUCTS["HostHello"], MEANING["hello.host"]))
        g.receive(at, wire.frame(host))
        g.send("ping", number=1)
        while at < 40:
            for b in wire.Deframer().bodies(g.transmit(at, 0)):
                number, _, to, seq, _, _ = wire.header_of(b)
                hellos += number == 0
                numbers += [(round(at, 1), seq)] if number == 17 else []
            at = g.next_timeout()
        self.assertEqual([t for t, _ in numbers[:7]], [0, 0.3, 0.9, 2.1, 4.5, 9.3, 14.3])
        self.assertEqual({seq for _, seq in numbers}, {1})
        self.assertGreater(hellos, 3)

    def test_greets_slower_and_slower_and_survives_what_it_does_not_know(self):
        g = coms_client.Session(7, lambda: {"agent": "x", "waiting": []})
        g.link_up(0.0)
        times = []
        while g.next_timeout() < 60:
            times.append(round(g.next_timeout(), 1))
            self.assertTrue(g.transmit(g.next_timeout(), 0))
        self.assertEqual(times, [0, 0.2, 0.6, 1.4, 3.0, 6.2, 12.6, 22.6, 32.6, 42.6, 52.6])
        hello = b"COMS\1\0\x63\0" + wire.put_fields(wire.STRUCTS["HostHello"], MEANING["hello.host"]) + b"more"
        g.receive(60, wire.frame(wire.body_of(0, 9, 7, 1, 1, hello)))
        g.receive(60, wire.frame(wire.body_of(433, 9, 7, 1, 0, b"from the future")))
        g.receive(60, wire.frame(wire.body_of(258, 9, 7, 2, 0, b"\x01\xff")))
        self.assertEqual([e[0] for e in g.events], ["connected"])
        (_, last) = wire.Deframer().bodies(g.transmit(60, 0))
        self.assertEqual(wire.header_of(last)[4], 2, "both are acknowledged")

    def test_another_language(self):
        g = coms_client.Session(7, lambda: {"agent": "x", "waiting": []})
        g.link_up(0.0)
        g.transmit(0, 0)
        g.receive(1, wire.frame(wire.body_of(0, 9, 7, 1, 0, b"COMS\5\0\6\0?")))
        self.assertEqual((g.state, [e[0] for e in g.events]), ("incompatible", ["incompatible"]))
        g.transmit(1, 0)
        self.assertEqual(g.next_timeout(), 11)


class Life(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.addCleanup(self.dir.cleanup)
        self.told = []
        self.agent = self.again()

    def again(self):
        """The agent after a restart."""
        return coms_client.Agent(os.path.join(self.dir.name, "state"), lambda e, **v: self.told.append(e))

    def test_one_final_answer_and_no_more(self):
        self.agent.ask({"region": None, "avoid_this_host": False, "deadline_s": None, "max_downtime_ms": None, "never": []})
        request = self.agent.request["id"]
        accepted = {"request": request, "migration": "m" + "1" * 16}
        completed = {**MEANING["host_to_guest.262.completed"], **accepted}
        self.agent.hear("accepted", accepted)
        agent = self.again()
        self.assertEqual(agent.hello()["waiting"], [accepted])
        agent.hear("resend", {"request": request})
        self.assertEqual(agent.session.waits("request"), True)
        agent.hear("completed", {**completed, "request": 5, "migration": "m" + "2" * 16})  # somebody else's
        self.assertEqual(agent.hello()["waiting"], [{"request": request, "migration": None}])
        agent.hear("accepted", accepted)
        agent.hear("completed", {**completed, "request": 5})  # joined: known by its migration
        agent.hear("completed", completed)
        agent = self.again()
        for name in ("completed", "accepted", "resend", "failed", "notice"):
            agent.hear(name, completed)
        self.assertEqual(agent.hello()["waiting"], [])
        self.assertEqual(self.told, ["asked", "accepted", "resend", "completed", "accepted", "completed"])

    def test_completed_outranks_a_cancel_of_what_had_joined(self):
        self.agent.ask({"region": None, "avoid_this_host": False, "deadline_s": None, "max_downtime_ms": None, "never": []})
        joined = {"request": self.agent.request["id"], "migration": "m0011223344556677"}
        self.agent.hear("already_running", joined)
        self.agent.hear("cancelled", {**MEANING["host_to_guest.264.cancelled"], **joined})
        for _ in range(2):
            self.agent.hear("completed", {**MEANING["host_to_guest.262.completed"], "request": None})
        self.assertEqual(self.told, ["asked", "already_running", "cancelled", "completed"])

    def test_an_accepted_after_its_end_is_the_end(self):
        self.agent.ask({"region": None, "avoid_this_host": False, "deadline_s": None, "max_downtime_ms": None, "never": []})
        request = self.agent.request["id"]
        self.agent.hear("completed", {**MEANING["host_to_guest.262.completed"], "request": None})
        self.agent.hear("already_running", {"request": request, "migration": "m0011223344556677"})
        self.assertEqual((self.agent.request, self.agent.answer), (None, "completed"))


if __name__ == "__main__":
    unittest.main()
