//! What libvirt says went wrong, sorted by what the broker can do about it.

use crate::hypervisor::HvError;
use virt_sys as sys;

/// libvirt's own words for one failure, read on the thread where it happened (its errors are thread-local).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub code: sys::virErrorNumber,
    pub domain: sys::virErrorDomain,
    pub message: String,
}

impl From<virt::error::Error> for Failure {
    fn from(e: virt::error::Error) -> Self {
        Failure { code: e.code().to_raw(), domain: e.domain().to_raw(), message: e.message().to_owned() }
    }
}

impl Failure {
    pub(super) fn into_error(self, operation: &'static str, uri: &str) -> HvError {
        let detail = self.message;
        match sort(self.code, self.domain, &detail) {
            Sort::Unreachable => HvError::Unreachable { operation, uri: uri.to_owned(), detail },
            Sort::NoDomain => HvError::NoDomain { operation, detail },
            Sort::Busy => HvError::Busy { operation, detail },
            Sort::Refused => HvError::Refused { operation, detail },
            Sort::RefusedThere => HvError::RefusedThere { operation, detail },
            Sort::Aborted => HvError::Aborted { operation, detail },
            Sort::NotEncrypted => HvError::NotEncrypted { operation, detail },
            Sort::Other => HvError::Other {
                operation,
                code: i32::try_from(self.code).unwrap_or(i32::MAX),
                domain: i32::try_from(self.domain).unwrap_or(i32::MAX),
                detail,
            },
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    Unreachable,
    NoDomain,
    Busy,
    Refused,
    RefusedThere,
    NotEncrypted,
    Aborted,
    Other,
}

/// QEMU's and libvirt's words for TLS that does not come about. They have no code of its own: QEMU's come as the text of
/// a job that failed or of a command that did.
const TLS_WORDS: [&str; 6] =
    ["TLS", "certificate", "Certificate", "Unable to access credentials", "x509", "gnutls"];

fn sort(code: sys::virErrorNumber, domain: sys::virErrorDomain, message: &str) -> Sort {
    match code {
        sys::VIR_ERR_NO_DOMAIN => Sort::NoDomain,
        sys::VIR_ERR_OPERATION_ABORTED => Sort::Aborted,

        // Only the state change lock, held by somebody else's job, times out with this code.
        sys::VIR_ERR_OPERATION_TIMEOUT => Sort::Busy,
        // The same lock, when too many callers wait for it already.
        sys::VIR_ERR_OPERATION_FAILED if message.contains("state change lock") => Sort::Busy,

        // A second migration of the same domain is turned away at once, not after the lock's 30 s.
        sys::VIR_ERR_OPERATION_INVALID if message.contains("another migration job") => Sort::Busy,

        // In a migration these come from the destination: its hook said no, its CPU is another, a secret there has no value.
        sys::VIR_ERR_HOOK_SCRIPT_FAILED | sys::VIR_ERR_CPU_INCOMPATIBLE | sys::VIR_ERR_NO_SECRET => {
            Sort::RefusedThere
        }

        // Somebody decided against it: libvirt, its configuration, access control. Asking again
        // without a change there gives the same answer.
        sys::VIR_ERR_MIGRATE_UNSAFE
        | sys::VIR_ERR_OPERATION_UNSUPPORTED
        | sys::VIR_ERR_CONFIG_UNSUPPORTED
        | sys::VIR_ERR_ARGUMENT_UNSUPPORTED
        | sys::VIR_ERR_NO_SUPPORT
        | sys::VIR_ERR_OPERATION_DENIED
        | sys::VIR_ERR_ACCESS_DENIED
        | sys::VIR_ERR_DEVICE_MISSING
        | sys::VIR_ERR_XML_ERROR
        | sys::VIR_ERR_INVALID_ARG
        // The domain is not in a state for it: not running, no job to abort, already there.
        | sys::VIR_ERR_OPERATION_INVALID
        // A disk, device or port the domain needs is taken: not by a job on the domain, so not Busy.
        | sys::VIR_ERR_RESOURCE_BUSY => Sort::Refused,

        sys::VIR_ERR_RPC
        | sys::VIR_ERR_NO_CONNECT
        | sys::VIR_ERR_INVALID_CONN
        | sys::VIR_ERR_UNKNOWN_HOST
        | sys::VIR_ERR_AUTH_FAILED
        | sys::VIR_ERR_AUTH_CANCELLED
        | sys::VIR_ERR_AUTH_UNAVAILABLE
        | sys::VIR_ERR_GNUTLS_ERROR
        | sys::VIR_ERR_SSH
        | sys::VIR_ERR_LIBSSH => Sort::Unreachable,
        // Sockets, TLS and keepalive report under a general code; where they come from tells.
        sys::VIR_ERR_SYSTEM_ERROR | sys::VIR_ERR_INTERNAL_ERROR | sys::VIR_ERR_OPERATION_FAILED
            if domain == sys::VIR_FROM_RPC || domain == sys::VIR_FROM_REMOTE =>
        {
            Sort::Unreachable
        }
        sys::VIR_ERR_INTERNAL_ERROR | sys::VIR_ERR_OPERATION_FAILED | sys::VIR_ERR_SYSTEM_ERROR
            if TLS_WORDS.iter().any(|word| message.contains(word)) =>
        {
            Sort::NotEncrypted
        }
        _ => Sort::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_sorted_by_what_can_be_done() {
        use sys::*;
        let cases = [
            (VIR_ERR_NO_DOMAIN, VIR_FROM_QEMU, "Domain not found", Sort::NoDomain),
            (
                VIR_ERR_OPERATION_ABORTED,
                VIR_FROM_QEMU,
                "migration out job: canceled by client",
                Sort::Aborted,
            ),
            (
                VIR_ERR_OPERATION_TIMEOUT,
                VIR_FROM_QEMU,
                "cannot acquire state change lock (held by monitor=remoteDispatchDomainMigratePerform3Params)",
                Sort::Busy,
            ),
            (
                VIR_ERR_OPERATION_FAILED,
                VIR_FROM_QEMU,
                "cannot acquire state change lock due to max_queued limit",
                Sort::Busy,
            ),
            (VIR_ERR_OPERATION_FAILED, VIR_FROM_QEMU, "migration failed", Sort::Other),
            (
                VIR_ERR_MIGRATE_UNSAFE,
                VIR_FROM_QEMU,
                "Migration without shared storage is unsafe",
                Sort::Refused,
            ),
            (VIR_ERR_HOOK_SCRIPT_FAILED, VIR_FROM_HOOK, "Hook script failed", Sort::RefusedThere),
            (VIR_ERR_NO_SECRET, VIR_FROM_SECRET, "secret '…' does not have a value", Sort::RefusedThere),
            (VIR_ERR_OPERATION_INVALID, VIR_FROM_QEMU, "domain is not running", Sort::Refused),
            (
                VIR_ERR_OPERATION_INVALID,
                VIR_FROM_QEMU,
                "another migration job is already running for domain 'vm1'",
                Sort::Busy,
            ),
            (VIR_ERR_SYSTEM_ERROR, VIR_FROM_RPC, "Failed to connect socket: No such file", Sort::Unreachable),
            (VIR_ERR_SYSTEM_ERROR, VIR_FROM_QEMU, "unable to open file", Sort::Other),
            (VIR_ERR_INTERNAL_ERROR, VIR_FROM_RPC, "client socket is closed", Sort::Unreachable),
            (VIR_ERR_INTERNAL_ERROR, VIR_FROM_QEMU, "unable to execute QEMU command", Sort::Other),
            (
                VIR_ERR_INTERNAL_ERROR,
                VIR_FROM_QEMU,
                "unable to execute QEMU command 'object-add': Unable to access credentials \
                 /etc/pki/qemu/ca-cert.pem: No such file or directory",
                Sort::NotEncrypted,
            ),
            (
                VIR_ERR_OPERATION_FAILED,
                VIR_FROM_QEMU,
                "job 'migration out' failed: The certificate hasn't got a known issuer",
                Sort::NotEncrypted,
            ),
            (VIR_ERR_INVALID_CONN, VIR_FROM_NONE, "invalid connection pointer", Sort::Unreachable),
        ];
        for (code, domain, message, expected) in cases {
            assert_eq!(sort(code, domain, message), expected, "{message}");
        }
    }

    #[test]
    fn an_unsorted_failure_keeps_its_numbers() {
        let failure = Failure {
            code: sys::VIR_ERR_OPERATION_FAILED,
            domain: sys::VIR_FROM_QEMU,
            message: "migration failed".to_owned(),
        };
        assert_eq!(
            failure.into_error("migrate", "qemu:///system").to_string(),
            "migrate: libvirt error 9 of 10: migration failed"
        );
    }
}
