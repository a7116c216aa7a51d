#!/usr/bin/env bash
# Makes the packages, checksums and bills of materials: `make packages`. The same commit gives the same bytes.
#
#   packaging/make-packages.sh [OUT]        (target/packages)
#
# COMS_SOURCE          whose programs are packed, by the recipes here: the tests pack an older commit's so
# COMS_PACKAGE_VERSION that one's version; otherwise the workspace's
# COMS_GUEST_BIN       directories of its programs, which are then not built
# COMS_HOST_BIN
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(dirname "$here")
source=$(cd "${COMS_SOURCE:-$top}" && pwd)
out=${1:-$top/target/packages}
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$source" # rust-toolchain.toml decides which rustc answers

say() { printf 'packages: %s\n' "$*"; }
cargo=${CARGO:-cargo}
version=${COMS_PACKAGE_VERSION:-$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"$/\1/p' Cargo.toml)}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -c safe.directory='*' -C "$source" log -1 --format=%ct)}
export SOURCE_DATE_EPOCH LC_ALL=C TZ=UTC
umask 022

# Neither this machine's directories nor its user are in the programs. Fetched first: what is not there yet has no
# name.
"$cargo" fetch --quiet --locked
registry=${CARGO_HOME:-$HOME/.cargo}/registry/src
remap="--remap-path-prefix=$source=/usr/src/coms"
for dir in "$registry"/*/; do remap+=" --remap-path-prefix=${dir%/}=/usr/src/crates"; done
readonly TARGET=x86_64-unknown-linux-gnu
build=$source/target/packages/build
build() { # build FLAGS ARGUMENT...
  local flags=$1
  shift
  env -u CARGO_ENCODED_RUSTFLAGS -u CARGO_TARGET_DIR RUSTFLAGS="$flags $remap" CARGO_PROFILE_RELEASE_STRIP=symbols \
    "$cargo" build --quiet --locked --target "$TARGET" --target-dir "$build" "$@"
}
work=$out/work
rm -rf "$work"
if [[ -n ${COMS_GUEST_BIN:-} ]]; then
  guest_bin=$work/programs host_bin=$work/programs
  mkdir -p "$work/programs"
  install -s "$COMS_GUEST_BIN"/{coms-agent,coms} "$COMS_HOST_BIN"/{coms-broker,comsctl} "$work/programs"
else
  say "building $version"
  # The agent is static: it runs on any distribution, old or new. The broker is not: libvirt's library is the host's own.
  guest_flags="-C target-feature=+crt-static -C link-arg=-Wl,-T,$here/guest.ld -C link-arg=-Wl,--no-eh-frame-hdr"
  build "$guest_flags" --profile guest -p coms-agent --bins
  # Nor do plugins ask which distribution it is. A build of its own: in one with the agent, its crates would get more features.
  if [[ -d guest-plugins ]]; then build "$guest_flags" --profile guest -p coms-plugins --bins; fi
  build '' --release -p coms-broker --bins
  guest_bin=$build/$TARGET/guest host_bin=$build/$TARGET/release
fi

mkdir -p "$work/docs" "$work/bom"
# The documents' own programs need not be the ones that are packed, and are not packed.
(cd "$source" && if [[ -d packaging/man ]]; then "$cargo" run --quiet -p coms-man -- "$work/docs" >/dev/null; fi)
for package in coms-agent coms-plugins coms-broker; do
  [[ $package != coms-plugins || -d guest-plugins ]] || continue
  "$cargo" run --quiet --manifest-path "$top/Cargo.toml" -p coms-bom -- \
    "$package" "$work/bom/$package.cdx.json" "$work/bom/$package.licences.txt"
done
"$here/stage.sh" "$source" "$guest_bin" "$host_bin" "$work/docs" "$work/bom" "$work/stage"
find "$work/stage" -exec touch -hd "@$SOURCE_DATE_EPOCH" {} +

"$here/make-deb.sh" "$work/stage" "$version" "$work/deb"
"$here/make-rpm.sh" "$work/stage" "$version" "$work/rpm"
rm -f "$out"/*.deb "$out"/*.rpm "$out"/*.cdx.json "$out"/SHA256SUMS
cp "$work"/deb/*.deb "$work"/rpm/*.rpm "$work"/bom/*.cdx.json "$out"
(cd "$out" && sha256sum -- *.deb *.rpm *.cdx.json >SHA256SUMS)
say "$(cd "$out" && du -b -- *.deb *.rpm | sort -k2 | awk '{printf "%s %d bytes; ", $2, $1}')in $out"
