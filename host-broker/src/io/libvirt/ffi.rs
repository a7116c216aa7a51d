//! The part of libvirt's C API that the `virt` crate does not wrap, or wraps so that it breaks.
//!
//! All `unsafe` of the broker's hypervisor side is here: domain events and the close callback (not wrapped),
//! abort and the getter of the allowed downtime (not wrapped), and job statistics (`virt` hands libvirt's memory
//! to Rust's allocator, and a NULL list when no job runs). What comes out is plain and owned.
#![expect(
    unsafe_code,
    reason = "libvirt's C API; every call is wrapped here, nothing unsafe leaves this file"
)]

use std::ffi::{CStr, c_int, c_ulonglong, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use uuid::Uuid;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::Error;
use virt_sys as sys;

/// A typed parameter's value. A type this libvirt invents later is left out by [`copy_params`].
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Int(i64),
    Uint(u64),
    Double(f64),
    Bool(bool),
    Text(String),
}

/// libvirt's list of named values.
type Named = Vec<(String, Value)>;

/// What libvirt tells without being asked, copied out of its memory.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Raw {
    Lifecycle {
        uuid: Uuid,
        event: c_int,
        detail: c_int,
    },
    Iteration {
        uuid: Uuid,
        round: c_int,
    },
    JobCompleted {
        uuid: Uuid,
        params: Vec<(String, Value)>,
    },
    /// The connection is gone: virConnectCloseReason.
    Closed {
        reason: c_int,
    },
}

/// Where callbacks put what they hear. Never freed: libvirt may deliver a queued event after the callback's
/// removal was asked for, and one sink serves all connections of the process's life.
pub(super) struct Sink(Box<dyn Fn(Raw) + Send + Sync>);

impl Sink {
    pub(super) fn leak(hear: impl Fn(Raw) + Send + Sync + 'static) -> &'static Sink {
        Box::leak(Box::new(Sink(Box::new(hear))))
    }

    fn as_opaque(&'static self) -> *mut c_void {
        ptr::from_ref(self).cast_mut().cast()
    }
}

/// The callbacks registered on one connection; dropping it takes them back, which lets the connection be freed.
pub(super) struct Subscription<'c> {
    conn: &'c Connect,
    ids: Vec<c_int>,
    close: bool,
}

/// Events that could not be subscribed to, by name, with libvirt's reason.
pub(super) type Missing = Vec<(&'static str, Error)>;

/// Subscribes `sink` to everything the broker listens to. An event which this libvirt lacks is named in the
/// answer; without lifecycle events there is nothing to be said about domains, so that is an error.
pub(super) fn subscribe<'c>(
    conn: &'c Connect,
    sink: &'static Sink,
) -> Result<(Subscription<'c>, Missing), Error> {
    let mut subscription = Subscription { conn, ids: Vec::new(), close: false };
    let mut missing = Vec::new();

    // SAFETY: the connection is open; the callback has the type libvirt wants for it, and its opaque pointer
    // is a `&'static Sink`, so it is valid whenever libvirt calls. No free function is needed for that.
    let closing = unsafe {
        sys::virConnectRegisterCloseCallback(conn.as_ptr(), Some(on_close), sink.as_opaque(), None)
    };
    if closing == 0 {
        subscription.close = true;
    } else {
        missing.push(("connection closed", Error::last_error()));
    }

    let mut register = |id: sys::virDomainEventID, callback| {
        // SAFETY: as above; `callback` is the function type which libvirt documents for `id`, cast to the
        // generic one as its API demands. A NULL domain means all domains.
        let registered = unsafe {
            sys::virConnectDomainEventRegisterAny(
                conn.as_ptr(),
                ptr::null_mut(),
                id as c_int,
                Some(callback),
                sink.as_opaque(),
                None,
            )
        };
        if registered < 0 {
            return Err(Error::last_error());
        }
        subscription.ids.push(registered);
        Ok(())
    };

    // SAFETY: function pointers of the same size and ABI; libvirt casts them back by event ID before it calls.
    let (lifecycle, iteration, job_completed) = unsafe {
        (
            std::mem::transmute::<LifecycleFn, GenericFn>(on_lifecycle),
            std::mem::transmute::<IterationFn, GenericFn>(on_iteration),
            std::mem::transmute::<JobCompletedFn, GenericFn>(on_job_completed),
        )
    };
    register(sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle)?;
    if let Err(e) = register(sys::VIR_DOMAIN_EVENT_ID_MIGRATION_ITERATION, iteration) {
        missing.push(("migration iteration", e));
    }
    if let Err(e) = register(sys::VIR_DOMAIN_EVENT_ID_JOB_COMPLETED, job_completed) {
        missing.push(("job completed", e));
    }
    Ok((subscription, missing))
}

impl Drop for Subscription<'_> {
    fn drop(&mut self) {
        for &id in &self.ids {
            // SAFETY: `id` was given by this connection, which is still open on our side. On a dead connection
            // the call fails after it has dropped the callback locally, which is all that is wanted.
            unsafe { sys::virConnectDomainEventDeregisterAny(self.conn.as_ptr(), id) };
        }
        if self.close {
            // SAFETY: the same connection and function as registered.
            unsafe { sys::virConnectUnregisterCloseCallback(self.conn.as_ptr(), Some(on_close)) };
        }
    }
}

type GenericFn = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *mut c_void);
type LifecycleFn =
    unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, c_int, *mut c_void) -> c_int;
type IterationFn = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, *mut c_void);
type JobCompletedFn = unsafe extern "C" fn(
    sys::virConnectPtr,
    sys::virDomainPtr,
    sys::virTypedParameterPtr,
    c_int,
    *mut c_void,
);

unsafe extern "C" fn on_close(_conn: sys::virConnectPtr, reason: c_int, opaque: *mut c_void) {
    // SAFETY: `opaque` is the sink registered with this callback.
    unsafe { hear(opaque, || Some(Raw::Closed { reason })) }
}

unsafe extern "C" fn on_lifecycle(
    _conn: sys::virConnectPtr,
    dom: sys::virDomainPtr,
    event: c_int,
    detail: c_int,
    opaque: *mut c_void,
) -> c_int {
    // SAFETY: `opaque` is the sink registered with this callback; `dom` is valid during it.
    unsafe { hear(opaque, || Some(Raw::Lifecycle { uuid: uuid_of(dom)?, event, detail })) };
    0
}

unsafe extern "C" fn on_iteration(
    _conn: sys::virConnectPtr,
    dom: sys::virDomainPtr,
    round: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: `opaque` is the sink registered with this callback; `dom` is valid during it.
    unsafe { hear(opaque, || Some(Raw::Iteration { uuid: uuid_of(dom)?, round })) }
}

unsafe extern "C" fn on_job_completed(
    _conn: sys::virConnectPtr,
    dom: sys::virDomainPtr,
    params: sys::virTypedParameterPtr,
    count: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: `opaque` is the sink registered with this callback; `dom` and the list are valid during it and
    // stay libvirt's, which frees them afterwards.
    unsafe {
        hear(opaque, || Some(Raw::JobCompleted { uuid: uuid_of(dom)?, params: copy_params(params, count) }));
    }
}

/// Hands an event to the sink. A panic must not unwind into libvirt's C frames: it ends here, with the event.
///
/// # Safety
/// `opaque` must come from [`Sink::as_opaque`].
unsafe fn hear(opaque: *mut c_void, event: impl FnOnce() -> Option<Raw>) {
    // SAFETY: a `&'static Sink` by the caller's promise.
    let sink = unsafe { &*opaque.cast::<Sink>() };
    let heard = catch_unwind(AssertUnwindSafe(|| {
        if let Some(event) = event() {
            (sink.0)(event);
        }
    }));
    if heard.is_err() {
        tracing::error!("a libvirt event was lost: its handler panicked");
    }
}

/// # Safety
/// `dom` must be a valid domain.
unsafe fn uuid_of(dom: sys::virDomainPtr) -> Option<Uuid> {
    let mut bytes = [0u8; sys::VIR_UUID_BUFLEN as usize];
    // SAFETY: `dom` is valid by the caller's promise and the buffer has the size libvirt fills.
    let got = unsafe { sys::virDomainGetUUID(dom, bytes.as_mut_ptr()) };
    (got == 0).then(|| Uuid::from_bytes(bytes))
}

/// The running job's type (virDomainJobType) and figures, or the completed one's. No job: no figures.
pub(super) fn job_stats(
    dom: &Domain,
    flags: sys::virDomainGetJobStatsFlags,
) -> Result<(sys::virDomainJobType, Vec<(String, Value)>), Error> {
    let mut kind: c_int = 0;
    let mut params: sys::virTypedParameterPtr = ptr::null_mut();
    let mut count: c_int = 0;
    // SAFETY: the domain is valid, the out pointers live through the call.
    let got = unsafe { sys::virDomainGetJobStats(dom.as_ptr(), &mut kind, &mut params, &mut count, flags) };
    if got < 0 {
        return Err(Error::last_error());
    }
    // SAFETY: libvirt filled `params` with `count` entries, or left it NULL; it is ours to free with
    // virTypedParamsFree, which takes NULL, and nothing borrowed from it is kept.
    let copied = unsafe {
        let copied = copy_params(params, count);
        sys::virTypedParamsFree(params, count);
        copied
    };
    Ok((kind as sys::virDomainJobType, copied))
}

/// Statistics of every active domain. Does not wait for a domain that another job holds.
pub(super) fn domain_stats(
    conn: &Connect,
    stats: sys::virDomainStatsTypes,
) -> Result<Vec<(Uuid, Named)>, Error> {
    let flags = sys::VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE | sys::VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT;
    let mut records: *mut sys::virDomainStatsRecordPtr = ptr::null_mut();
    // SAFETY: the connection is valid, the out pointer lives through the call.
    let count = unsafe { sys::virConnectGetAllDomainStats(conn.as_ptr(), stats, &mut records, flags) };
    let Ok(count) = usize::try_from(count) else { return Err(Error::last_error()) };
    // SAFETY: libvirt filled `records` with `count` valid records; they are freed once, after everything that is
    // kept was copied.
    unsafe {
        let copied = std::slice::from_raw_parts(records, count)
            .iter()
            .filter_map(|&record| {
                let params = copy_params((*record).params, (*record).nparams);
                uuid_of((*record).dom).map(|uuid| (uuid, params))
            })
            .collect();
        sys::virDomainStatsRecordListFree(records);
        Ok(copied)
    }
}

/// Asks libvirt to abort the domain's job. Returns when it was asked, not when the job has ended.
pub(super) fn abort_job(dom: &Domain) -> Result<(), Error> {
    // SAFETY: the domain is valid.
    let asked = unsafe { sys::virDomainAbortJob(dom.as_ptr()) };
    if asked < 0 { Err(Error::last_error()) } else { Ok(()) }
}

/// The downtime QEMU is allowed at the end of a migration, in ms.
pub(super) fn max_downtime(dom: &Domain) -> Result<u64, Error> {
    let mut ms: c_ulonglong = 0;
    // SAFETY: the domain is valid, the out pointer lives through the call.
    let got = unsafe { sys::virDomainMigrateGetMaxDowntime(dom.as_ptr(), &mut ms, 0) };
    if got < 0 { Err(Error::last_error()) } else { Ok(ms) }
}

/// # Safety
/// `params` must be NULL or point to `count` parameters filled by libvirt.
unsafe fn copy_params(params: sys::virTypedParameterPtr, count: c_int) -> Vec<(String, Value)> {
    let Ok(count) = usize::try_from(count) else { return Vec::new() };
    if params.is_null() || count == 0 {
        return Vec::new();
    }
    // SAFETY: not NULL, and of that length by the caller's promise.
    let params = unsafe { std::slice::from_raw_parts(params, count) };
    params
        .iter()
        .filter_map(|p| {
            let name: Vec<u8> = p.field.iter().map(|&c| c as u8).take_while(|&b| b != 0).collect();
            // SAFETY: `type_` says which member of the union libvirt filled.
            let value = unsafe {
                match p.type_ as sys::virTypedParameterType {
                    sys::VIR_TYPED_PARAM_INT => Value::Int(p.value.i.into()),
                    sys::VIR_TYPED_PARAM_UINT => Value::Uint(p.value.ui.into()),
                    sys::VIR_TYPED_PARAM_LLONG => Value::Int(p.value.l),
                    sys::VIR_TYPED_PARAM_ULLONG => Value::Uint(p.value.ul),
                    sys::VIR_TYPED_PARAM_DOUBLE => Value::Double(p.value.d),
                    sys::VIR_TYPED_PARAM_BOOLEAN => Value::Bool(p.value.b != 0),
                    sys::VIR_TYPED_PARAM_STRING if !p.value.s.is_null() => {
                        Value::Text(CStr::from_ptr(p.value.s).to_string_lossy().into_owned())
                    }
                    _ => return None,
                }
            };
            Some((String::from_utf8_lossy(&name).into_owned(), value))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn param(
        name: &str,
        kind: sys::virTypedParameterType,
        value: sys::_virTypedParameterValue,
    ) -> sys::virTypedParameter {
        let mut field = [0; 80];
        for (to, from) in field.iter_mut().zip(name.bytes()) {
            *to = from as _;
        }
        sys::virTypedParameter { field, type_: kind as c_int, value }
    }

    #[test]
    fn a_missing_list_is_empty() {
        // SAFETY: NULL is allowed, whatever the count says.
        unsafe {
            assert_eq!(copy_params(ptr::null_mut(), 0), vec![]);
            assert_eq!(copy_params(ptr::null_mut(), 7), vec![]);
            assert_eq!(copy_params(ptr::null_mut(), -1), vec![]);
        }
    }

    #[test]
    fn unknown_types_and_null_text_are_skipped() {
        let mut list = [
            param("downtime", sys::VIR_TYPED_PARAM_ULLONG, sys::_virTypedParameterValue { ul: 31 }),
            param("later", 99, sys::_virTypedParameterValue { ul: 1 }),
            param("errmsg", sys::VIR_TYPED_PARAM_STRING, sys::_virTypedParameterValue { s: ptr::null_mut() }),
            param("operation", sys::VIR_TYPED_PARAM_INT, sys::_virTypedParameterValue { i: 5 }),
            // A name that fills the whole field has no NUL.
            param(&"x".repeat(80), sys::VIR_TYPED_PARAM_BOOLEAN, sys::_virTypedParameterValue { b: 1 }),
        ];
        // SAFETY: a list of that length.
        let copied = unsafe { copy_params(list.as_mut_ptr(), 5) };
        assert_eq!(
            copied,
            vec![
                ("downtime".to_owned(), Value::Uint(31)),
                ("operation".to_owned(), Value::Int(5)),
                ("x".repeat(80), Value::Bool(true)),
            ]
        );
    }

    #[test]
    fn a_panicking_handler_does_not_unwind_into_libvirt() {
        let sink = Sink::leak(|_| panic!("handler"));
        // SAFETY: the sink's own opaque pointer; on_close ignores the connection.
        unsafe { on_close(ptr::null_mut(), 1, sink.as_opaque()) };
    }
}
