//! Storage pools, and what else of a host a domain's disks and devices need.

use super::calls::{Connection, internal, without_nul};
use super::errors::Failure;
use super::xml;
use crate::hypervisor::{DomainState, HvError, Needs};
use crate::storage::{Copy, MakeError, Pool, Question, Refusal, RefusalKind, Removal, Seen, View, Volume};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use uuid::Uuid;
use virt::error::Error;
use virt::nwfilter::NWFilter;
use virt::secret::Secret;
use virt::storage_pool::StoragePool;
use virt::storage_vol::StorageVol;
use virt_sys as sys;

const REMOVE: &str = "remove images";

impl Connection {
    pub(super) fn storage_view(&self, needs: &Needs, question: &Question) -> Result<View, HvError> {
        const OP: &str = "look at storage";
        let mut view = View::default();
        let mut fresh = BTreeSet::new();
        let pools = if question.files.is_empty() { Pools::default() } else { self.pools(OP)? };
        for path in &question.files {
            let seen = self.seen(OP, &pools, path, &mut fresh)?;
            view.files.insert(path.clone(), seen);
        }
        let mut filters: Vec<String> = question.filters.iter().cloned().collect();
        while let Some(name) = filters.pop() {
            without_nul(OP, &name)?;
            if view.filters.contains_key(&name) {
                continue;
            }
            if let Some(filter) = self.there(OP, NWFilter::lookup_by_name(self.raw(), &name))? {
                let (rules, included) = xml::filter(&filter.get_xml_desc(0).map_err(self.failed(OP))?);
                filters.extend(included);
                view.filters.insert(name, rules);
            }
        }
        for uuid in &question.secrets {
            if self.there(OP, Secret::lookup_by_uuid(self.raw(), *uuid))?.is_some() {
                view.secrets.insert(*uuid);
            }
        }
        if question.tpm {
            for value in [&needs.arch, &needs.machine, &needs.virt_type] {
                without_nul(OP, value)?;
            }
            let known = self.raw().get_domain_capabilities(
                None,
                Some(&needs.arch),
                Some(&needs.machine),
                Some(&needs.virt_type),
                0,
            );
            view.tpm = xml::emulates_tpm(&known.map_err(self.failed(OP))?);
        }
        Ok(view)
    }

    /// `fresh` are the pools that were read anew already.
    fn seen(
        &self,
        op: &'static str,
        pools: &Pools,
        path: &str,
        fresh: &mut BTreeSet<String>,
    ) -> Result<Seen, HvError> {
        without_nul(op, path)?;
        let Some((pool, name)) = pools.place(path) else { return Ok(Seen::default()) };
        let failed = self.failed(op);
        let pool_name = pool.get_name().map_err(&failed)?;
        // libvirt knows a pool's files as of its last look, and its room, too.
        if fresh.insert(pool_name.clone()) {
            pool.refresh(0).map_err(&failed)?;
        }
        let volume = self.there(op, StorageVol::lookup_by_name(pool, name))?;
        let volume = volume.map(|volume| -> Result<Volume, Error> {
            let info = volume.get_info()?;
            Ok(Volume {
                format: xml::volume_format(&volume.get_xml_desc(0)?),
                capacity_bytes: info.capacity,
                allocation_bytes: info.allocation,
            })
        });
        let pool = Pool {
            name: pool_name,
            network: xml::mounted(&pool.get_xml_desc(0).map_err(&failed)?),
            available_bytes: pool.get_info().map_err(&failed)?.available,
        };
        Ok(Seen { pool: Some(pool), volume: volume.transpose().map_err(&failed)? })
    }

    /// The active pools that are directories. Asked for all at once: that every driver can.
    fn pools(&self, op: &'static str) -> Result<Pools, HvError> {
        let failed = self.failed(op);
        let active = sys::VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE;
        // None where this libvirt has no storage driver.
        let found = self.there(op, self.raw().list_all_storage_pools(active))?.unwrap_or_default();
        let with_dir = |pool: StoragePool| match pool.get_xml_desc(0) {
            Ok(xml) => xml::target_dir(&xml).map(|dir| Ok((dir, pool))),
            Err(e) => Some(Err(failed(e))),
        };
        found.into_iter().filter_map(with_dir).collect::<Result<_, _>>().map(Pools)
    }

    /// All of them or none. Not to be repeated by itself, so that what it made is never taken for somebody else's: an error
    /// is within the answer.
    pub(super) fn make_images(&self, copies: &[Copy]) -> Result<(), MakeError> {
        let mut made: Vec<StorageVol> = Vec::new();
        let pools = self.pools("make images").map_err(trouble)?;
        for copy in copies {
            match self.make_image(&pools, copy) {
                Ok(volume) => made.push(volume),
                Err(error) => {
                    let left = made.iter().filter(|volume| volume.delete(0).is_err()).count();
                    return Err(MakeError { unsure: error.unsure || left > 0, ..error });
                }
            }
        }
        Ok(())
    }

    fn make_image(&self, pools: &Pools, copy: &Copy) -> Result<StorageVol, MakeError> {
        const OP: &str = "make an image";
        let path = &copy.path;
        without_nul(OP, path).map_err(trouble)?;
        let failed = |e: Error| trouble(self.failed(OP)(e));
        let Some((pool, name)) = pools.place(path) else {
            let detail = format!("the directory of {path} is no active storage pool there any more");
            return Err(refused(RefusalKind::NoPlace, detail));
        };
        // qemu-img overwrites what libvirt does not know of.
        pool.refresh(0).map_err(failed)?;
        if self.there(OP, StorageVol::lookup_by_name(pool, name)).map_err(trouble)?.is_some() {
            let detail = format!("{path} exists at the destination by now; it is never overwritten");
            return Err(refused(RefusalKind::InTheWay, detail));
        }
        StorageVol::create_xml(pool, &xml::volume(name, copy), 0).map_err(|e| {
            let error = self.failed(OP)(e);
            let unsure = matches!(error, HvError::Unreachable { .. });
            MakeError { unsure, ..trouble(error) }
        })
    }

    /// At a destination that the domain did not get to. Not if it is known here all the same, in whatever state: what it
    /// has then is its own. One that is being received goes with its failure.
    pub(super) fn remove_copies(&self, vm: Uuid, copies: &[Copy]) -> Result<Removal, HvError> {
        match self.domain_on(vm)? {
            None => self.remove_images(vm, copies),
            Some(DomainState::Incoming) => Err(HvError::Busy {
                operation: REMOVE,
                detail: "what was received of the VM is not gone from there yet".to_owned(),
            }),
            Some(_) => Ok(Removal::InUse("the VM itself is there".to_owned())),
        }
    }

    /// At a source that the domain has left. Its definition may be there a moment longer.
    pub(super) fn remove_originals(&self, vm: Uuid, copies: &[Copy]) -> Result<Removal, HvError> {
        let domain = self.there(REMOVE, virt::domain::Domain::lookup_by_uuid(self.raw(), vm))?;
        match domain.map(|d| d.is_active()).transpose().map_err(self.failed(REMOVE))? {
            Some(true) => Ok(Removal::InUse("the VM runs here".to_owned())),
            Some(false) | None => self.remove_images(vm, copies),
        }
    }

    /// Not if another domain here names one of them.
    fn remove_images(&self, vm: Uuid, copies: &[Copy]) -> Result<Removal, HvError> {
        let pools = self.pools(REMOVE)?;
        for copy in copies {
            without_nul(REMOVE, &copy.path)?;
            let Some((pool, name)) = pools.place(&copy.path) else {
                let detail = format!("the directory of {} is no active storage pool", copy.path);
                return Err(HvError::Refused { operation: REMOVE, detail });
            };
            if let Some(other) = self.other_user(REMOVE, vm, &copy.path, pool, name)? {
                return Ok(Removal::InUse(format!("another VM, {other}, uses {}", copy.path)));
            }
            if let Some(volume) = self.there(REMOVE, StorageVol::lookup_by_name(pool, name))? {
                volume.delete(0).map_err(self.failed(REMOVE))?;
            }
        }
        Ok(Removal::Gone)
    }

    /// Another domain of this host, running or only defined, that names this file.
    fn other_user(
        &self,
        op: &'static str,
        vm: Uuid,
        path: &str,
        pool: &StoragePool,
        name: &str,
    ) -> Result<Option<String>, HvError> {
        let failed = self.failed(op);
        let pool = pool.get_name().map_err(&failed)?;
        for domain in self.raw().list_all_domains(0).map_err(&failed)? {
            if domain.get_uuid().map_err(&failed)? == vm {
                continue;
            }
            // As it runs, and as it starts next.
            for kind in [0, sys::VIR_DOMAIN_XML_INACTIVE] {
                let Some(xml) = self.there(op, domain.get_xml_desc(kind))? else { continue };
                let named = xml::names(&xml, path, (&pool, name));
                if named.map_err(|e| internal(op, format!("the XML of another domain: {e}")))? {
                    return domain.get_name().map(Some).map_err(&failed);
                }
            }
        }
        Ok(None)
    }

    /// What was looked up, or None where libvirt says that there is none, or that it has no such things at all.
    fn there<T>(&self, op: &'static str, found: Result<T, Error>) -> Result<Option<T>, HvError> {
        match found {
            Ok(found) => Ok(Some(found)),
            Err(e) => match Failure::from(e) {
                Failure {
                    code:
                        sys::VIR_ERR_NO_STORAGE_POOL
                        | sys::VIR_ERR_NO_STORAGE_VOL
                        | sys::VIR_ERR_NO_NWFILTER
                        | sys::VIR_ERR_NO_SECRET
                        | sys::VIR_ERR_NO_DOMAIN
                        | sys::VIR_ERR_NO_SUPPORT,
                    ..
                } => Ok(None),
                failure => Err(failure.into_error(op, self.uri())),
            },
        }
    }
}

/// Directories that are active storage pools.
#[derive(Default)]
struct Pools(Vec<(PathBuf, StoragePool)>);

impl Pools {
    /// The pool of a file's directory, and the file's name in it.
    fn place<'a>(&'a self, path: &'a str) -> Option<(&'a StoragePool, &'a str)> {
        let path = Path::new(path);
        let name = path.file_name()?.to_str()?;
        let (_, pool) = self.0.iter().find(|(dir, _)| Some(dir.as_path()) == path.parent())?;
        Some((pool, name))
    }
}

fn refused(kind: RefusalKind, detail: String) -> MakeError {
    MakeError { refusal: Refusal { kind, detail }, unsure: false }
}

fn trouble(e: HvError) -> MakeError {
    refused(RefusalKind::NotKnown, e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::libvirt::keeper::start_event_loop;
    use std::sync::Arc;

    const DIR: &str = "/default-pool";

    fn copy(name: &str) -> Copy {
        Copy {
            target: "vda".into(),
            path: format!("{DIR}/{name}"),
            format: "raw".into(),
            capacity_bytes: 1 << 20,
            needs_bytes: 1 << 20,
            base: None,
        }
    }

    fn look(connection: &Connection, path: &str) -> Seen {
        let needs = Needs { virt_type: "test".into(), arch: "i686".into(), machine: String::new() };
        let question = Question { files: [path.to_owned()].into(), ..Question::default() };
        let mut view = connection.storage_view(&needs, &question).unwrap();
        view.files.remove(path).unwrap()
    }

    /// libvirt's own test driver has a storage pool, and a VM that runs.
    #[test]
    fn images_are_made_all_or_none_and_removed_unless_a_vm_has_them() {
        start_event_loop().unwrap();
        let connection = Connection::open(&Arc::from("test:///default")).unwrap();
        let vm = Uuid::from_u128(1);
        assert_eq!(look(&connection, "/elsewhere/a.raw"), Seen::default());
        let before = look(&connection, &copy("a.raw").path);
        assert!(before.pool.is_some_and(|p| p.available_bytes > 0) && before.volume.is_none());

        connection.make_images(&[copy("a.raw")]).unwrap();
        let volume = look(&connection, &copy("a.raw").path).volume.unwrap();
        assert_eq!((volume.format.as_str(), volume.capacity_bytes), ("raw", 1 << 20));
        // Of two the second is in the way: the first goes again, the second stays.
        let error = connection.make_images(&[copy("b.raw"), copy("a.raw")]).unwrap_err();
        assert_eq!((error.refusal.kind, error.unsure), (RefusalKind::InTheWay, false));
        assert_eq!(look(&connection, &copy("b.raw").path).volume, None);
        assert!(look(&connection, &copy("a.raw").path).volume.is_some());

        // A VM that is known there has them, whether or not it runs; and so has another one, be it only defined.
        let here = virt::domain::Domain::lookup_by_name(connection.raw(), "test").unwrap();
        let removed = |vm| connection.remove_copies(vm, &[copy("a.raw"), copy("never-there.raw")]).unwrap();
        let in_use = |vm| matches!(removed(vm), Removal::InUse(_));
        assert!(in_use(here.get_uuid().unwrap()));
        let other = format!(
            "<domain type='test'><name>other</name><memory>1024</memory><os><type>hvm</type></os><devices>\
             <disk type='file'><source file='{DIR}/a.raw'/><target dev='vda'/></disk></devices></domain>"
        );
        let other = virt::domain::Domain::define_xml(connection.raw(), &other).unwrap();
        assert!(in_use(other.get_uuid().unwrap()), "shut off is not gone");
        assert!(in_use(vm));
        let originals = connection.remove_originals(vm, &[copy("a.raw")]).unwrap();
        assert!(matches!(&originals, Removal::InUse(who) if who.contains("other")), "{originals:?}");
        assert!(look(&connection, &copy("a.raw").path).volume.is_some());
        other.undefine().unwrap();
        assert_eq!(removed(vm), Removal::Gone);
        assert_eq!(look(&connection, &copy("a.raw").path).volume, None);
    }
}
