"""The bytes of golden/v1.txt, and the tables of PROTOCOL.md. Both may grow: a client of today works with a page of
tomorrow. So what the client knows must be there and be the same; what it does not know is none of its business."""
import json
import os
import re
import struct
import sys
import unittest
import zlib

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
GOLDEN = os.path.join(HERE, "../../protocol/tests/golden/v1.txt")
PAGE = os.path.join(HERE, "../../protocol/PROTOCOL.md")
import coms_client as cc  # noqa: E402
import coms_wire as w  # noqa: E402

with open(GOLDEN) as f:
    LINES = dict(line.strip().split(" = ") for line in f if " = " in line and not line.startswith("#"))
with open(os.path.join(HERE, "../../protocol/tests/golden/v1.json"), encoding="utf-8") as f:
    MEANING = json.load(f)
GUEST, HOST, HOST2, M = 0x0123456789abcdef, 0xfedcba9876543210, 0x0f1e2d3c4b5a6978, 0x0011223344556677
GUEST_HELLO = {"agent": "coms-agent 0.1.0", "waiting": [{"request": 300, "migration": M}, {"request": 301, "migration": None}]}
REQUEST = {"id": 300, "reason": 0, "evidence": [
    {"workload": "billing-db", "metric": 1, "now": 48000, "baseline": 9500, "threshold": 30000, "for_s": 20, "samples": 40},
    {"workload": "billing-db", "metric": 3, "now": 48000, "baseline": None, "threshold": None, "for_s": 20, "samples": 40}],
    "wishes": {"region": "eu-west", "avoid_this_host": True, "deadline_s": 600, "max_downtime_ms": 300, "never": [1, 2]}}


def host_hello(alias, region):
    return w.hello_payload("HostHello", {"place": {"alias": alias, "region": region}, "enabled": True})


def golden(name):
    return bytes.fromhex(LINES[name])


class Golden(unittest.TestCase):
    def test_payloads(self):
        seen = set()
        for name, line in LINES.items():
            m = re.fullmatch(r"(guest_to_host|host_to_guest)\.(\d+)\.(\w+)(\.\w+)?", name)
            if m and int(m[2]) in w.MESSAGES:
                number = int(m[2])
                seen.add(number)
                self.assertEqual((w.MESSAGES[number][0], number < 256), (m[3], m[1] == "guest_to_host"))
                reader = w.Reader(bytes.fromhex(line))
                value = w.decode(number, reader)
                self.assertEqual(reader.at, len(reader.data), name)
                self.assertEqual(w.encode(number, value).hex(), line, name)
                self.assertEqual(w.show(number, value), MEANING[name], name)
                for cut in range(len(line) // 2):  # too short is malformed; longer is not
                    self.assertRaises(w.Malformed, w.decode, number, bytes.fromhex(line)[:cut])
                self.assertEqual(w.decode(number, bytes.fromhex(line) + b"\xff"), value)
        self.assertEqual(seen, set(w.MESSAGES))
        self.assertEqual(w.encode(16, REQUEST), golden("guest_to_host.16.request"))

    def test_values(self):
        found = {n: {} for n in w.ENUMS}
        for name, line in LINES.items():
            if name.startswith("value."):
                _, enum, value = name.split(".")
                number = w.Reader(bytes.fromhex(line)).varint(16)
                if enum in w.ENUMS and number < len(w.ENUMS[enum]):
                    found[enum][number] = value
        self.assertEqual(found, {n: dict(enumerate(v)) for n, v in w.ENUMS.items()})

    def test_frames(self):
        def h(number, frm, to, seq, ack):
            return w.Header(number, frm, to, seq, ack).encode()
        hello, west, north = w.hello_payload("GuestHello", GUEST_HELLO), host_hello("host-7f3a", "eu-west"), \
            host_hello("host-09be", "eu-north")
        made = {
            "hello.1_guest": h(0, GUEST, 0, 1, 0) + hello, "hello.2_host": h(0, HOST, GUEST, 1, 0) + west,
            "hello.3_guest": h(0, GUEST, HOST, 1, 1) + hello,
            "guest_to_host.request": h(16, GUEST, HOST, 1, 0) + w.encode(16, REQUEST),
            "ack.host": h(1, HOST, GUEST, 0, 1), "ack.guest": h(1, GUEST, HOST, 0, 1),
            "host_to_guest.accepted": h(256, HOST, GUEST, 1, 1) + w.encode(256, {"request": 300, "migration": M}),
            "guest_to_host.once": h(18, GUEST, HOST, 0, 1) + w.encode(18, {"number": 7}),
            "heartbeat.host": h(2, HOST, GUEST, 0, 1) + bytes.fromhex("e0c5c9d8edff9603"),
            "heartbeat.guest": h(2, GUEST, HOST, 0, 1) + bytes.fromhex("e0c5c9d8edff9603"),
            "guest_to_host.ping": h(17, GUEST, HOST, 2, 1) + w.encode(17, {"number": 1000}),
            "moved.hello.1_host": h(0, HOST2, 0, 1, 0) + north, "moved.hello.2_guest": h(0, GUEST, HOST2, 2, 0) + hello,
            "moved.hello.3_host": h(0, HOST2, GUEST, 1, 1) + north, "moved.withdrawn": h(3, GUEST, HOST2, 2, 0),
            "moved.ack.host": h(1, HOST2, GUEST, 0, 2), "moved.ack.guest": h(1, GUEST, HOST2, 0, 1),
            "moved.completed": h(262, HOST2, GUEST, 1, 2) + golden("host_to_guest.262.completed"),
        }
        self.assertEqual({n: w.frame(b).hex() for n, b in made.items()},
                         {n: LINES["frame." + n] for n in made})
        stream = b"\7\7\7" + b"junk".join(map(w.frame, made.values()))
        for step in (1, 7, 10000):
            d = w.Deframer()
            got = [b for i in range(0, len(stream), step) for b in d.feed(stream[i:i + step])]
            self.assertEqual(got, list(made.values()))

    def test_frame_borders(self):
        self.assertEqual(w.cobs(bytes.fromhex("11220033")).hex(), "0311220233")
        self.assertEqual((w.cobs(b"\0"), zlib.crc32(b"123456789")), (b"\1\1", 0xcbf43926))
        for n in (0, 1, 253, 254, 255, 508, 509):
            for data in (bytes([1]) * n, bytes(n), bytes([1]) * n + b"\0", b"\0" + bytes([1]) * n):
                self.assertNotIn(0, w.cobs(data))
                self.assertEqual(w.uncobs(w.cobs(data)), data)
        self.assertEqual(w.uncobs(b"\xff" + b"x" * 254 + b"\1"), b"x" * 254)
        whole = w.frame(b"x" * w.MAX_BODY)
        self.assertLessEqual(len(whole), w.MAX_FRAME)
        d, small = w.Deframer(), w.frame(b"small")
        self.assertEqual(list(d.feed(b"\0" + b"\5" * 5000 + small + whole)), [b"small", b"x" * w.MAX_BODY])
        self.assertEqual(list(d.feed(whole[:-1] + b"y" + small)), [b"small"])

    def test_encoding(self):
        for bits, text, value in ((16, "ac02", 300), (16, "ac8200", 300), (16, "ffff03", 65535), (64, "ff" * 9 + "01", 2**64 - 1)):
            self.assertEqual(w.Reader(bytes.fromhex(text)).varint(bits), value)
        for bits, text in ((16, "ffff04"), (16, "80808000"), (32, "ffffffff10"), (64, "ff" * 9 + "02"), (64, "80")):
            self.assertRaises(w.Malformed, w.Reader(bytes.fromhex(text)).varint, bits)
        for kind, text in (("bool", "02"), ("optional(u16)", "02"), ("text(2)", "03616161"), ("text(9)", "01ff"), ("text(9)", "0107"),
                           ("text(9)", "03e280ae"), ("list(Technique, 1)", "020000")):
            self.assertRaises(w.Malformed, w.decode, kind, bytes.fromhex(text))
        self.assertEqual(w.show("DenyReason", 99), "unknown (99)")


class Page(unittest.TestCase):
    """The tables are those of the page."""

    def setUp(self):
        with open(PAGE, encoding="utf-8") as f:
            parts = re.split(r"^##+ ", f.read(), flags=re.M)[1:]
        self.sections = {}
        for part in parts:
            title, _, text = part.partition("\n")
            rows = re.findall(r"^\|(.*)\|$", text, flags=re.M)
            self.sections[title] = [[cell.strip(" `") for cell in row.split("|")] for row in rows]

    def test_messages(self):
        listed = {int(r[0]): (r[1], r[2], r[3]) for r in self.sections["9. Messages"] if r[0].isdigit()}
        for number, (name, kept, fields) in w.MESSAGES.items():
            self.assertEqual(listed.get(number), (name, "guest" if number < 256 else "host", "yes" if kept else "no"))
            self.assertEqual([tuple(r[:2]) for r in self.sections["%d %s" % (number, name)][2:]], fields, name)

    def test_structures(self):
        for name, fields in w.STRUCTS.items():
            if isinstance(name, str):
                page = [tuple(r[:2]) for r in self.sections[name][2:]]
                # §12.2: only hellos grow, at their end.
                self.assertEqual(page[:len(fields)] if name.endswith("Hello") else page, fields, name)

    def test_values(self):
        for name, values in w.ENUMS.items():
            page = self.sections[name][2:2 + len(values)]
            self.assertEqual([r[:2] for r in page], [[str(n), v] for n, v in enumerate(values)], name)


class Conversation(unittest.TestCase):
    """The guest's side of §13, byte by byte, by the client's session. It takes nothing back, so it stays with its ping."""

    def test_whole(self):
        heard, name, clock = [], cc.NAME, cc.time.time
        self.addCleanup(setattr, cc, "NAME", name)
        self.addCleanup(setattr, cc.time, "time", clock)
        cc.NAME, cc.time.time = GUEST_HELLO["agent"], lambda: 1_790_000_015.5
        g = cc.Session(lambda: GUEST_HELLO["waiting"], lambda body: heard.append("met"), lambda number, _: heard.append(number))
        g.epoch = GUEST

        def says(ms, *names):
            out = b"".join(iter(lambda: g.next_frame(ms / 1000) or b"", b""))
            self.assertEqual(out.hex(), b"".join(golden("frame." + n) for n in names).hex(), names)

        def hears(ms, name, *events):
            for body in w.Deframer().feed(golden("frame." + name)):
                g.receive(body, ms / 1000)
            self.assertEqual(heard, list(events), name)
            heard.clear()

        g.up(0.0)
        says(0, "hello.1_guest")
        hears(200, "hello.2_host", "met")
        says(200, "hello.3_guest")
        g.keep("request", REQUEST)
        says(300, "guest_to_host.request")
        hears(300, "ack.host")
        self.assertEqual(g.queue, [])
        hears(400, "host_to_guest.accepted", 256)
        says(400, "ack.guest")
        g.once.append((w.NUMBERS["time_query"], 0, w.encode(18, {"number": 7})))
        says(500, "guest_to_host.once")
        says(15_500, "heartbeat.guest")
        hears(15_500, "heartbeat.host")
        g.keep("ping", {"number": 1000})
        says(16_000, "guest_to_host.ping")
        hears(16_050, "moved.hello.1_host")
        says(16_050, "moved.hello.2_guest")
        hears(16_050, "moved.hello.3_host", "met")
        again, _ = w.split_body(next(w.Deframer().feed(g.next_frame(16.05))))
        self.assertEqual((again.number, again.to, again.seq), (17, HOST2, 2), "the ping, under its number")
        hears(16_050, "moved.ack.host")
        self.assertEqual(g.queue, [])
        hears(16_100, "moved.completed", 262)
        hears(16_100, "moved.completed")  # again: not told, but acknowledged
        says(16_100, "moved.ack.guest")

    def test_does_not_stumble_over_the_future(self):
        heard = []
        g = cc.Session(lambda: [], lambda body: heard.append("met"), lambda number, _: heard.append(number))
        g.up(0.0)
        g.next_frame(0.0)
        hello = w.hello_payload("HostHello", {"place": {"alias": "h", "region": "r"}, "enabled": True}, high=99) + b"more"
        for header, payload in [(w.Header(0, 9, g.epoch, 1, 1), hello), (w.Header(433, 9, g.epoch, 1, 0), b"?"),
                                (w.Header(258, 9, g.epoch, 2, 0), b"\x01\xff"), (w.Header(3, 9, g.epoch, 3, 0), b"")]:
            g.receive(header.encode() + payload, 60)
        self.assertEqual((heard, g.heard), (["met", 433, 258, 3], 3))
        numbers = [w.split_body(next(w.Deframer().feed(g.next_frame(60.5))))[0] for _ in range(2)]
        self.assertEqual([(h.number, h.ack) for h in numbers], [(0, 1), (1, 3)], "its hello, and all are acknowledged")

    def test_another_language(self):
        g = cc.Session(lambda: [], self.fail, self.fail)
        g.up(0.0)
        g.next_frame(0.0)
        foreign = w.Header(0, 9, g.epoch, 1, 0).encode() + b"COMS\5\0\6\0?"
        g.receive(foreign, 1.0)
        self.assertEqual(g.state, cc.INCOMPATIBLE)
        self.assertTrue(g.next_frame(1.0))
        g.receive(foreign, 2.0)  # the two do not chat
        self.assertIsNone(g.next_frame(2.0))
        self.assertEqual(g.next_time(), 11.0)


if __name__ == "__main__":
    unittest.main()
