"""Bytes of the guest-host protocol, version 1. Section numbers (§) are those of PROTOCOL.md."""
import struct
import zlib

VERSION = 1                       # §5: min 1, max 1
MAX_FRAME, MAX_BODY = 4096, 4073  # §2
HELLO, ACK, HEARTBEAT, WITHDRAWN = 0, 1, 2, 3  # §6


class Malformed(Exception):
    pass


# ---- §11 enumerations: the place in the list is the number ----
ENUMS = {
    "RequestReason": "workload-slow workload-failing manual",
    "Metric": "latency-p50-us latency-p95-us latency-p99-us failures-permille calibration-us steal-permille "
              "own-wait-permille packets-per-s",
    "Technique": "pre-copy post-copy hybrid auto-converge compressed multifd",
    "Encryption": "none tls tunnel",
    "Initiator": "customer operator foreign",
    "DenyReason": "not-enabled cooldown too-many-moves no-destination no-destination-in-region no-better-host cannot-move "
                  "no-technique policy deadline-passed too-often host-trouble bad-request busy destination-refused paused "
                  "own-load others-first",
    "FailReason": "destination-refused destination-lost time-limit source-error unexplained",
    "Phase": "preparing copying switching-over post-copy",
}
ENUMS = {name: values.split() for name, values in ENUMS.items()}

# ---- §5, §10 structures, fields in the order of the page's tables, types in its words ----
STRUCTS = {
    "GuestHello": [("agent", "text(32)"), ("waiting", "list(Waiting, 8)")],
    "HostHello": [("place", "Place"), ("enabled", "bool")],
    "Waiting": [("request", "RequestId"), ("migration", "optional(MigrationId)")],
    "Evidence": [("workload", "text(64)"), ("metric", "Metric"), ("now", "u64"), ("baseline", "optional(u64)"),
                 ("threshold", "optional(u64)"), ("for_s", "u32"), ("samples", "u32")],
    "Wishes": [("region", "optional(text(64))"), ("avoid_this_host", "bool"), ("deadline_s", "optional(u32)"),
               ("max_downtime_ms", "optional(u32)"), ("never", "list(Technique, 8)")],
    "Place": [("alias", "text(32)"), ("region", "text(64)")],
    "Figures": [(name, "optional(u64)") for name in
                ("total_ms", "downtime_ms", "bytes", "pages", "rounds", "prepare_ms", "resume_ms")],
}

# ---- §9 messages: number -> name, kept, fields ----
_ANSWER = [("request", "RequestId"), ("migration", "MigrationId")]
_ABOUT = [("migration", "MigrationId"), ("request", "optional(RequestId)")]
MESSAGES = {
    16: ("request", True, [("id", "RequestId"), ("reason", "RequestReason"), ("evidence", "list(Evidence, 8)"),
                           ("wishes", "Wishes")]),
    17: ("ping", True, [("number", "u64")]),
    18: ("time_query", False, [("number", "u64")]),
    19: ("cancel", True, [("request", "RequestId")]),
    256: ("accepted", True, _ANSWER),
    257: ("already_running", True, _ANSWER),
    258: ("denied", True, [("request", "RequestId"), ("reason", "DenyReason"), ("retry_after_s", "optional(u32)")]),
    259: ("resend", True, [("request", "RequestId")]),
    260: ("notice", True, _ABOUT + [("initiator", "Initiator"), ("technique", "Technique"), ("starts_in_ms", "u32"),
                                    ("predicted_downtime_ms", "optional(u32)"), ("predicted_total_ms", "optional(u32)")]),
    261: ("progress", False, [("migration", "MigrationId"), ("phase", "Phase"), ("elapsed_ms", "u64"),
                              ("bytes_total", "optional(u64)"), ("bytes_remaining", "optional(u64)"),
                              ("round", "optional(u64)")]),
    262: ("completed", True, _ABOUT + [("initiator", "Initiator"), ("technique", "Technique"), ("encryption", "Encryption"),
                                       ("from", "optional(Place)"), ("to", "Place"), ("figures", "Figures"),
                                       ("told_after_ms", "optional(u64)")]),
    263: ("failed", True, _ABOUT + [("reason", "FailReason"), ("figures", "Figures")]),
    264: ("cancelled", True, _ABOUT + [("by", "Initiator"), ("figures", "Figures")]),
    265: ("pong", True, [("number", "u64")]),
    266: ("time_reply", False, [("number", "u64"), ("host_unix_us", "u64")]),
}
NUMBERS = {name: number for number, (name, _, _) in MESSAGES.items()}
for _number, (_name, _kept, _fields) in MESSAGES.items():
    STRUCTS[_number] = _fields  # a payload is encoded as a structure is


# ---- §3 the encoding ----
_BITS = {"u16": 16, "u32": 32, "u64": 64, "RequestId": 64, "MigrationId": 64, **{name: 16 for name in ENUMS}}
_FORBIDDEN = frozenset([*range(0x20), *range(0x7f, 0xa0), 0x61c, 0x200e, 0x200f, 0x2028, 0x2029,
                        *range(0x202a, 0x202f), *range(0x2066, 0x206a)])


def varint(value):
    out = bytearray()
    while value > 0x7f:
        out.append(value & 0x7f | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        if n > len(self.data) - self.at:
            raise Malformed("ends too early")
        self.at += n
        return self.data[self.at - n:self.at]

    def varint(self, bits):
        value = 0
        for shift in range(0, bits, 7):  # 3, 5, 10 bytes for 16, 32, 64 bits
            byte = self.take(1)[0]
            value |= (byte & 0x7f) << shift
            if byte < 0x80:
                if value >> bits:
                    raise Malformed("number too large")
                return value
        raise Malformed("number too long")


def good_text(text):
    return not any(ord(c) in _FORBIDDEN for c in text)


def _parts(kind):  # "list(Waiting, 8)" -> "list", "Waiting, 8"
    name, _, inner = kind[:-1].partition("(")
    return name, inner


def encode(kind, value):
    if kind in _BITS:
        if not 0 <= value < 1 << _BITS[kind]:
            raise ValueError(kind, value)
        return varint(value)
    if kind == "bool":
        return b"\1" if value else b"\0"
    if kind in STRUCTS:
        return b"".join(encode(t, value[name]) for name, t in STRUCTS[kind])
    name, inner = _parts(kind)
    if name == "optional":
        return b"\0" if value is None else b"\1" + encode(inner, value)
    if name == "text":
        raw = value.encode()
        if len(raw) > int(inner) or not good_text(value):
            raise ValueError(kind, value)
        return varint(len(raw)) + raw
    item, most = inner.rsplit(", ", 1)
    if len(value) > int(most):
        raise ValueError(kind, value)
    return varint(len(value)) + b"".join(encode(item, v) for v in value)


def decode(kind, reader):
    if not isinstance(reader, Reader):
        reader = Reader(reader)
    if kind in _BITS:
        return reader.varint(_BITS[kind])
    if kind in STRUCTS:
        return {name: decode(t, reader) for name, t in STRUCTS[kind]}
    name, inner = _parts(kind)
    if kind == "bool" or name == "optional":
        flag = reader.take(1)[0]
        if flag > 1:
            raise Malformed("neither 0 nor 1")
        if kind == "bool":
            return flag == 1
        return decode(inner, reader) if flag else None
    if name == "text":
        n = reader.varint(64)
        if n > int(inner):
            raise Malformed("text too long")
        try:
            text = reader.take(n).decode()
        except UnicodeDecodeError:
            raise Malformed("not UTF-8") from None
        if not good_text(text):
            raise Malformed("control character")
        return text
    item, most = inner.rsplit(", ", 1)
    n = reader.varint(64)
    if n > int(most):
        raise Malformed("list too long")
    return [decode(item, reader) for _ in range(n)]


def show(kind, value):
    """A decoded value for people and JSON: §11 names, §3 migrations as m and 16 digits."""
    if value is None:
        return None
    if kind in ENUMS:
        return ENUMS[kind][value] if value < len(ENUMS[kind]) else "unknown (%d)" % value
    if kind == "MigrationId":
        return "m%016x" % value
    if kind in STRUCTS:
        return {name: show(t, value[name]) for name, t in STRUCTS[kind]}
    name, inner = _parts(str(kind))
    if name == "optional":
        return show(inner, value)
    if name == "list":
        return [show(inner.rsplit(", ", 1)[0], v) for v in value]
    return value


# ---- §4 the header, §5 the hello ----
class Header:
    def __init__(self, number, frm, to, seq, ack):
        self.number, self.frm, self.to, self.seq, self.ack = number, frm, to, seq, ack

    def encode(self):
        return varint(self.number) + struct.pack("<QQ", self.frm, self.to) + varint(self.seq) + varint(self.ack)


def split_body(body):
    """-> header, payload"""
    r = Reader(body)
    number = r.varint(16)
    frm, to = struct.unpack("<QQ", r.take(16))
    return Header(number, frm, to, r.varint(64), r.varint(64)), body[r.at:]


def hello_payload(kind, value, low=VERSION, high=VERSION):
    return b"COMS" + struct.pack("<HH", low, high) + encode(kind, value)


def split_hello(payload):
    """-> min, max, rest"""
    r = Reader(payload)
    if r.take(4) != b"COMS":
        raise Malformed("magic")
    low, high = struct.unpack("<HH", r.take(4))
    if low > high:
        raise Malformed("versions")
    return low, high, payload[8:]


# ---- §2 the frame ----
def cobs(data):
    out, group = bytearray(), bytearray()
    for i, byte in enumerate(data):
        if byte:
            group.append(byte)
        if not byte or len(group) == 254:
            out.append(len(group) + 1)
            out += group
            group.clear()
            if byte and i == len(data) - 1:
                return bytes(out)  # ends with a full group: no further code
    return bytes(out) + bytes([len(group) + 1]) + bytes(group)


def uncobs(run):
    out, at = bytearray(), 0
    while at < len(run):
        code = run[at]
        if at + code > len(run):
            raise Malformed("no COBS")
        out += run[at + 1:at + code]
        at += code
        if code < 255 and at < len(run):
            out.append(0)
    return bytes(out)


def frame(body):
    if len(body) > MAX_BODY:
        raise ValueError("body too long")
    return b"\0" + cobs(body + struct.pack("<I", zlib.crc32(body))) + b"\0"


class Deframer:
    """Bytes in pieces of any size -> bodies whose CRC is right."""
    def __init__(self):
        self.reset()

    def reset(self):  # §2: at every hang-up
        self.run, self.skip = bytearray(), False

    def feed(self, data):
        pieces = data.split(b"\0")
        for i, piece in enumerate(pieces):
            if i:  # a border was before this piece
                body = self._whole()
                self.reset()
                if body is not None:
                    yield body
            if self.skip or len(self.run) + len(piece) > MAX_FRAME - 2:
                self.skip = True
                self.run.clear()
            else:
                self.run += piece

    def _whole(self):
        try:
            data = uncobs(self.run)
        except Malformed:
            return None
        if len(data) < 4 or zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "little"):
            return None
        return data[:-4]
