#!/usr/bin/env bash
# Packs staged trees as .deb, with debhelper: packaging/make-deb.sh STAGE VERSION OUT
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
stage=$1 version=$2 out=$3
rm -rf "$out"
mkdir -p "$out/src"
cp -a "$here/debian" "$out/src/debian"
cp "$here/../CHANGELOG.md" "$out/src"
cd "$out/src"
cat >debian/changelog <<END
coms ($version) unstable; urgency=medium

  * What came is told in CHANGELOG.md.

 -- $(sed -n 's/^Maintainer: //p' debian/control)  $(date -R -d "@$SOURCE_DATE_EPOCH")
END
# A file older than the commit would keep its own time, which is that of a checkout.
find . -exec touch -hd "@$SOURCE_DATE_EPOCH" {} +
# What the source has not is not packed.
if [[ ! -d $stage/coms-plugins ]]; then export DH_OPTIONS=-Ncoms-plugins; fi
COMS_STAGE=$stage COMS_CHANGELOG=CHANGELOG.md debian/rules binary >"$out/log" 2>&1 ||
  { tail -n 40 "$out/log" >&2; echo "packages: debian/rules failed (its last words are above)" >&2; exit 1; }
