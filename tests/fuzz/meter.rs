//! What an input costs in memory: an allocator that counts.

#![expect(unsafe_code, reason = "an allocator cannot be written without it")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
    static TOTAL: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(bytes: usize) {
    // A thread that ends has no counters any more, and measures nothing.
    let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(bytes)));
    let _ = TOTAL.try_with(|total| total.set(total.get().saturating_add(bytes)));
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// Memory that was set aside, given back or not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// The largest piece.
    pub largest: usize,
    /// All pieces together.
    pub total: usize,
}

/// What `work` sets aside on this thread.
pub fn cost<T>(work: impl FnOnce() -> T) -> (T, Cost) {
    LARGEST.set(0);
    TOTAL.set(0);
    let done = work();
    (done, Cost { largest: LARGEST.get(), total: TOTAL.get() })
}
