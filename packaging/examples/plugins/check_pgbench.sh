#!/bin/sh
# check_pgbench: a Nagios check. How long a transaction takes in PostgreSQL, as pgbench makes them.
#
#   check_pgbench [PGBENCH-ARGUMENTS...]      such as: check_pgbench -h 127.0.0.1 -U coms shop
#
# Made ready once, as who may create tables there: pgbench --initialize DATABASE. With user = "postgres" in
# /etc/coms/plugins.toml it comes in as the server's own user.

# pgbench is in the server's package; Debian's /usr/bin/pgbench would first look for it each time, in Perl.
for bin in /usr/lib/postgresql/*/bin; do PATH=$bin:$PATH; done

said=$(pgbench --no-vacuum --transactions=20 "$@" 2>&1) || {
  why=$(printf '%s\n' "$said" | sed -n 's/^pgbench: error: //p' | head -n 1)
  # A | would begin performance data.
  printf 'PGBENCH CRITICAL - %s\n' "$(printf '%s' "${why:-$said}" | tr '\n|' '  ')"
  exit 2
}
ms=$(printf '%s\n' "$said" | sed -n 's/^latency average = \([0-9.]*\) ms$/\1/p')
[ -n "$ms" ] || {
  echo 'PGBENCH UNKNOWN - pgbench did not say "latency average"'
  exit 3
}
printf 'PGBENCH OK - %s ms for each of 20 transactions|latency=%sms;;;0\n' "$ms" "$ms"
