//! The migrate call alone: the same code of the broker's that makes it, on a connection of its own, and nothing else.

use super::runtime;
use coms_broker::hypervisor::{HvEvent, MigrateSpec};
use coms_broker::io::libvirt::Libvirt;
use coms_story::Result;
use tokio::sync::mpsc;
use uuid::Uuid;

/// The call's duration is in the log, as in the broker's.
pub fn run(uuid: Uuid, to: String, libvirt: &str) -> Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new("coms_broker::io::libvirt=debug"))
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    runtime()?.block_on(async {
        let (tx, mut events) = mpsc::unbounded_channel();
        let libvirt = Libvirt::start(libvirt, tx);
        match events.recv().await {
            Some(HvEvent::Connected) => {}
            other => return Err(format!("no connection to libvirt: {other:?}").into()),
        }
        let spec = MigrateSpec {
            uuid,
            dest_uri: to,
            migrate_uri: None,
            only_at: None,
            persistent: false,
            bandwidth_mib_s: None,
            auto_converge: false,
            tls: false,
            max_downtime_ms: None,
            disks: Vec::new(),
            incremental: false,
        };
        Ok(libvirt.migrate(spec).await?)
    })
}
