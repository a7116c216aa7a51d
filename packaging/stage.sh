#!/usr/bin/env bash
# Lays out what each package installs, as file trees: DIR/coms-agent, DIR/coms-plugins and DIR/coms-broker. .deb and .rpm
# are both made of these, so that they hold the same. A source from before there were plugins makes no coms-plugins.
#
#   packaging/stage.sh SOURCE GUEST_BIN HOST_BIN DOCS BOM DIR
#
# SOURCE: whose programs' configuration, examples and documents these are. The rest is this directory's.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source=$1 guest_bin=$2 host_bin=$3 docs=$4 bom=$5 dir=$6

put() { # put MODE FILE TO...: TO is below the package's root
  install -D -m "$1" "$2" "$root/$3"
}
# What a source from before this directory had it does not bring.
put_if() { if [[ -e $2 ]]; then put "$@"; fi; }
pages() { # pages SECTION NAME...
  local section=$1 page
  shift
  for page in "$@"; do
    [[ -e $page ]] || continue
    put 644 "$page" "usr/share/man/man$section/${page##*/}"
    gzip -9nf "$root/usr/share/man/man$section/${page##*/}"
  done
}
completions() { # completions COMMAND
  put_if 644 "$docs/bash/$1.bash" "usr/share/bash-completion/completions/$1"
  put_if 644 "$docs/zsh/_$1" "usr/share/zsh/vendor-completions/_$1"
  put_if 644 "$docs/fish/$1.fish" "usr/share/fish/vendor_completions.d/$1.fish"
}
common() { # common PACKAGE
  root=$dir/$1
  rm -rf "$root"
  put 644 "$here/systemd/$1.service" "usr/lib/systemd/system/$1.service"
  put 644 "$here/sysusers.d/$1.conf" "usr/lib/sysusers.d/$1.conf"
  put 644 "$bom/$1.licences.txt" "usr/share/doc/$1/licences.txt"
  put 644 "$bom/$1.cdx.json" "usr/share/doc/$1/$1.cdx.json"
  gzip -9nf "$root/usr/share/doc/$1/licences.txt" "$root/usr/share/doc/$1/$1.cdx.json"
}

common coms-agent
put 755 "$guest_bin/coms-agent" usr/bin/coms-agent
put 755 "$guest_bin/coms" usr/bin/coms
put 644 "$here/udev/60-coms-agent.rules" usr/lib/udev/rules.d/60-coms-agent.rules
put 644 "$source/packaging/config/agent.toml" etc/coms/agent.toml
for example in "$source"/packaging/hooks/* "$source"/packaging/examples/*; do
  [[ -f $example ]] || continue
  kind=$(basename "$(dirname "$example")")
  [[ $kind == examples ]] && kind=applications
  put 755 "$example" "usr/share/doc/coms-agent/examples/$kind/${example##*/}"
done
put_if 644 "$source/packaging/logrotate/coms-agent" usr/share/doc/coms-agent/examples/logrotate
put_if 644 "$source/docs/random.md" usr/share/doc/coms-agent/random.md
put_if 644 "$source/docs/geolocation.md" usr/share/doc/coms-agent/geolocation.md
pages 1 "$docs"/coms.1 "$docs"/coms-*.1
pages 5 "$docs"/coms-agent.toml.5
pages 8 "$docs"/coms-agent.8
completions coms

if [[ -d $source/guest-plugins ]]; then
  common coms-plugins
  put 755 "$guest_bin/coms-plugins" usr/bin/coms-plugins
  put 644 "$source/packaging/config/plugins.toml" etc/coms/plugins.toml
  # Where people put theirs.
  install -d -m 755 "$root/etc/coms/plugins"
  put 644 "$source/guest-agent/PLUGINS.md" usr/share/doc/coms-plugins/PLUGINS.md
  put 644 "$source/guest-agent/plugin.schema.json" usr/share/coms-plugins/plugin.schema.json
  for example in "$source"/packaging/examples/plugins/*; do
    put 755 "$example" "usr/share/doc/coms-plugins/examples/${example##*/}"
  done
  pages 5 "$docs"/coms-plugins.toml.5
  pages 8 "$docs"/coms-plugins.8 "$docs"/coms-plugins-*.8
  completions coms-plugins
fi

common coms-broker
put 755 "$host_bin/coms-broker" usr/bin/coms-broker
put 755 "$host_bin/comsctl" usr/bin/comsctl
put 644 "$here/tmpfiles.d/coms-broker.conf" usr/lib/tmpfiles.d/coms-broker.conf
put 644 "$source/packaging/config/broker.toml" etc/coms/broker.toml
put 755 "$here/libvirt/hook" etc/libvirt/hooks/qemu.d/coms-broker
put_if 755 "$here/network/stretch-vxlan" usr/libexec/coms/stretch-vxlan
put_if 644 "$source/docs/network-step.md" usr/share/doc/coms-broker/network-step.md
put_if 644 "$source/docs/encryption.md" usr/share/doc/coms-broker/encryption.md
put 644 "$here/libvirt/channel.xml" usr/share/coms-broker/channel.xml
put_if 644 "$source/docs/random.md" usr/share/doc/coms-broker/random.md
pages 5 "$docs"/coms-broker.toml.5
pages 8 "$docs"/comsctl.8 "$docs"/comsctl-*.8 "$docs"/coms-broker.8
completions comsctl
