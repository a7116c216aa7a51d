//! What the authority knows, and which step of its renewal may come next. Pure.
//!
//! ```text
//!                begin                  leaves                 finish
//!   hosts trust  ─────>  old and new    ─────>  old and new    ─────>  new
//!   certificates old                    old            new             new
//! ```
//!
//! Between any two installs of one step every host trusts the authority of every certificate that any host shows. That
//! holds only if no step begins before all hosts have installed the one before: each confirms with its receipt, which
//! is made of what is installed, and only where all of it is of one step.

use coms_broker::certificates::make::LEAF_DAYS;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Of the file that keeps it.
pub const FORMAT: u32 = 1;
pub const DAY_S: i64 = 86_400;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authority {
    pub format: u32,
    /// Whose key signs what is issued.
    pub issuing: u32,
    /// What hosts are given to trust, oldest first: one, or two while it is renewed.
    pub trusted: Vec<u32>,
    pub hosts: BTreeMap<String, HostRecord>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRecord {
    pub names: Vec<String>,
    pub issued_unix_s: i64,
    /// When the certificate expires; not known of those of older versions.
    #[serde(default)]
    pub not_after_unix_s: Option<i64>,
    /// Of what was made for it last.
    pub receipt: String,
    /// It was confirmed that it has installed that.
    pub installed: bool,
}

impl HostRecord {
    pub fn days_left(&self, now_unix_s: i64) -> i64 {
        let ends = self.not_after_unix_s.unwrap_or(self.issued_unix_s + LEAF_DAYS * DAY_S);
        (ends - now_unix_s) / DAY_S
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// One authority.
    Steady,
    /// Hosts are being given both to trust.
    Begun,
    /// Hosts are being given certificates of the new one.
    Leaves,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("this step comes {after}; {now}")]
    NotNow { after: &'static str, now: &'static str },
    #[error(
        "not installed yet, as far as is known here: {}; install what hosts/HOST holds there, then: comsctl tls rotate installed HOST RECEIPT",
        .0.join(", ")
    )]
    Waiting(Vec<String>),
    #[error("no certificate was issued for `{0}`: comsctl tls issue {0}")]
    UnknownHost(String),
    #[error(
        "`{host}` has something else installed than what was made for it last; copy hosts/{host} there and install it"
    )]
    OtherReceipt { host: String },
    #[error("no host has a certificate yet; `comsctl tls init` elsewhere makes a new authority as well")]
    NoHosts,
}

impl Authority {
    /// Made, and nothing issued.
    pub fn new() -> Self {
        Self { format: FORMAT, issuing: 1, trusted: vec![1], hosts: BTreeMap::new() }
    }

    pub fn step(&self) -> Step {
        match (self.trusted.len(), self.trusted.last()) {
            (..=1, _) => Step::Steady,
            (_, newest) if newest == Some(&self.issuing) => Step::Leaves,
            _ => Step::Begun,
        }
    }

    pub fn waiting(&self) -> Vec<String> {
        self.hosts.iter().filter(|(_, h)| !h.installed).map(|(name, _)| name.clone()).collect()
    }

    /// Step 1. All hosts are to be issued for afterwards; so after every step.
    pub fn begin(mut self) -> Result<Self, Refused> {
        self.must_be(Step::Steady)?;
        if self.hosts.is_empty() {
            return Err(Refused::NoHosts);
        }
        self.trusted.push(self.issuing + 1);
        Ok(self)
    }

    /// Step 2.
    pub fn leaves(mut self) -> Result<Self, Refused> {
        self.must_be(Step::Begun)?;
        self.all_have_installed()?;
        self.issuing += 1;
        Ok(self)
    }

    /// Step 3.
    pub fn finish(mut self) -> Result<Self, Refused> {
        self.must_be(Step::Leaves)?;
        self.all_have_installed()?;
        self.trusted = vec![self.issuing];
        Ok(self)
    }

    fn must_be(&self, wanted: Step) -> Result<(), Refused> {
        let after = match wanted {
            Step::Steady => "when no renewal is under way",
            Step::Begun => "after `rotate begin`",
            Step::Leaves => "after `rotate leaves`",
        };
        let now = match self.step() {
            Step::Steady => "no renewal has begun",
            Step::Begun => "`rotate leaves` is next",
            Step::Leaves => "`rotate finish` is next",
        };
        if self.step() == wanted { Ok(()) } else { Err(Refused::NotNow { after, now }) }
    }

    fn all_have_installed(&self) -> Result<(), Refused> {
        let waiting = self.waiting();
        if waiting.is_empty() { Ok(()) } else { Err(Refused::Waiting(waiting)) }
    }

    /// Something was made for this host.
    pub fn issued(
        &mut self,
        host: &str,
        names: Vec<String>,
        receipt: String,
        not_after_unix_s: Option<i64>,
        now_unix_s: i64,
    ) {
        let record =
            HostRecord { names, issued_unix_s: now_unix_s, not_after_unix_s, receipt, installed: false };
        self.hosts.insert(host.to_owned(), record);
    }

    /// The host says what it has installed.
    pub fn installed(mut self, host: &str, receipt: &str) -> Result<Self, Refused> {
        let Some(record) = self.hosts.get_mut(host) else { return Err(Refused::UnknownHost(host.into())) };
        if record.receipt != receipt.trim().to_ascii_lowercase() {
            return Err(Refused::OtherReceipt { host: host.into() });
        }
        record.installed = true;
        Ok(self)
    }

    pub fn forget(mut self, host: &str) -> Result<Self, Refused> {
        self.hosts.remove(host).map(|_| self).ok_or_else(|| Refused::UnknownHost(host.into()))
    }

    /// What the operator does next; an authority that is due is renewed first.
    pub fn next(&self, is_due: bool) -> String {
        let waiting = self.waiting();
        let step = match self.step() {
            Step::Steady if self.hosts.is_empty() => return "comsctl tls issue HOST, for each host".into(),
            Step::Steady if is_due => {
                return "comsctl tls rotate begin, for the authority expires soon".into();
            }
            Step::Steady if waiting.is_empty() => {
                return "nothing to do until certificates are due: then comsctl tls issue HOST (or comsctl tls rotate begin for a new authority)".into();
            }
            Step::Steady => {
                return format!(
                    "install on {}; `comsctl tls rotate installed HOST RECEIPT` notes it here",
                    waiting.join(", ")
                );
            }
            Step::Begun => "leaves",
            Step::Leaves => "finish",
        };
        if waiting.is_empty() {
            format!("comsctl tls rotate {step}")
        } else {
            format!(
                "install on {} what hosts/HOST holds, each with: comsctl tls rotate installed HOST RECEIPT; then: comsctl tls rotate {step}",
                waiting.join(", ")
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_hosts() -> Authority {
        let mut this = Authority::new();
        for host in ["h1", "h2"] {
            this.issued(host, vec![host.into()], format!("1{host}"), None, 0);
        }
        this
    }

    fn confirmed(mut this: Authority) -> Authority {
        for host in ["h1", "h2"] {
            this.issued(host, vec![], "aa".into(), None, 0);
            this = this.installed(host, " AA\n").unwrap();
        }
        this
    }

    #[test]
    fn steps_come_in_their_order_and_no_other() {
        let this = two_hosts();
        assert!(this.clone().leaves().is_err() && this.clone().finish().is_err());
        let this = this.begin().unwrap();
        assert_eq!((this.step(), this.issuing, this.trusted.as_slice()), (Step::Begun, 1, &[1, 2][..]));
        assert!(matches!(this.clone().begin(), Err(Refused::NotNow { .. })));
        assert!(matches!(this.clone().finish(), Err(Refused::NotNow { .. })));
        let this = confirmed(this).leaves().unwrap();
        assert_eq!((this.step(), this.issuing), (Step::Leaves, 2));
        assert!(this.clone().begin().is_err() && this.clone().leaves().is_err());
        let this = confirmed(this).finish().unwrap();
        assert_eq!((this.step(), this.trusted.as_slice()), (Step::Steady, &[2][..]));
        assert_eq!(confirmed(this).begin().unwrap().trusted, [2, 3]);
        assert_eq!(Authority::new().begin(), Err(Refused::NoHosts));
        let this = two_hosts();
        assert!(
            this.next(true).starts_with("comsctl tls rotate begin")
                && this.next(false).starts_with("install")
        );
        assert!(!this.begin().unwrap().next(true).contains("rotate begin"), "it is on its way");
    }

    #[test]
    fn no_step_while_a_host_has_not_confirmed_the_one_before() {
        let mut this = two_hosts().begin().unwrap();
        for host in ["h1", "h2"] {
            this.issued(host, vec![], format!("2{host}"), None, 0);
        }
        assert_eq!(this.clone().leaves(), Err(Refused::Waiting(vec!["h1".into(), "h2".into()])));
        assert_eq!(this.clone().installed("h1", "1h1"), Err(Refused::OtherReceipt { host: "h1".into() }));
        let this = this.installed("h1", "2h1").unwrap();
        assert_eq!(this.clone().leaves(), Err(Refused::Waiting(vec!["h2".into()])));
        assert!(
            this.next(false).contains("h2") && this.next(false).ends_with("rotate leaves"),
            "{}",
            this.next(false)
        );
        assert_eq!(this.clone().installed("h9", ""), Err(Refused::UnknownHost("h9".into())));
        assert!(this.clone().forget("h2").unwrap().leaves().is_ok(), "a host that is gone holds nothing up");
        assert!(this.installed("h2", "2h2").unwrap().leaves().is_ok());
    }

    #[test]
    fn what_is_kept_is_read_again() {
        let this = two_hosts().begin().unwrap();
        let text = serde_json::to_string(&this).unwrap();
        assert_eq!(serde_json::from_str::<Authority>(&text).unwrap(), this);
        let older = text.replace("\"not_after_unix_s\":null,", "");
        assert_ne!(older, text);
        assert_eq!(serde_json::from_str::<Authority>(&older).unwrap(), this);
    }
}
