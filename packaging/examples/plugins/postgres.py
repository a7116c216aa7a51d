#!/usr/bin/env python3
"""postgres: how long a query takes in PostgreSQL, its transactions and errors, and who is connected.

    postgres [PSQL-ARGUMENTS...]       such as: postgres -h 127.0.0.1 -U coms -d shop

Runs psql, once, and keeps it: one connection, as an application has. With user = "postgres" in /etc/coms/plugins.toml it comes in
as the server's own user; else name another one in the arguments, and its password in a file (env = { PGPASSFILE = ... }).
"""

import json
import subprocess
import sys
import time

INTERVAL_S = 2.0
# What the latency is of: put the query there that matters to you.
QUERY = "SELECT count(*) FROM pg_class"
COUNTS = "SELECT sum(xact_commit + xact_rollback)::bigint, sum(xact_rollback)::bigint FROM pg_stat_database"
CLIENTS = (
    "SELECT host(client_addr), count(*) FROM pg_stat_activity"
    " WHERE client_addr IS NOT NULL AND pid <> pg_backend_pid() GROUP BY 1 ORDER BY 2 DESC LIMIT 64"
)


class Psql:
    def __init__(self, arguments):
        argv = ["psql", "-X", "-q", "-A", "-t", "-F", "\t", "-v", "ON_ERROR_STOP=1", *arguments]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def rows(self, query):
        try:
            self.process.stdin.write(query + ";\n\\echo end of rows\n")
            self.process.stdin.flush()
        except OSError:
            pass  # the end of its output tells
        rows = []
        for line in self.process.stdout:
            if line == "end of rows\n":
                return rows
            rows.append(line.rstrip("\n").split("\t"))
        raise OSError("psql ended; its words are in the journal")


def measure(psql, before):
    begun = time.monotonic()
    psql.rows(QUERY)
    sample = {"latency_ms": (time.monotonic() - begun) * 1000}
    now = [int(n) for n in psql.rows(COUNTS)[0]]
    if before and now[0] >= before[0] and now[1] >= before[1]:
        sample["requests"] = now[0] - before[0]
        sample["errors"] = now[1] - before[1]
        sample["throughput_per_s"] = sample["requests"] / INTERVAL_S
    clients = [{"address": address, "weight": int(count)} for address, count in psql.rows(CLIENTS)]
    if clients:
        sample["clients"] = clients
    return sample, now


def main():
    psql, before = None, None
    while True:
        try:
            psql = psql or Psql(sys.argv[1:])
            sample, before = measure(psql, before)
        except (OSError, ValueError, IndexError) as error:
            sample, psql, before = {"failed": str(error)}, None, None
        print(json.dumps({"v": 1, **sample}), flush=True)
        time.sleep(INTERVAL_S)


if __name__ == "__main__":
    main()
