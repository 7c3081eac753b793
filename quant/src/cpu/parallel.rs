//! How a product is spread over threads: contiguous ranges of rows, and one output they share.
//!
//! Always holds: which thread computes a row never changes its value, and products too small to
//! pay for waking a thread stay on the calling one.

#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;

use rayon::prelude::*;

/// Below this much estimated time a product stays on the calling thread: handing work to a
/// sleeping thread costs several microseconds on both sides.
const MIN_PARALLEL_NS: usize = 20_000;

/// The same for callers outside rayon's threads, which also have to sleep and be woken again.
const MIN_PARALLEL_NS_OUTSIDE: usize = 60_000;

/// Ranges per thread: more than one, so that a thread that was late does not hold up the rest.
const RANGES_PER_THREAD: usize = 4;

/// Rows in a range are a multiple of this, so that no two ranges cut the same panel in two.
pub(super) const ROW_STEP: usize = 16;

/// Calls `work` with an index into `rows` and ranges that cover `0..rows[index]`, for each index;
/// `ns` estimates the whole work on one thread.
pub(super) fn for_rows_of_each(
    rows: &[usize],
    ns: usize,
    work: impl Fn(usize, Range<usize>) + Sync,
) {
    let threads = rayon::current_num_threads();
    let inside = rayon::current_thread_index().is_some();
    let floor = if inside {
        MIN_PARALLEL_NS
    } else {
        MIN_PARALLEL_NS_OUTSIDE
    };
    let total: usize = rows.iter().sum();
    if ns < floor || threads == 1 || total <= ROW_STEP {
        return (0..).zip(rows).for_each(|(i, &rows)| work(i, 0..rows));
    }
    // A range should be worth a hand-over as well.
    let ranges = (threads * RANGES_PER_THREAD)
        .min(ns / (MIN_PARALLEL_NS / 4))
        .max(threads);
    let step = total.div_ceil(ranges).next_multiple_of(ROW_STEP);
    let tasks: Vec<(usize, Range<usize>)> = (0..)
        .zip(rows)
        .flat_map(|(i, &rows)| {
            (0..rows)
                .step_by(step)
                .map(move |first| (i, first..rows.min(first + step)))
        })
        .collect();
    tasks
        .into_par_iter()
        .with_max_len(1)
        .for_each(|(i, range)| work(i, range));
}

/// The output `[n, rows]`, writable from several threads that own different rows of the weights.
pub(super) struct Output<'a> {
    values: *mut f32,
    len: usize,
    rows: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: the only access is `set`, whose contract keeps threads on different elements.
unsafe impl Sync for Output<'_> {}

impl<'a> Output<'a> {
    /// Wraps `values`, `[n, rows]`.
    pub(super) fn new(values: &'a mut [f32], rows: usize) -> Output<'a> {
        Output {
            values: values.as_mut_ptr(),
            len: values.len(),
            rows,
            borrow: PhantomData,
        }
    }

    /// Stores the product of weight row `row` and token `token`.
    ///
    /// # Safety
    /// No other thread may store to the same row while the output is shared: each row belongs to
    /// the one range of [`for_rows_of_each`] that contains it.
    #[inline(always)]
    pub(super) unsafe fn set(&self, row: usize, token: usize, value: f32) {
        let at = token * self.rows + row;
        assert!(
            row < self.rows && at < self.len,
            "row and token lie within the output"
        );
        // SAFETY: `at` is in bounds, the slice is borrowed for `'a`, and the caller promises that
        // no other thread touches this row.
        unsafe { *self.values.add(at) = value }
    }
}
