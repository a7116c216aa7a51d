#!/bin/sh
# good: how long a command takes, in shell. Put your own in place of `measure`.
#
# One JSON object per line on standard output; messages for people on standard error. It is ended by a signal.

measure() {
  timeout 5 true
}

# A clock that nobody sets, in hundredths of a second: what takes less than 0.1 s is better measured in Python or Rust.
# date would jump when the clock is set.
now() { cut -d' ' -f1 /proc/uptime; }

while :; do
  before=$(now)
  if why=$(measure 2>&1); then
    awk -v after="$(now)" -v before="$before" \
      'BEGIN { printf "{\"v\":1,\"latency_ms\":%.0f}\n", (after - before) * 1000 }'
  else
    printf '%s\n' "$why" >&2
    echo '{"v":1,"failed":"the measurement failed"}'
  fi
  sleep 5
done
