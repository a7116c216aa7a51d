//! The command line of `comsctl tls`.

use clap::{Args, Subcommand};
use std::net::IpAddr;
use std::path::PathBuf;

/// Where the authority lives.
#[derive(Args, Clone)]
pub struct AuthorityDir {
    /// The authority's directory
    #[arg(long, value_name = "DIR", default_value = "/etc/coms/tls-authority", global = true)]
    pub authority: PathBuf,
}

/// The host, or a tree that becomes one.
#[derive(Args, Clone)]
pub struct HostRoot {
    /// The broker's configuration, for this host's name and addresses; may be missing
    #[arg(long, value_name = "FILE", default_value = "/etc/coms/broker.toml")]
    pub config: PathBuf,
    /// Work on the tree below this directory as if it were the host (to make an image)
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
}

#[derive(Subcommand)]
pub enum TlsCommand {
    /// Make an authority, once, on the machine from which you will give hosts their certificates
    #[command(
        after_help = "Examples:\n  sudo comsctl tls init\n  comsctl tls init --authority ~/coms-authority     on a machine that is no host\n\nWho can read that directory can pretend to be any host: keep it where few have accounts, and keep a copy of it. An existing authority is never overwritten."
    )]
    Init {
        #[command(flatten)]
        at: AuthorityDir,
    },
    /// Make a host's certificates, or renew them, as a directory to copy to the host
    #[command(
        after_help = "Examples:\n  sudo comsctl tls issue host2                          named as in [[hosts]] of /etc/coms/broker.toml\n  sudo comsctl tls issue host2 --name host2.example --ip 10.1.0.2\n  sudo comsctl tls issue host2                          again: renewed, same names, same key\n  sudo scp -rp /etc/coms/tls-authority/hosts/host2 root@host2:/root/tls-host2\n\nNames and addresses are what the other hosts call this one in their broker.toml (libvirt, migrate_uri), and what its migration_host in qemu.conf says. A certificate is good for a year. It keeps its key unless told otherwise: so no migration that begins just while it is installed finds a certificate and a key that do not fit."
    )]
    Issue {
        /// The host, as broker.toml names it
        host: String,
        /// A DNS name by which others reach it; several times
        #[arg(long = "name", value_name = "DNS")]
        names: Vec<String>,
        /// An address at which others reach it; several times
        #[arg(long = "ip", value_name = "ADDRESS")]
        ips: Vec<IpAddr>,
        /// Draw a new key. Where somebody has seen the old one: install, then all three steps of rotate, for the old
        /// certificate stays good until it expires
        #[arg(long)]
        new_key: bool,
        /// The broker's configuration, for names when none are given
        #[arg(long, value_name = "FILE", default_value = "/etc/coms/broker.toml")]
        config: PathBuf,
        #[command(flatten)]
        at: AuthorityDir,
    },
    /// Check a directory that `issue` made, and put it where QEMU and libvirt of this host look
    #[command(
        after_help = "Examples:\n  sudo comsctl tls install /root/tls-host2             then remove that directory: it holds the key\n  sudo comsctl tls install ./host2 --dry-run           what would be done\n  sudo comsctl tls install ./host2 --qemu-only         libvirt's connections go by ssh\n\nNothing is changed unless everything fits: authority, key, names of this host, dates. Files are put in place whole, what was there is kept beside as .before, VMs run on, and migrations may go on meanwhile. libvirtd is asked to take up its new certificate without a restart; one that runs and cannot be told is exit status 1, and there is no receipt until it was restarted."
    )]
    Install {
        /// The directory
        dir: PathBuf,
        /// Only QEMU's files, which protect memory and disks; refused where libvirt here uses the same authority
        #[arg(long)]
        qemu_only: bool,
        /// Check and say what would be done
        #[arg(long)]
        dry_run: bool,
        /// Also when other hosts cannot verify this one, nor it them, until they have theirs
        #[arg(long)]
        replace_authority: bool,
        /// Where virt-admin reaches the daemon that serves TLS; with modular daemons virtproxyd:///system
        #[arg(long, value_name = "URI", default_value = "libvirtd:///system")]
        admin_uri: String,
        #[command(flatten)]
        host: HostRoot,
    },
    /// Say what is wrong, or will soon be, with the certificates of this host
    #[command(
        after_help = "Examples:\n  sudo comsctl tls check\n  sudo comsctl tls check --json | jq '.findings[] | select(.severity == \"fail\")'\n  sudo comsctl tls check --json | jq -r .fingerprint_sha256    of the certificate that this host shows\n\nExit status: 0 nothing fails (there may be warnings and hints), 1 something does, 2 wrong usage."
    )]
    Check {
        #[command(flatten)]
        host: HostRoot,
    },
    /// Renew the authority in three steps between which migrations work; without a step: where it stands
    #[command(
        after_help = "Examples:\n  sudo comsctl tls rotate                                   where it stands, and what comes next\n  sudo comsctl tls rotate begin                             1: all hosts shall trust old and new\n  sudo comsctl tls rotate installed host2 0123456789abcdef   after each step, for each host: what install said there\n  sudo comsctl tls rotate leaves                            2: all hosts shall show certificates of the new one\n  sudo comsctl tls rotate finish                            3: all hosts shall trust the new one only\n\nEach step makes a directory for every host, to be copied there and installed. A step is refused while a host has not confirmed the one before."
    )]
    Rotate {
        #[command(subcommand)]
        step: Option<RotateStep>,
        #[command(flatten)]
        at: AuthorityDir,
    },
}

#[derive(Subcommand)]
pub enum RotateStep {
    /// Step 1: make a new authority; hosts shall trust both
    #[command(after_help = "Example:\n  sudo comsctl tls rotate begin")]
    Begin,
    /// Step 2: give all hosts certificates of the new authority
    #[command(after_help = "Example:\n  sudo comsctl tls rotate leaves")]
    Leaves,
    /// Step 3: take the old authority out; its key is deleted
    #[command(after_help = "Example:\n  sudo comsctl tls rotate finish")]
    Finish,
    /// Confirm that a host has installed what was made for it last
    #[command(
        after_help = "Example:\n  sudo comsctl tls rotate installed host2 $(ssh root@host2 comsctl tls check --json | jq -r .receipt)"
    )]
    Installed {
        /// The host
        host: String,
        /// What `comsctl tls install` and `comsctl tls check` say there
        receipt: String,
    },
    /// Wait no longer for a host that is gone; its certificate stays valid until it expires
    #[command(after_help = "Example:\n  sudo comsctl tls rotate forget host3")]
    Forget {
        /// The host
        host: String,
    },
}
