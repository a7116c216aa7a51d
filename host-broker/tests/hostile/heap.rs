//! What the broker's thread holds on the heap.
#![allow(unsafe_code, reason = "to count what is allocated, one has to be the allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicI64, Ordering};

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

static NOW: AtomicI64 = AtomicI64::new(0);
static PEAK: AtomicI64 = AtomicI64::new(0);

thread_local! {
    static COUNTED: Cell<bool> = const { Cell::new(false) };
}

/// From now on this thread counts. It must free what it allocates.
pub fn count_this_thread() {
    COUNTED.set(true);
}

pub fn now() -> i64 {
    NOW.load(Ordering::Relaxed)
}

/// The most since [`forget_peak`].
pub fn peak() -> i64 {
    PEAK.load(Ordering::Relaxed)
}

pub fn forget_peak() {
    PEAK.store(now(), Ordering::Relaxed);
}

fn add(bytes: i64) {
    if COUNTED.get() {
        let now = NOW.fetch_add(bytes, Ordering::Relaxed) + bytes;
        PEAK.fetch_max(now, Ordering::Relaxed);
    }
}

// SAFETY: every call is handed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as i64);
        // SAFETY: as the caller promised us.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        add(-(layout.size() as i64));
        // SAFETY: as the caller promised us.
        unsafe { System.dealloc(at, layout) }
    }
}
