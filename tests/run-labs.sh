#!/usr/bin/env bash
# The tests on real hosts and guests. Most of them wait for most of their time: those are played two at a time. Those whose
# subject is the CPU, moments, or the machine's own state, have it to themselves.
set -euo pipefail
cd "$(dirname "$0")/.."

# Longest first, so that both lanes end at about the same time.
together="random encrypted certificates proof isolated geo_faults fault_table storage other_language doctor mixed_versions serial happy asked pause
  access"
alone="blame geo hostile messages neighbours notice placement plugins"

# A test that is in neither list would never be played.
for file in tests/story/tests/*.rs; do
    name=$(basename "$file" .rs)
    case " $(echo $together $alone) " in
        *" $name "*) ;;
        *) echo "$file is in neither list of $0" >&2; exit 1 ;;
    esac
done

cargo=${CARGO:-cargo}
$cargo test -p coms-lab -p coms-story --no-run
$cargo run --quiet -p coms-story --bin coms-programs
$cargo test -p coms-lab -- --test-threads=1
$cargo test -p coms-story --lib --bins

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
export out cargo
# One test of the story, its output in one piece once it has ended.
play() {
    begun=$SECONDS
    if $cargo test -p coms-story --test "$1" -- --test-threads=1 >"$out/$1" 2>&1; then said=ok; else said=FAILED; fi
    flock "$out" cat "$out/$1"
    echo "== $1: $said, $((SECONDS - begun)) s"
    # Once more, where one looks first: at the end.
    [ $said = ok ] || grep -h -A4 "^Error: \|panicked at" "$out/$1" | cut -c1-1500 | sed 's/^/   /'
    [ $said = ok ]
}
export -f play

for name in $alone; do play "$name"; done
echo $together | tr ' ' '\n' | xargs -P 2 -I NAME bash -c 'play NAME || exit 255'
