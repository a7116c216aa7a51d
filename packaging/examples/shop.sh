#!/bin/sh
# An application in shell that is asked about moves: it holds a move while a file says that it is busy.
#
#   shop.sh [BUSY_FILE] [SOCKET]
#
# `coms register` keeps the connection: events come on its standard output, "ready" and "hold 30s" go to its input.
busy=${1:-/run/shop/busy}
socket=${2:-/run/coms/agent.sock}

answers=$(mktemp -u) && mkfifo -m 600 "$answers" || exit 1
trap 'rm -f "$answers"' EXIT

coms --socket "$socket" register --name shop --notice 10s --hold 60s <>"$answers" | while read -r line; do
    case $line in
    *'"event":"notice"'*)
        # Say hold at once, so that the notice does not end meanwhile; ready when it is true.
        [ ! -e "$busy" ] || echo "hold 60s"
        while [ -e "$busy" ]; do sleep 1; done
        echo "ready"
        echo "shop: ready to be moved" >&2
        ;;
    *'"event":"completed"'*)
        case $line in *'"simulated":true'*) note=" (simulated)" ;; *) note= ;; esac
        echo "shop: moved$note" >&2
        ;;
    *'"event":"failed"'* | *'"event":"cancelled"'*)
        echo "shop: stays here" >&2
        ;;
    esac
done >"$answers"
