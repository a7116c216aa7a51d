//! libvirt's lists of named values, turned into the broker's own figures.

use super::ffi::Value;
use crate::hypervisor::JobFigures;
use virt_sys as sys;

/// Names as in libvirt-domain.h (VIR_DOMAIN_JOB_*). What libvirt did not report stays absent.
pub(super) fn job_figures(params: &[(String, Value)]) -> JobFigures {
    let number = |name: &str| {
        params.iter().find(|(n, _)| n == name).and_then(|(_, value)| match value {
            Value::Uint(n) => Some(*n),
            Value::Int(n) => u64::try_from(*n).ok(),
            Value::Double(_) | Value::Bool(_) | Value::Text(_) => None,
        })
    };
    let text = |name: &str| {
        params.iter().find(|(n, _)| n == name).and_then(|(_, value)| match value {
            Value::Text(s) => Some(s.clone()),
            Value::Uint(_) | Value::Int(_) | Value::Double(_) | Value::Bool(_) => None,
        })
    };
    // While a migration is being prepared libvirt reports 0 for all that QEMU has not told yet; no guest has a
    // total of 0.
    let counted = number("memory_total").is_some_and(|total| total > 0);
    let memory = |name: &str| number(name).filter(|_| counted);
    // The same of disks; and where none is copied, that is what it reports, too.
    let copied = number("disk_total").is_some_and(|total| total > 0);
    let disk = |name: &str| number(name).filter(|_| copied);
    JobFigures {
        total_ms: number("time_elapsed"),
        downtime_ms: number("downtime"),
        setup_ms: number("setup_time"),
        bytes: memory("memory_processed"),
        bytes_total: memory("memory_total"),
        bytes_remaining: memory("memory_remaining"),
        disk_bytes: disk("disk_processed"),
        disk_bytes_total: disk("disk_total"),
        disk_bytes_remaining: disk("disk_remaining"),
        pages_normal: memory("memory_normal"),
        pages_zero: memory("memory_constant"),
        rounds: memory("memory_iteration"),
        dirty_pages_per_s: memory("memory_dirty_rate"),
        page_size: memory("memory_page_size").filter(|size| *size > 0),
        error: text("errmsg"),
        leaves: number("operation").map(|op| op == u64::from(sys::VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_is_unknown_and_never_zero() {
        assert_eq!(job_figures(&[]), JobFigures::default());
        let figures = job_figures(&[
            ("downtime".to_owned(), Value::Uint(31)),
            ("memory_total".to_owned(), Value::Uint(4096)),
            ("memory_iteration".to_owned(), Value::Int(3)),
            ("memory_dirty_rate".to_owned(), Value::Int(-1)),
            ("memory_page_size".to_owned(), Value::Text("4096".to_owned())),
            ("errmsg".to_owned(), Value::Text("canceled".to_owned())),
        ]);
        assert_eq!(
            figures,
            JobFigures {
                downtime_ms: Some(31),
                bytes_total: Some(4096),
                rounds: Some(3),
                error: Some("canceled".to_owned()),
                ..JobFigures::default()
            }
        );
    }

    #[test]
    fn disks_are_told_apart_from_memory_and_counted_while_no_memory_is() {
        let number = |name: &str, n| (name.to_owned(), Value::Uint(n));
        let figures = job_figures(&[
            number("memory_total", 0),
            number("disk_total", 100),
            number("disk_processed", 60),
            number("disk_remaining", 40),
        ]);
        assert_eq!((figures.disk_bytes, figures.bytes), (Some(60), None));
        assert_eq!((figures.all_total(), figures.all_remaining()), (Some(100), Some(40)));
        assert_eq!(job_figures(&[number("disk_total", 0)]), JobFigures::default());
        let mut taken = figures;
        let ended = JobFigures { bytes: Some(7), bytes_total: Some(8), ..JobFigures::default() };
        taken.take(&ended);
        assert_eq!((taken.disk_bytes, taken.bytes, taken.all_total()), (Some(60), Some(7), Some(108)));
    }

    #[test]
    fn zeros_before_the_copying_starts_are_unknown_too() {
        let zero = |name: &str| (name.to_owned(), Value::Uint(0));
        let figures = job_figures(&[
            ("time_elapsed".to_owned(), Value::Uint(26)),
            zero("memory_total"),
            zero("memory_remaining"),
            zero("memory_iteration"),
        ]);
        assert_eq!(figures, JobFigures { total_ms: Some(26), ..JobFigures::default() });
    }
}
