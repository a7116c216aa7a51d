"""Frames and payloads of protocol/PROTOCOL.md, whose sections the comments name. Pure: bytes in, values out."""
import re
import zlib

MAX_RUN = 4094
HELLO, ACK, HEARTBEAT, WITHDRAWN = 0, 1, 2, 3

# --- 11. Enumerations: a value's number is its place.
ENUMS = {
    "RequestReason": "workload-slow workload-failing manual",
    "Metric": "latency-p50-us latency-p95-us latency-p99-us failures-permille calibration-us steal-permille"
              " own-wait-permille packets-per-s",
    "Technique": "pre-copy post-copy hybrid auto-converge compressed multifd",
    "Encryption": "none tls tunnel",
    "Initiator": "customer operator foreign",
    "DenyReason": "not-enabled cooldown too-many-moves no-destination no-destination-in-region no-better-host"
                  " cannot-move no-technique policy deadline-passed too-often host-trouble bad-request busy"
                  " destination-refused paused own-load others-first",
    "FailReason": "destination-refused destination-lost time-limit source-error unexplained",
    "Phase": "preparing copying switching-over post-copy",
}
ENUMS = {name: values.split() for name, values in ENUMS.items()}


def fields(text):
    return [tuple(f.strip().split(": ")) for f in text.split(";")]


# --- 5. and 10. Structures.
STRUCTS = {
    "GuestHello": "agent: text(32); waiting: list(Waiting, 8)",
    "HostHello": "place: Place; enabled: bool",
    "Waiting": "request: RequestId; migration: optional(MigrationId)",
    "Evidence": "workload: text(64); metric: Metric; now: u64; baseline: optional(u64); threshold: optional(u64);"
                " for_s: u32; samples: u32",
    "Wishes": "region: optional(text(64)); avoid_this_host: bool; deadline_s: optional(u32);"
              " max_downtime_ms: optional(u32); never: list(Technique, 8)",
    "Place": "alias: text(32); region: text(64)",
    "Figures": "total_ms: optional(u64); downtime_ms: optional(u64); bytes: optional(u64); pages: optional(u64);"
               " rounds: optional(u64); prepare_ms: optional(u64); resume_ms: optional(u64)",
}
STRUCTS = {name: fields(text) for name, text in STRUCTS.items()}

# --- 9. Messages.
MESSAGES = {
    16: ("request", "id: RequestId; reason: RequestReason; evidence: list(Evidence, 8); wishes: Wishes"),
    17: ("ping", "number: u64"),
    18: ("time_query", "number: u64"),
    19: ("cancel", "request: RequestId"),
    256: ("accepted", "request: RequestId; migration: MigrationId"),
    257: ("already_running", "request: RequestId; migration: MigrationId"),
    258: ("denied", "request: RequestId; reason: DenyReason; retry_after_s: optional(u32)"),
    259: ("resend", "request: RequestId"),
    260: ("notice", "migration: MigrationId; request: optional(RequestId); initiator: Initiator; technique: Technique;"
                    " starts_in_ms: u32; predicted_downtime_ms: optional(u32); predicted_total_ms: optional(u32)"),
    261: ("progress", "migration: MigrationId; phase: Phase; elapsed_ms: u64; bytes_total: optional(u64);"
                      " bytes_remaining: optional(u64); round: optional(u64)"),
    262: ("completed", "migration: MigrationId; request: optional(RequestId); initiator: Initiator;"
                       " technique: Technique; encryption: Encryption; from: optional(Place); to: Place;"
                       " figures: Figures; told_after_ms: optional(u64)"),
    263: ("failed", "migration: MigrationId; request: optional(RequestId); reason: FailReason; figures: Figures"),
    264: ("cancelled", "migration: MigrationId; request: optional(RequestId); by: Initiator; figures: Figures"),
    265: ("pong", "number: u64"),
    266: ("time_reply", "number: u64; host_unix_us: u64"),
}
MESSAGES = {number: (name, fields(text)) for number, (name, text) in MESSAGES.items()}
NUMBERS = {name: number for number, (name, _) in MESSAGES.items()}
KEPT = {16, 17, 19}


class Malformed(Exception):
    pass


# --- 3. The encoding.
WIDTH = {"u16": 16, "u32": 32, "u64": 64, "RequestId": 64}
FORBIDDEN = re.compile("[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
OF = re.compile(r"(optional|text|list)\((.*?)(?:, (\d+))?\)$")


def put_varint(n):
    out = bytearray()
    while n > 0x7f:
        out.append(n & 0x7f | 0x80)
        n >>= 7
    return bytes(out) + bytes([n])


def take_varint(data, at, bits):
    n = 0
    for i in range(-(-bits // 7)):
        if at + i >= len(data):
            raise Malformed("cut")
        n |= (data[at + i] & 0x7f) << 7 * i
        if data[at + i] < 0x80:
            if n >> bits:
                raise Malformed("a number that does not fit")
            return n, at + i + 1
    raise Malformed("a varint without end")


def put(kind, value):
    of = OF.match(kind)
    if of and of[1] == "optional":
        return b"\0" if value is None else b"\1" + put(of[2], value)
    if of and of[1] == "text":
        data = FORBIDDEN.sub("\ufffd", value).encode()[:int(of[2])].decode(errors="ignore").encode()
        return put_varint(len(data)) + data
    if of:
        return put_varint(len(value)) + b"".join(put(of[2], item) for item in value)
    if kind in STRUCTS:
        return put_fields(STRUCTS[kind], value)
    if kind == "bool":
        return b"\1" if value else b"\0"
    if kind == "MigrationId":
        return put_varint(int(value[1:], 16))
    if kind in ENUMS and isinstance(value, str):
        return put_varint(ENUMS[kind].index(value))
    return put_varint(value)


def put_fields(names, value):
    return b"".join(put(kind, value[name]) for name, kind in names)


def take(kind, data, at):
    of = OF.match(kind)
    if kind == "bool" or of and of[1] == "optional":
        if at >= len(data) or data[at] > 1:
            raise Malformed("neither 0 nor 1")
        if kind == "bool":
            return data[at] == 1, at + 1
        return take(of[2], data, at + 1) if data[at] else (None, at + 1)
    if of:
        n, at = take_varint(data, at, 64)
        if n > int(of[3] or of[2]):
            raise Malformed("too long")
        if of[1] == "list":
            items = []
            for _ in range(n):
                item, at = take(of[2], data, at)
                items.append(item)
            return items, at
        try:
            text = bytes(data[at:at + n]).decode()
        except UnicodeDecodeError:
            raise Malformed("no UTF-8") from None
        if len(data) < at + n or FORBIDDEN.search(text):
            raise Malformed("a text that is cut or has controls")
        return text, at + n
    if kind in STRUCTS:
        return take_fields(STRUCTS[kind], data, at)
    if kind == "MigrationId":
        n, at = take_varint(data, at, 64)
        return f"m{n:016x}", at
    n, at = take_varint(data, at, WIDTH.get(kind, 16))
    known = ENUMS.get(kind, [])
    return known[n] if n < len(known) else n, at  # 12.4: an unknown value stays a number


def take_fields(names, data, at=0):
    value = {}
    for name, kind in names:
        value[name], at = take(kind, data, at)
    return value, at  # what is left is from the future


# --- 2. The frame.
def cobs(data):
    out, group = bytearray(), bytearray()
    for byte in data:
        if byte:
            group.append(byte)
        if not byte or len(group) == 254:
            out += bytes([len(group) + 1]) + group
            full, group = bool(byte), bytearray()
    if group or not data or not full:
        out += bytes([len(group) + 1]) + group
    return bytes(out)


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
    return b"\0" + cobs(body + zlib.crc32(body).to_bytes(4, "little")) + b"\0"


class Deframer:
    """Takes a stream apart; holds one frame at most."""

    def __init__(self):
        self.held, self.skipping, self.dropped = b"", False, 0

    def bodies(self, data):
        runs = data.split(b"\0")
        for i, run in enumerate(runs):
            if len(self.held) + len(run) > MAX_RUN:
                self.held, self.skipping = b"", True
            if not self.skipping:
                self.held += run
            if i == len(runs) - 1:
                return
            whole, self.held, skipped, self.skipping = self.held, b"", self.skipping, False
            if skipped or not whole:
                self.dropped += skipped
                continue
            try:
                raw = uncobs(whole)
                if len(raw) < 4 or zlib.crc32(raw[:-4]) != int.from_bytes(raw[-4:], "little"):
                    raise Malformed("CRC")
                yield raw[:-4]
            except Malformed:
                self.dropped += 1


# --- 4. The header.
def body_of(number, sender, to, seq, ack, payload=b""):
    epochs = sender.to_bytes(8, "little") + to.to_bytes(8, "little")
    return put_varint(number) + epochs + put_varint(seq) + put_varint(ack) + payload


def header_of(body):
    number, at = take_varint(body, 0, 16)
    if len(body) < at + 16:
        raise Malformed("cut")
    sender, to = (int.from_bytes(body[i:i + 8], "little") for i in (at, at + 8))
    seq, at = take_varint(body, at + 16, 64)
    ack, at = take_varint(body, at, 64)
    return number, sender, to, seq, ack, body[at:]
