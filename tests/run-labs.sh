#!/usr/bin/env bash
# The tests on real hosts and guests. Most of them wait for most of their time: those are played three at a time, on hosts that
# are not tied to one CPU each. Those whose subject is the CPU, moments, or the machine's own state have it to themselves.
# What fails stops nothing else: one run tells all.
#
# An entry is a file of tests/story/tests; lab:NAME one of tests/lab/tests; NAME/WORD only those of its tests that have
# the WORD in their names. Named as arguments, only those are played, in lanes.
set -euo pipefail
cd "$(dirname "$0")/.."

# Longest first, so that all lanes end at about the same time.
together="random encrypted storage geo_faults fault_table proof certificates geo/it_moves isolated doctor other_language
  mixed_versions lab:cleanup geo/on_one_lan serial notice/foreign happy asked pause access lab:stranger lab:memory lab:two_labs"
alone="blame geo/forged hostile messages neighbours notice/operators placement plugins lab:migration lab:sites"

if [ $# -gt 0 ]; then chosen=1 alone="" together="$*"; else chosen=""; fi

cargo=${CARGO:-cargo}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
export out cargo

# What an entry means, as cargo's arguments: package, file, word.
parts() {
    local entry=$1 package=coms-story word=
    case $entry in lab:*) package=coms-lab entry=${entry#lab:} ;; esac
    case $entry in */*) word=${entry#*/} entry=${entry%%/*} ;; esac
    echo "$package" "$entry" "$word"
}
# One entry, its output in one piece once it has ended.
play() {
    local package file word begun=$SECONDS said=ok text=$out/${1//[:\/]/-}
    read -r package file word < <(parts "$1")
    $cargo test -p "$package" --test "$file" -- --test-threads=1 $word >"$text" 2>&1 || said=FAILED
    # A word that is in no test's name would play nothing.
    grep -q "^running [1-9]" "$text" || said=FAILED
    flock "$out" cat "$text"
    echo "== $1: $said, $((SECONDS - begun)) s"
    [ $said = ok ] || { echo "$1"; grep -h -A4 "^Error: \|panicked at" "$text" | cut -c1-1500 | sed 's/^/   /'; } >>"$out/failed"
}
export -f parts play

$cargo test -p coms-lab -p coms-story --no-run
$cargo run --quiet -p coms-story --bin coms-programs

# A test that no entry names would never be played: of each file the entries' tests are all that it has.
tests_of() { $cargo test --quiet -p "$1" --test "$2" -- --list ${3:-} 2>/dev/null | grep -c ': test$' || true; }
for file in $([ -n "$chosen" ] || ls tests/lab/tests/*.rs tests/story/tests/*.rs); do
    package=coms-$(cut -d/ -f2 <<<"$file") name=$(basename "$file" .rs) played=0
    for entry in $together $alone; do
        read -r p f word < <(parts "$entry")
        [ "$p $f" = "$package $name" ] || continue
        [ -n "$word" ] || { played=all; break; }
        played=$((played + $(tests_of "$p" "$f" "$word")))
    done
    if [ "$played" != all ] && [ "$played" != "$(tests_of "$package" "$name")" ]; then
        echo "$file: the lists of $0 name $played of its tests" >&2
        exit 1
    fi
done

[ -n "$chosen" ] || $cargo test -p coms-lab -p coms-story --lib --bins
for entry in $alone; do play "$entry"; done
echo $together | tr ' ' '\n' | COMS_LAB_FREE_CPUS=1 xargs -P 3 -I ENTRY bash -c 'play ENTRY'

# Once more, where one looks first.
if [ -e "$out/failed" ]; then
    echo "== FAILED:"
    cat "$out/failed"
    exit 1
fi
