//! One connection, and what is asked over it. Everything here blocks: lanes and migration threads call it.

use super::errors::Failure;
use super::ffi;
use super::ffi::Value;
use super::figures::job_figures;
use super::xml::{self, PART_NAMESPACE, SCHEDULE_NAMESPACE, SEAL_NAMESPACE, TICKET_NAMESPACE};
use super::yank;
use crate::hypervisor::{
    Domain, DomainSample, DomainState, HostSample, HvError, JobFigures, Mark, MigrateSpec, Needs, Part,
    VcpuTimes,
};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use uuid::Uuid;
use virt::connect::Connect;
use virt::secret::Secret;
use virt_sys as sys;

/// The secret that is a broker's sign of life, the same on every host.
const MARK: Uuid = Uuid::from_u128(0xc05b_2c0e_7a1d_4b1e_9d0b_6f2b_70c4_5e3d);
/// libvirt's prefix for our metadata element.
const METADATA_KEY: &str = "coms";
/// A peer that stays silent for 5 s, three times, is gone: calls in flight fail then instead of hanging.
const KEEPALIVE_S: i32 = 5;
const KEEPALIVE_COUNT: u32 = 3;

/// An open connection; dropping it closes it (`virt::Connect` alone does not).
pub(super) struct Connection {
    conn: Connect,
    uri: Arc<str>,
    host_uuid: OnceLock<Option<Uuid>>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Err(e) = self.conn.close() {
            tracing::debug!(uri = %self.uri, error = %e, "closing a libvirt connection");
        }
    }
}

impl Connection {
    pub(super) fn open(uri: &Arc<str>) -> Result<Connection, HvError> {
        without_nul("connect", uri)?;
        let conn = Connect::open(Some(uri)).map_err(|e| {
            // Whatever the reason (socket, TLS, authentication, bad URI): there is no talking to it.
            HvError::Unreachable {
                operation: "connect",
                uri: uri.to_string(),
                detail: Failure::from(e).message,
            }
        })?;
        let connection = Connection { conn, uri: uri.clone(), host_uuid: OnceLock::new() };
        if let Err(e) = connection.conn.set_keep_alive(KEEPALIVE_S, KEEPALIVE_COUNT) {
            tracing::debug!(%uri, error = %e, "no keepalive");
        }
        Ok(connection)
    }

    /// False once the socket is known to be closed. Asks nobody.
    pub(super) fn alive(&self) -> bool {
        self.conn.is_alive().unwrap_or(false)
    }

    pub(super) fn raw(&self) -> &Connect {
        &self.conn
    }

    pub(super) fn uri(&self) -> &str {
        &self.uri
    }

    pub(super) fn failed(&self, operation: &'static str) -> impl Fn(virt::error::Error) -> HvError {
        move |e| Failure::from(e).into_error(operation, &self.uri)
    }

    fn lookup(&self, operation: &'static str, uuid: Uuid) -> Result<virt::domain::Domain, HvError> {
        virt::domain::Domain::lookup_by_uuid(&self.conn, uuid).map_err(self.failed(operation))
    }

    /// The domains that run, or are about to.
    pub(super) fn active(&self) -> Result<Vec<Uuid>, HvError> {
        let failed = self.failed("list domains");
        let active = self.conn.list_all_domains(sys::VIR_CONNECT_LIST_DOMAINS_ACTIVE).map_err(&failed)?;
        active.iter().map(|dom| dom.get_uuid().map_err(&failed)).collect()
    }

    pub(super) fn domains(&self, jobs: &HashMap<Uuid, Job>) -> Result<Vec<Domain>, HvError> {
        const OP: &str = "list domains";
        let mut found = Vec::new();
        for dom in self.conn.list_all_domains(0).map_err(self.failed(OP))? {
            let uuid = dom.get_uuid().map_err(self.failed(OP))?;
            match self.facts(OP, &dom, jobs.get(&uuid).copied().unwrap_or(Job::None)) {
                Ok(domain) => found.push(domain),
                // It left between the list and the look.
                Err(HvError::NoDomain { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(found)
    }

    pub(super) fn domain(&self, uuid: Uuid, job: Job) -> Result<Domain, HvError> {
        const OP: &str = "look at domain";
        self.facts(OP, &self.lookup(OP, uuid)?, job)
    }

    /// `job` was looked at before the state is, here: a domain that arrives between the two looks shows as
    /// running, never as left behind by a broken migration. Nothing here waits for QEMU.
    fn facts(&self, op: &'static str, dom: &virt::domain::Domain, job: Job) -> Result<Domain, HvError> {
        let failed = self.failed(op);
        let uuid = dom.get_uuid().map_err(&failed)?;
        let (state, reason) = dom.get_state().map_err(&failed)?;
        let info = dom.get_info().map_err(&failed)?;
        let xml = dom.get_xml_desc(0).map_err(&failed)?;
        let facts = xml::facts(&xml).map_err(|e| internal(op, format!("the XML of {uuid}: {e}")))?;
        Ok(Domain {
            uuid,
            name: dom.get_name().map_err(&failed)?,
            state: domain_state(state, reason, job),
            persistent: dom.is_persistent().map_err(&failed)?,
            autostart: dom.get_autostart().map_err(&failed)?,
            channel: facts.channel,
            memory_kib: info.max_mem,
            vcpus: info.nr_virt_cpu,
            needs: facts.needs,
            ticket_xml: facts.ticket_xml,
            random_xml: facts.random_xml,
            seal_xml: facts.seal_xml,
            interfaces: facts.interfaces,
            storage: facts.storage,
            permitted: facts.permitted,
            job_active: job != Job::None,
        })
    }

    /// May hang as long as the domain's QEMU does.
    pub(super) fn job_kind(&self, uuid: Uuid) -> Result<Job, HvError> {
        const OP: &str = "look at job";
        match ffi::job_stats(&self.lookup(OP, uuid)?, 0) {
            Ok((sys::VIR_DOMAIN_JOB_NONE, _)) => Ok(Job::None),
            Ok(_) => Ok(Job::Outgoing),
            Err(e) => match Failure::from(e) {
                // "migration statistics are available only on the source host"
                Failure { code: sys::VIR_ERR_OPERATION_UNSUPPORTED, .. } => Ok(Job::Incoming),
                // It does not run.
                Failure { code: sys::VIR_ERR_OPERATION_INVALID, .. } => Ok(Job::None),
                failure => Err(failure.into_error(OP, &self.uri)),
            },
        }
    }

    pub(super) fn domain_on(&self, uuid: Uuid) -> Result<Option<DomainState>, HvError> {
        const OP: &str = "look for domain";
        let look = || -> Result<DomainState, HvError> {
            let dom = self.lookup(OP, uuid)?;
            let (state, _) = dom.get_state().map_err(self.failed(OP))?;
            // The job matters only here, and at a source in switch-over it takes until that is over.
            let job = match state {
                sys::VIR_DOMAIN_PAUSED => self.job_kind(uuid)?,
                _ => Job::None,
            };
            let (state, reason) = dom.get_state().map_err(self.failed(OP))?;
            Ok(domain_state(state, reason, job))
        };
        match look() {
            Ok(state) => Ok(Some(state)),
            Err(HvError::NoDomain { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    pub(super) fn set_ticket(&self, uuid: Uuid, xml: Option<&str>) -> Result<(), HvError> {
        self.set_element("set ticket", uuid, xml, TICKET_NAMESPACE)
    }

    pub(super) fn set_schedule(&self, uuid: Uuid, xml: Option<&str>) -> Result<(), HvError> {
        self.set_element("set schedule", uuid, xml, SCHEDULE_NAMESPACE)
    }

    pub(super) fn set_seal(&self, uuid: Uuid, xml: Option<&str>) -> Result<(), HvError> {
        self.set_element("set seal", uuid, xml, SEAL_NAMESPACE)
    }

    /// In the running domain only: the definition on disk must carry neither ticket nor schedule nor seal into the next
    /// boot.
    fn set_element(
        &self,
        op: &'static str,
        uuid: Uuid,
        xml: Option<&str>,
        namespace: &str,
    ) -> Result<(), HvError> {
        without_nul(op, xml.unwrap_or_default())?;
        let dom = self.lookup(op, uuid)?;
        dom.set_metadata(
            sys::VIR_DOMAIN_METADATA_ELEMENT as i32,
            xml,
            Some(METADATA_KEY),
            Some(namespace),
            sys::VIR_DOMAIN_AFFECT_LIVE,
        )
        .map_err(self.failed(op))?;
        Ok(())
    }

    /// Gives the domain our port and the permission, or takes both: in the running VM and in its definition, whichever
    /// there are. A serial line of ours counts as a port, and stays.
    pub(super) fn set_part(&self, uuid: Uuid, on: bool) -> Result<Part, HvError> {
        const OP: &str = "let take part";
        let failed = self.failed(OP);
        let dom = self.lookup(OP, uuid)?;
        let part = Part {
            running: dom.is_active().map_err(&failed)?,
            persistent: dom.is_persistent().map_err(&failed)?,
        };
        let states = [
            (part.running, sys::VIR_DOMAIN_AFFECT_LIVE, 0),
            (part.persistent, sys::VIR_DOMAIN_AFFECT_CONFIG, sys::VIR_DOMAIN_XML_INACTIVE),
        ];
        let states: Vec<_> = states.into_iter().filter(|(there, ..)| *there).collect();
        let flags = states.iter().fold(0, |all, (_, flag, _)| all | flag);
        let permit = || {
            let element = on.then_some("<part/>");
            let kind = sys::VIR_DOMAIN_METADATA_ELEMENT as i32;
            dom.set_metadata(kind, element, Some(METADATA_KEY), Some(PART_NAMESPACE), flags)
                .map(drop)
                .map_err(&failed)
        };
        // Who is let take part can, and who is not any more loses the right first.
        if !on {
            permit()?;
        }
        for (_, flag, kind) in &states {
            let text = dom.get_xml_desc(*kind).map_err(&failed)?;
            let port = xml::port(&text).map_err(|e| internal(OP, format!("the XML of {uuid}: {e}")))?;
            match (&port.element, on) {
                (None, true) if port.line => {}
                (None, true) if *flag == sys::VIR_DOMAIN_AFFECT_LIVE && !port.controller => {
                    return Err(HvError::Refused {
                        operation: OP,
                        detail:
                            "it runs without a virtio-serial controller, and libvirt adds none to a running \
                                 VM; shut it down, enable it, and start it"
                                .to_owned(),
                    });
                }
                (None, true) => {
                    dom.attach_device_flags(&xml::new_port(), *flag).map_err(&failed)?;
                }
                (Some(element), false) => {
                    without_nul(OP, element)?;
                    dom.detach_device_flags(element, *flag).map_err(&failed)?;
                }
                (Some(_), true) | (None, false) => {}
            }
        }
        if on {
            permit()?;
        }
        Ok(part)
    }

    pub(super) fn set_autostart(&self, uuid: Uuid, on: bool) -> Result<(), HvError> {
        const OP: &str = "set autostart";
        self.lookup(OP, uuid)?.set_autostart(on).map_err(self.failed(OP))?;
        Ok(())
    }

    pub(super) fn set_max_downtime(&self, uuid: Uuid, ms: u64) -> Result<(), HvError> {
        const OP: &str = "set max downtime";
        self.lookup(OP, uuid)?.migrate_set_max_downtime(ms, 0).map_err(self.failed(OP))?;
        Ok(())
    }

    pub(super) fn abort(&self, uuid: Uuid) -> Result<(), HvError> {
        const OP: &str = "abort job";
        ffi::abort_job(&self.lookup(OP, uuid)?).map_err(self.failed(OP))
    }

    /// [`super::Libvirt::cut_copies`]
    pub(super) fn cut_copies(&self, uuid: Uuid) -> Result<usize, HvError> {
        const OP: &str = "give up connections";
        let dom = self.lookup(OP, uuid)?;
        let told = dom.qemu_monitor_command(r#"{"execute":"query-yank"}"#, 0).map_err(self.failed(OP))?;
        let instances = yank::of_a_migration(&told);
        if !instances.is_empty() {
            dom.qemu_monitor_command(&yank::order(&instances), 0).map_err(self.failed(OP))?;
        }
        Ok(instances.len())
    }

    /// May hang as long as the domain's QEMU does.
    pub(super) fn job(&self, uuid: Uuid) -> Result<Option<JobFigures>, HvError> {
        const OP: &str = "read job";
        match ffi::job_stats(&self.lookup(OP, uuid)?, 0) {
            Ok((sys::VIR_DOMAIN_JOB_NONE, _)) => Ok(None),
            Ok((_, params)) => Ok(Some(job_figures(&params))),
            Err(e) => match Failure::from(e) {
                Failure { code: sys::VIR_ERR_OPERATION_UNSUPPORTED, .. } => Ok(None),
                failure => Err(failure.into_error(OP, &self.uri)),
            },
        }
    }

    pub(super) fn completed_job(&self, uuid: Uuid) -> Result<Option<JobFigures>, HvError> {
        const OP: &str = "read completed job";
        let flags = sys::VIR_DOMAIN_JOB_STATS_COMPLETED | sys::VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED;
        let (kind, params) = ffi::job_stats(&self.lookup(OP, uuid)?, flags).map_err(self.failed(OP))?;
        Ok((kind != sys::VIR_DOMAIN_JOB_NONE).then(|| job_figures(&params)))
    }

    pub(super) fn sample(&self) -> Result<HostSample, HvError> {
        const OP: &str = "sample host";
        let node = self.conn.get_node_info().map_err(self.failed(OP))?;
        let host_uuid = match self.host_uuid.get() {
            Some(known) => *known,
            None => {
                let capabilities = self.conn.get_capabilities().map_err(self.failed(OP))?;
                *self.host_uuid.get_or_init(|| xml::host_uuid(&capabilities))
            }
        };
        let vcpus = self.vcpu_times();
        let mut domains = Vec::new();
        let active =
            self.conn.list_all_domains(sys::VIR_CONNECT_LIST_DOMAINS_ACTIVE).map_err(self.failed(OP))?;
        for dom in active {
            let look = || -> Result<DomainSample, virt::error::Error> {
                // Not virConnectGetAllDomainStats: that takes CPU time from cgroups, which a host may lack.
                let info = dom.get_info()?;
                let uuid = dom.get_uuid()?;
                Ok(DomainSample {
                    uuid,
                    vcpus: info.nr_virt_cpu,
                    memory_kib: info.max_mem,
                    cpu_time_ns: info.cpu_time,
                    vcpu: vcpus.get(&uuid).copied(),
                })
            };
            match look().map_err(self.failed(OP)) {
                Ok(sample) => domains.push(sample),
                Err(e @ HvError::Unreachable { .. }) => return Err(e),
                // It stopped in between.
                Err(_) => {}
            }
        }
        let broker = self.mark();
        Ok(HostSample { cpus: node.cpus, memory_kib: node.memory, host_uuid, domains, broker })
    }

    fn vcpu_times(&self) -> HashMap<Uuid, VcpuTimes> {
        match ffi::domain_stats(&self.conn, sys::VIR_DOMAIN_STATS_VCPU) {
            Ok(stats) => {
                stats.into_iter().filter_map(|(uuid, params)| Some((uuid, vcpu_times(&params)?))).collect()
            }
            Err(e) => {
                tracing::debug!(uri = %self.uri, error = %e, "no vCPU statistics");
                HashMap::new()
            }
        }
    }

    /// The broker's sign of life on this host, if there is one.
    fn mark(&self) -> Option<Mark> {
        // Without a secret driver there are no marks: as if there were no broker, which the configuration may allow.
        let secret = Secret::lookup_by_uuid(&self.conn, MARK).ok()?;
        xml::mark(&secret.get_xml_desc(0).ok()?)
    }

    /// An ephemeral secret without a value: libvirt keeps it in memory, shows it to whoever may manage the host, and
    /// forgets it when it ends.
    pub(super) fn set_mark(&self, mark: &Mark) -> Result<(), HvError> {
        Secret::define_xml(&self.conn, &xml::mark_xml(MARK, mark), 0).map_err(self.failed("leave a mark"))?;
        Ok(())
    }

    pub(super) fn remove_mark(&self) -> Result<(), HvError> {
        let failed = self.failed("remove the mark");
        Secret::lookup_by_uuid(&self.conn, MARK).map_err(&failed)?.undefine().map_err(failed)
    }

    /// Lets a paused domain run. Not one whose memory may be elsewhere: the caller knows that it is not.
    pub(super) fn resume(&self, uuid: Uuid) -> Result<(), HvError> {
        const OP: &str = "resume";
        self.lookup(OP, uuid)?.resume().map_err(self.failed(OP))?;
        Ok(())
    }

    pub(super) fn suspend(&self, uuid: Uuid) -> Result<(), HvError> {
        const OP: &str = "suspend";
        self.lookup(OP, uuid)?.suspend().map_err(self.failed(OP))?;
        Ok(())
    }

    pub(super) fn can_run(&self, needs: &Needs) -> Result<(), HvError> {
        const OP: &str = "ask for capabilities";
        // libvirt takes an absent value for "your default", which would answer another question.
        for (value, what) in
            [(&needs.virt_type, "type"), (&needs.arch, "architecture"), (&needs.machine, "machine")]
        {
            if value.is_empty() {
                return Err(HvError::Refused {
                    operation: OP,
                    detail: format!("the domain names no {what}"),
                });
            }
            without_nul(OP, value)?;
        }
        let answer = self.conn.get_domain_capabilities(
            None,
            Some(&needs.arch),
            Some(&needs.machine),
            Some(&needs.virt_type),
            0,
        );
        answer.map(|_| ()).map_err(self.failed(OP))
    }

    /// Blocks until the migration has ended one way or the other.
    pub(super) fn migrate(&self, dom: &virt::domain::Domain, spec: &MigrateSpec) -> Result<(), HvError> {
        const OP: &str = "migrate";
        without_nul(OP, &spec.dest_uri)?;
        without_nul(OP, spec.migrate_uri.as_deref().unwrap_or_default())?;
        let mut flags = sys::VIR_MIGRATE_LIVE | sys::VIR_MIGRATE_PEER2PEER;
        if spec.persistent {
            flags |= sys::VIR_MIGRATE_PERSIST_DEST | sys::VIR_MIGRATE_UNDEFINE_SOURCE;
        }
        if spec.auto_converge {
            flags |= sys::VIR_MIGRATE_AUTO_CONVERGE;
        }
        if spec.tls {
            flags |= sys::VIR_MIGRATE_TLS;
        }
        if !spec.disks.is_empty() {
            flags |= if spec.incremental {
                sys::VIR_MIGRATE_NON_SHARED_INC
            } else {
                sys::VIR_MIGRATE_NON_SHARED_DISK
            };
        }
        for disk in &spec.disks {
            without_nul(OP, disk)?;
        }
        let parameters = virt::domain::MigrateParameters {
            uri: spec.migrate_uri.clone(),
            bandwidth: spec.bandwidth_mib_s,
            // Whatever the destination's qemu.conf says: there its QEMU listens, for memory and for disks, and nowhere else.
            listen_address: spec.only_at.map(|ip| ip.to_string()),
            disks_uri: spec.only_at.map(tcp_uri),
            migrate_disks: spec.disks.clone(),
            ..Default::default()
        };

        // There is no migration parameter for it. It stays with the QEMU process, so a failed attempt takes it
        // back; after a good one that process is gone.
        let before = match spec.max_downtime_ms {
            Some(ms) => {
                let before = ffi::max_downtime(dom).map_err(self.failed(OP))?;
                dom.migrate_set_max_downtime(ms, 0).map_err(self.failed(OP))?;
                Some(before)
            }
            None => None,
        };
        let moved = dom.migrate_to_uri3(Some(&spec.dest_uri), parameters, flags);
        moved.map_err(|e| {
            let failure = Failure::from(e);
            // Our own connection holds, so it is the destination that was not reached.
            let uri = if self.alive() { spec.dest_uri.as_str() } else { &self.uri };
            let error = failure.into_error(OP, uri);
            if let Some(before) = before
                && let Err(e) = dom.migrate_set_max_downtime(before, 0)
            {
                tracing::warn!(uuid = %spec.uuid, error = %e, "allowed downtime not put back");
            }
            error
        })
    }

    pub(super) fn migrating(&self, spec: &MigrateSpec) -> Result<virt::domain::Domain, HvError> {
        self.lookup("migrate", spec.uuid)
    }
}

fn tcp_uri(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(v4) => format!("tcp://{v4}"),
        IpAddr::V6(v6) => format!("tcp://[{v6}]"),
    }
}

/// `vcpu.N.time` and `vcpu.N.delay` of all vCPUs; None if there is no such figure.
fn vcpu_times(params: &[(String, Value)]) -> Option<VcpuTimes> {
    let sum = |what: &str| {
        let of = params.iter().filter(|(name, _)| name.starts_with("vcpu.") && name.ends_with(what));
        of.filter_map(|(_, value)| unsigned(value)).reduce(u64::saturating_add)
    };
    Some(VcpuTimes { run_ns: sum(".time")?, wait_ns: sum(".delay")? })
}

fn unsigned(value: &Value) -> Option<u64> {
    match value {
        Value::Uint(v) => Some(*v),
        Value::Int(v) => u64::try_from(*v).ok(),
        Value::Double(_) | Value::Bool(_) | Value::Text(_) => None,
    }
}

/// A job on a running domain, as this host sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Job {
    None,
    /// A migration away from here, a dump, a backup; or QEMU does not answer, as in a switch-over.
    Outgoing,
    /// A migration to here. libvirt reports no figures for it, which is how it is known.
    Incoming,
}

fn domain_state(state: sys::virDomainState, reason: i32, job: Job) -> DomainState {
    let reason = u32::try_from(reason).unwrap_or(0);
    match state {
        sys::VIR_DOMAIN_RUNNING | sys::VIR_DOMAIN_BLOCKED => match reason {
            sys::VIR_DOMAIN_RUNNING_POSTCOPY | sys::VIR_DOMAIN_RUNNING_POSTCOPY_FAILED => {
                DomainState::RunningPostCopy
            }
            _ => DomainState::Running { arrived: reason == sys::VIR_DOMAIN_RUNNING_MIGRATED },
        },
        // The reason is MIGRATION at both ends; only the job tells them apart.
        sys::VIR_DOMAIN_PAUSED if job == Job::Incoming => DomainState::Incoming,
        sys::VIR_DOMAIN_PAUSED => DomainState::Paused {
            // Not in post-copy: such a copy must never run again.
            migration: reason == sys::VIR_DOMAIN_PAUSED_MIGRATION,
        },
        sys::VIR_DOMAIN_SHUTOFF => DomainState::ShutOff,
        _ => DomainState::Other,
    }
}

/// `virt` panics on a NUL inside a string.
pub(super) fn without_nul(operation: &'static str, text: &str) -> Result<(), HvError> {
    if text.contains('\0') {
        return Err(HvError::Refused { operation, detail: "a NUL character in the text".to_owned() });
    }
    Ok(())
}

pub(super) fn internal(operation: &'static str, detail: String) -> HvError {
    HvError::Other {
        operation,
        code: sys::VIR_ERR_INTERNAL_ERROR as i32,
        domain: sys::VIR_FROM_NONE as i32,
        detail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_ends_of_a_migration_are_told_apart_by_the_job() {
        let paused = sys::VIR_DOMAIN_PAUSED;
        let migration = sys::VIR_DOMAIN_PAUSED_MIGRATION as i32;
        assert_eq!(domain_state(paused, migration, Job::Incoming), DomainState::Incoming);
        assert_eq!(domain_state(paused, migration, Job::Outgoing), DomainState::Paused { migration: true });
        assert_eq!(domain_state(paused, migration, Job::None), DomainState::Paused { migration: true });
        assert_eq!(
            domain_state(paused, sys::VIR_DOMAIN_PAUSED_STARTING_UP as i32, Job::Incoming),
            DomainState::Incoming
        );
        assert_eq!(
            domain_state(paused, sys::VIR_DOMAIN_PAUSED_USER as i32, Job::None),
            DomainState::Paused { migration: false }
        );
    }

    #[test]
    fn running_says_whether_it_came_by_migration() {
        let running = |reason: u32| domain_state(sys::VIR_DOMAIN_RUNNING, reason as i32, Job::None);
        assert_eq!(running(sys::VIR_DOMAIN_RUNNING_MIGRATED), DomainState::Running { arrived: true });
        assert_eq!(running(sys::VIR_DOMAIN_RUNNING_BOOTED), DomainState::Running { arrived: false });
        assert_eq!(
            running(sys::VIR_DOMAIN_RUNNING_MIGRATION_CANCELED),
            DomainState::Running { arrived: false }
        );
        assert_eq!(running(sys::VIR_DOMAIN_RUNNING_POSTCOPY), DomainState::RunningPostCopy);
        assert_eq!(domain_state(sys::VIR_DOMAIN_SHUTOFF, 0, Job::None), DomainState::ShutOff);
        assert_eq!(domain_state(sys::VIR_DOMAIN_CRASHED, 0, Job::None), DomainState::Other);
    }

    #[test]
    fn a_nul_is_refused_before_virt_panics_on_it() {
        assert!(matches!(without_nul("migrate", "a\0b"), Err(HvError::Refused { .. })));
    }
}
