#!/usr/bin/env bash
# Packs staged trees as .rpm: packaging/make-rpm.sh STAGE VERSION OUT
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
stage=$1 version=$2 out=$3
rm -rf "$out"
mkdir -p "$out/top"
# Before a first release comes 0.1.0~0.gcommit, here as in Debian.
rpmbuild -bb --quiet --target x86_64 "$here/rpm/coms.spec" \
  --define "_topdir $out/top" --define "_rpmdir $out" \
  --define '_build_name_fmt %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm' \
  --define "coms_version $version" --define "coms_stage $stage" --define "coms_top $here/.." \
  --define "coms_maintainer $(sed -n 's/^Maintainer: //p' "$here/debian/control")" \
  --define "coms_date $(date -d "@$SOURCE_DATE_EPOCH" '+%a %b %d %Y')" \
  --define "_buildhost localhost" --define 'use_source_date_epoch_as_buildtime 1' \
  --define 'clamp_mtime_to_source_date_epoch 1' --define 'source_date_epoch_from_changelog 0' \
  --define '_binary_payload w9.xzdio' >"$out/log" 2>&1 ||
  { tail -n 40 "$out/log" >&2; echo "packages: rpmbuild failed (its last words are above)" >&2; exit 1; }
