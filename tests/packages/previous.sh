#!/usr/bin/env bash
# Packs the first version's programs, as what people have before they upgrade: into target/packages-previous.
#
# The version before this one would be the last tag, and there is none yet: nothing was released. So it is the last commit of
# what the changelog calls the first move, the oldest whole version, and as far from this one as can be. Its programs are
# those that brokers and agents of both versions are tested with side by side (tests/story/src/first.rs); they are packed
# by today's recipes, because it had none. Once there is a tag, it is to be named in first.rs.
set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$top"
out=$top/target/packages-previous
said=$("${CARGO:-cargo}" run --quiet -p coms-story --bin coms-first)
read -r commit sources guest_bin host_bin <<<"$said"
recipes=$(find packaging -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum)
if [[ $(cat "$out/COMMIT" 2>/dev/null || true) == "$commit $recipes" ]]; then
  exit 0
fi
SOURCE_DATE_EPOCH=$(git -c safe.directory='*' log -1 --format=%ct "$commit")
export SOURCE_DATE_EPOCH
COMS_SOURCE=$sources COMS_GUEST_BIN=$guest_bin COMS_HOST_BIN=$host_bin \
  COMS_PACKAGE_VERSION="0.1.0~0.g${commit:0:7}" bash packaging/make-packages.sh "$out"
printf '%s %s\n' "$commit" "$recipes" >"$out/COMMIT"
