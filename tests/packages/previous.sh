#!/usr/bin/env bash
# Packs an older commit's programs, as what people have before they upgrade: into target/packages-previous.
#
# There is no release yet, so it is the last commit of what the changelog calls the first move. Its programs are packed
# by today's recipes, because it had none.
set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
readonly COMMIT=${COMS_PREVIOUS:-2f6780a90c95d3385d43e8b4c4f2747aa883b4bc}
out=$top/target/packages-previous
short=${COMMIT:0:7}
recipes=$(cd "$top" && cat packaging/*.sh packaging/*/* 2>/dev/null | sha256sum || true)
if [[ $(cat "$out/COMMIT" 2>/dev/null || true) == "$COMMIT $recipes" ]]; then
  exit 0
fi
if ! git -C "$top" cat-file -e "$COMMIT^{commit}" 2>/dev/null; then
  git -C "$top" fetch --quiet --unshallow 2>/dev/null || true
fi
source=$top/target/old/source
rm -rf "$source.new"
mkdir -p "$source.new" "$source"
git -C "$top" archive "$COMMIT" | tar -x -C "$source.new"
# What is built stays beside it: only another commit is built anew.
cp -a "$source.new/." "$source/"
rm -rf "$source.new"
SOURCE_DATE_EPOCH=$(git -C "$top" log -1 --format=%ct "$COMMIT")
export SOURCE_DATE_EPOCH
COMS_SOURCE=$source COMS_PACKAGE_VERSION="0.1.0~0.g$short" bash "$top/packaging/make-packages.sh" "$out"
printf '%s %s\n' "$COMMIT" "$recipes" >"$out/COMMIT"
