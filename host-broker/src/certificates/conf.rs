//! What libvirt's `qemu.conf` says about certificates. Only single lines `key = value` are read; no key that is asked for
//! here takes a list.

use super::{Finding, Kind, Name, Severity};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Where libvirt's QEMU driver is configured.
pub const QEMU_CONF: &str = "/etc/libvirt/qemu.conf";
/// Where QEMU's certificates are unless it says otherwise.
pub const DEFAULT_DIR: &str = "/etc/pki/qemu";
/// What libvirt prefers to that for migrations, where the directory exists.
pub const MIGRATE_DIR: &str = "/etc/pki/libvirt-migrate";

/// Where its daemons that others connect to are.
const REMOTE_CONFS: [&str; 2] = ["/etc/libvirt/libvirtd.conf", "/etc/libvirt/virtproxyd.conf"];

/// Files of its own that such a daemon is told of. One that is not named is where it always is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RemoteConf {
    pub file: PathBuf,
    pub ca: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

impl RemoteConf {
    /// Of each daemon for which one is named; `read` reads a file of the host.
    pub fn all(read: impl Fn(&str) -> String) -> Vec<Self> {
        let of = |file: &&str| {
            let text = read(file);
            let path = |key: &str| first(&text, key).filter(|v| !v.is_empty()).map(PathBuf::from);
            let named = Self {
                file: file.into(),
                ca: path("ca_file"),
                cert: path("cert_file"),
                key: path("key_file"),
            };
            (named.ca.is_some() || named.cert.is_some() || named.key.is_some()).then_some(named)
        };
        REMOTE_CONFS.iter().filter_map(of).collect()
    }
}

/// The keys that matter here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QemuConf {
    pub user: Option<String>,
    pub group: Option<String>,
    pub default_dir: Option<PathBuf>,
    pub migrate_dir: Option<PathBuf>,
    pub default_verify: Option<bool>,
    pub migrate_verify: Option<bool>,
    pub migrate_force: Option<bool>,
    pub migration_host: Option<String>,
    /// Keys that stand there more than once and do not say the same.
    pub at_odds: Vec<String>,
}

const KEYS: [&str; 8] = [
    "user",
    "group",
    "default_tls_x509_cert_dir",
    "migrate_tls_x509_cert_dir",
    "default_tls_x509_verify",
    "migrate_tls_x509_verify",
    "migrate_tls_force",
    "migration_host",
];

impl QemuConf {
    /// That of the host whose files are below `root`, and why it could not be read, where it is there.
    pub fn read(root: &Path) -> (Self, Option<String>) {
        match fs::read_to_string(below(root, QEMU_CONF)) {
            Ok(text) => (Self::parse(&text), None),
            Err(e) if e.kind() == ErrorKind::NotFound => (Self::default(), None),
            Err(e) => (Self::default(), Some(e.to_string())),
        }
    }

    pub fn parse(text: &str) -> Self {
        let word = |key: &str| first(text, key).filter(|v| !v.is_empty()).map(str::to_owned);
        let flag = |key: &str| first(text, key).map(|v| v != "0");
        let mut at_odds: Vec<String> = Vec::new();
        for (key, value) in text.lines().filter_map(setting).filter(|(key, _)| KEYS.contains(key)) {
            if first(text, key) != Some(value) && !at_odds.iter().any(|k| k == key) {
                at_odds.push(key.to_owned());
            }
        }
        Self {
            user: word("user"),
            group: word("group"),
            default_dir: word("default_tls_x509_cert_dir").map(PathBuf::from),
            migrate_dir: word("migrate_tls_x509_cert_dir").map(PathBuf::from),
            default_verify: flag("default_tls_x509_verify"),
            migrate_verify: flag("migrate_tls_x509_verify"),
            migrate_force: flag("migrate_tls_force"),
            migration_host: word("migration_host"),
            at_odds,
        }
    }

    /// Where QEMU looks for certificates when it migrates, as libvirt tells it.
    pub fn dir(&self, root: &Path) -> PathBuf {
        self.migrate_dir
            .clone()
            .or_else(|| below(root, MIGRATE_DIR).is_dir().then(|| MIGRATE_DIR.into()))
            .or_else(|| self.default_dir.clone())
            .unwrap_or_else(|| DEFAULT_DIR.into())
    }

    /// Who migrates to here is asked for a certificate: libvirt 9 does so unless told otherwise.
    pub fn verifies(&self) -> bool {
        self.migrate_verify.or(self.default_verify) != Some(false)
    }

    /// What others are told to call this host by when they migrate to it.
    pub fn migration_name(&self) -> Option<Name> {
        Name::parse(self.migration_host.as_deref()?)
    }

    /// The lines that must stand, for certificates in this directory.
    pub fn lines(dir: &Path) -> [String; 2] {
        [format!("migrate_tls_x509_cert_dir = \"{}\"", dir.display()), "migrate_tls_x509_verify = 1".into()]
    }

    /// What of it is wrong or left to defaults; `file` is where it was read, `dir` where the certificates are.
    pub fn inspect(&self, file: &Path, dir: &Path) -> Vec<Finding> {
        let mut found = Vec::new();
        let verify = self.migrate_verify.or(self.default_verify);
        let [dir_line, verify_line] = Self::lines(dir);
        let restart = "then systemctl restart libvirtd (or virtqemud); VMs run on";
        if !self.verifies() {
            found.push(Finding::new(
                Severity::Fail,
                Kind::VerifyOff,
                file,
                "asks nobody who migrates to this host for a certificate: whoever reaches the port can send a VM's memory",
                format!("set {verify_line}, {restart}"),
            ));
        }
        if !self.at_odds.is_empty() {
            found.push(Finding::new(
                Severity::Fail,
                Kind::Setting,
                file,
                format!("says different things of {}: libvirt takes the first line", self.at_odds.join(", ")),
                format!("leave one line of each, {restart}"),
            ));
        }
        let unset: Vec<&str> = [(self.migrate_dir.is_none(), &dir_line), (verify.is_none(), &verify_line)]
            .into_iter()
            .filter_map(|(unset, line)| unset.then_some(line.as_str()))
            .collect();
        if !unset.is_empty() {
            let detail = "leaves to libvirt's defaults, which differ between versions, what encrypted migration relies on";
            let remedy = format!("add {}, {restart}", unset.join(" and "));
            found.push(Finding::new(Severity::Hint, Kind::Setting, file, detail, remedy));
        }
        if self.migrate_force != Some(true) {
            found.push(Finding::new(
                Severity::Hint,
                Kind::Setting,
                file,
                "libvirt here also takes and makes migrations without TLS, where whoever begins them asks for none",
                format!("if none shall be: migrate_tls_force = 1 on all hosts, {restart}"),
            ));
        }
        found
    }
}

/// Where an absolute path of the host is whose files are below `root`.
pub(super) fn below(root: &Path, path: impl AsRef<Path>) -> PathBuf {
    let path = path.as_ref();
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// What counts: libvirt looks for the first line of a key.
fn first<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().filter_map(setting).find_map(|(k, value)| (k == key).then_some(value))
}

/// Key and value of a line, without quotes and comment.
fn setting(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once('=')?;
    let (key, value) = (key.trim(), value.trim());
    if key.starts_with('#') {
        return None;
    }
    let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''));
    let value = match quote {
        Some(quote) => value[1..].split(quote).next()?,
        None => value.split('#').next()?.trim(),
    };
    Some((key, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<(Severity, Kind)> {
        let found = QemuConf::parse(text).inspect(Path::new(QEMU_CONF), Path::new(DEFAULT_DIR));
        found.iter().map(|f| (f.severity, f.kind)).collect()
    }

    #[test]
    fn reads_lines_with_quotes_and_comments_and_no_commented_ones() {
        let conf = QemuConf::parse(
            "# user = \"no\"\n#user = \"no\"\nuser = \"+107\" # as root\ngroup='kvm'\nmigrate_tls_x509_verify = 0 # !\n\
             migration_host = \"[fd00::2]\"\nmigrate_tls_x509_cert_dir=\"/srv/a b\"\nnonsense\ncgroup_controllers = [ ]\n",
        );
        assert_eq!((conf.user.as_deref(), conf.group.as_deref()), (Some("+107"), Some("kvm")));
        assert_eq!((conf.migrate_verify, conf.dir(Path::new("/"))), (Some(false), "/srv/a b".into()));
        assert_eq!(conf.migration_name(), Some(Name::Ip("fd00::2".parse().unwrap())));
    }

    #[test]
    fn of_a_key_that_stands_there_twice_the_first_line_counts_and_it_fails() {
        let twice = "migrate_tls_x509_verify = 0\nuser = \"a\"\nmigrate_tls_x509_verify = 1\nuser = \"b\"\n";
        assert_eq!(QemuConf::parse(twice).user.as_deref(), Some("a"));
        let found = kinds(twice);
        assert!(found.contains(&(Severity::Fail, Kind::VerifyOff)), "{found:?}");
        assert!(found.contains(&(Severity::Fail, Kind::Setting)), "{found:?}");
        let same = "migrate_tls_x509_verify = 1\nmigrate_tls_x509_verify = 1";
        assert!(kinds(same).iter().all(|(severity, _)| *severity < Severity::Fail));
    }

    #[test]
    fn the_directory_is_the_one_that_libvirt_takes() {
        let root = std::env::temp_dir().join(format!("coms-qemu-conf-{}", std::process::id()));
        let lines = |text: &str| {
            fs::create_dir_all(root.join("etc/libvirt")).unwrap();
            fs::write(below(&root, QEMU_CONF), text).unwrap();
        };
        let dir = || QemuConf::read(&root).0.dir(&root);
        assert_eq!((QemuConf::read(&root), dir()), ((QemuConf::default(), None), DEFAULT_DIR.into()));
        lines("default_tls_x509_cert_dir = \"/srv/pki\"\n");
        assert_eq!(dir(), Path::new("/srv/pki"));
        fs::create_dir_all(below(&root, MIGRATE_DIR)).unwrap();
        assert_eq!(dir(), Path::new(MIGRATE_DIR), "before the default of all that QEMU does");
        lines("default_tls_x509_cert_dir = \"/srv/pki\"\nmigrate_tls_x509_cert_dir = \"/srv/own\"\n");
        assert_eq!(dir(), Path::new("/srv/own"));
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn where_nobody_is_asked_for_a_certificate_the_broker_shows_none() {
        use super::super::installed::directory;
        let root = std::env::temp_dir().join(format!("coms-verify-off-{}", std::process::id()));
        fs::create_dir_all(root.join("etc/libvirt")).unwrap();
        let (mine, default) = (Path::new("/srv/mine"), Path::new(DEFAULT_DIR));
        for (text, verifies) in [
            ("", true),
            ("migrate_tls_x509_verify = 1\ndefault_tls_x509_verify = 0\n", true),
            ("default_tls_x509_verify = 0\n", false),
            ("migrate_tls_x509_verify = 0\nmigrate_tls_x509_verify = 1\n", false),
        ] {
            fs::write(below(&root, QEMU_CONF), text).unwrap();
            assert_eq!(directory(&root, None), verifies.then(|| default.to_owned()), "{text}");
            assert_eq!(directory(&root, Some(mine)), verifies.then(|| mine.to_owned()), "{text}");
        }
        fs::write(below(&root, QEMU_CONF), [0xff]).unwrap();
        assert_eq!(directory(&root, Some(mine)), None, "what it says is not known");
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn checking_switched_off_fails_and_defaults_are_hints() {
        let well = "migrate_tls_x509_cert_dir = \"/etc/pki/qemu\"\nmigrate_tls_x509_verify = 1\nmigrate_tls_force = 1";
        assert_eq!(kinds(well), []);
        assert_eq!(kinds(""), [(Severity::Hint, Kind::Setting), (Severity::Hint, Kind::Setting)]);
        for off in ["migrate_tls_x509_verify = 0", "default_tls_x509_verify = 0"] {
            assert!(kinds(off).contains(&(Severity::Fail, Kind::VerifyOff)), "{off}");
        }
        let own = "default_tls_x509_verify = 0\nmigrate_tls_x509_verify = 1";
        assert!(
            !kinds(own).contains(&(Severity::Fail, Kind::VerifyOff)),
            "its own counts before the default"
        );
    }
}
