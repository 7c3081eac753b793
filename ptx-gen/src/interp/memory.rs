//! Device memory as the interpreter sees it: allocations far apart in a 64-bit address space.
//!
//! Every allocation sits in a slot of its own, so an address names its allocation without a search, and a pointer
//! that runs over an end lands in the guard gap and faults. Words are relaxed atomics: blocks run on several threads
//! and may touch the same allocation without `unsafe`.

use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::fault::{Fault, FaultKind, FaultSpace};

/// Address space per allocation, as a power of two.
const SLOT_BITS: u32 = 36;
/// The first slot: small integers are never valid addresses.
const FIRST_SLOT: u64 = 0x70;
/// Bytes between the start of a slot and its allocation.
const GUARD: u64 = 1 << 24;

/// A run of bytes with checked access: an allocation, or a block's shared memory.
#[derive(Debug)]
pub(crate) struct Region {
    words: Vec<AtomicU32>,
    bytes: u64,
    /// One bit a byte, set once written; only for regions whose reads are checked.
    defined: Option<Vec<AtomicU32>>,
    /// The launch that last stored to each word; made by the first store where somebody needs to know.
    stored: OnceLock<Vec<AtomicU32>>,
}

/// The pattern of memory that nobody wrote: NaN in every float format.
const POISON: u32 = 0xffff_ffff;

impl Region {
    pub(crate) fn new(bytes: u64, tracked: bool) -> Region {
        let words = usize::try_from(bytes.div_ceil(4)).unwrap_or(usize::MAX);
        Region {
            words: (0..words).map(|_| AtomicU32::new(POISON)).collect(),
            bytes,
            defined: tracked.then(|| (0..words.div_ceil(8)).map(|_| AtomicU32::new(0)).collect()),
            stored: OnceLock::new(),
        }
    }

    /// Notes that a launch has stored to an access's bytes.
    pub(crate) fn mark_stored(&self, offset: u64, bytes: u32, launch: u32) {
        let make = || self.words.iter().map(|_| AtomicU32::new(0)).collect();
        let stored = self.stored.get_or_init(make);
        for word in offset / 4..(offset + u64::from(bytes)).div_ceil(4) {
            stored[word as usize].store(launch, Relaxed);
        }
    }

    /// Whether one of these launches was the last to store to any of an access's words.
    pub(crate) fn is_stored(&self, offset: u64, bytes: u32, launches: Range<u32>) -> bool {
        let Some(stored) = self.stored.get() else {
            return false;
        };
        let words = offset / 4..(offset + u64::from(bytes)).div_ceil(4);
        words
            .into_iter()
            .any(|word| launches.contains(&stored[word as usize].load(Relaxed)))
    }

    /// Back to bytes that nobody has written.
    pub(crate) fn reset(&mut self) {
        self.words.iter_mut().for_each(|w| *w.get_mut() = POISON);
        self.defined
            .iter_mut()
            .flatten()
            .for_each(|w| *w.get_mut() = 0);
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether `bytes` bytes at `offset` lie inside.
    #[inline(always)]
    pub(crate) fn holds(&self, offset: u64, bytes: u64) -> bool {
        offset
            .checked_add(bytes)
            .is_some_and(|end| end <= self.bytes)
    }

    /// Whether reads must be checked with [`Region::is_defined`].
    #[inline(always)]
    pub(crate) fn tracked(&self) -> bool {
        self.defined.is_some()
    }

    /// The word of `defined` that holds an access of at most 16 naturally aligned bytes, and its bits there.
    #[inline(always)]
    fn bits(offset: u64, bytes: u32) -> (usize, u32) {
        (
            (offset / 32) as usize,
            ((1u32 << bytes) - 1) << (offset % 32),
        )
    }

    /// Whether every byte of an access (at most 16 bytes, naturally aligned) has been written.
    #[inline(always)]
    pub(crate) fn is_defined(&self, offset: u64, bytes: u32) -> bool {
        let Some(defined) = &self.defined else {
            return true;
        };
        let (word, bits) = Region::bits(offset, bytes);
        defined[word].load(Relaxed) & bits == bits
    }

    /// Marks an access (at most 16 bytes, naturally aligned) as written; a no-op where nothing is tracked.
    #[inline(always)]
    pub(crate) fn define(&self, offset: u64, bytes: u32) {
        if let Some(defined) = &self.defined {
            let (word, bits) = Region::bits(offset, bytes);
            if defined[word].load(Relaxed) & bits != bits {
                defined[word].fetch_or(bits, Relaxed);
            }
        }
    }

    /// The word at a word-aligned offset. Callers have checked the bounds.
    #[inline(always)]
    pub(crate) fn word(&self, offset: u64) -> u32 {
        self.words[(offset >> 2) as usize].load(Relaxed)
    }

    #[inline(always)]
    pub(crate) fn set_word(&self, offset: u64, value: u32) {
        self.words[(offset >> 2) as usize].store(value, Relaxed);
    }

    /// 1, 2 or 4 bytes at an aligned offset, zero-extended.
    #[inline(always)]
    pub(crate) fn load(&self, offset: u64, bytes: u32) -> u32 {
        let shift = (offset & 3) * 8;
        let word = self.word(offset);
        if bytes == 4 {
            word
        } else {
            (word >> shift) & ((1 << (8 * bytes)) - 1)
        }
    }

    /// Stores the low 1, 2 or 4 bytes of `value` at an aligned offset, leaving the neighbours alone.
    #[inline(always)]
    pub(crate) fn store(&self, offset: u64, bytes: u32, value: u32) {
        if bytes == 4 {
            return self.set_word(offset, value);
        }
        let shift = (offset & 3) * 8;
        let mask = ((1u32 << (8 * bytes)) - 1) << shift;
        let insert = (value << shift) & mask;
        // Other threads may be writing the neighbouring bytes of this word.
        let update = |old: u32| Some((old & !mask) | insert);
        let _ = self.words[(offset >> 2) as usize].fetch_update(Relaxed, Relaxed, update);
    }

    /// 8 bytes at an aligned offset.
    #[inline(always)]
    pub(crate) fn load64(&self, offset: u64) -> u64 {
        u64::from(self.word(offset)) | u64::from(self.word(offset + 4)) << 32
    }

    #[inline(always)]
    pub(crate) fn store64(&self, offset: u64, value: u64) {
        self.set_word(offset, value as u32);
        self.set_word(offset + 4, (value >> 32) as u32);
    }
}

/// A plain value that [`Memory`] can copy in and out, little-endian.
pub trait MemoryElement: Copy {
    /// Size in bytes.
    const BYTES: usize;
    /// The value of `BYTES` little-endian bytes.
    fn from_bytes(bytes: &[u8]) -> Self;
    /// Appends the value's little-endian bytes.
    fn push_bytes(self, out: &mut Vec<u8>);
}

macro_rules! elements {
    ($($t:ty),*) => {$(
        impl MemoryElement for $t {
            const BYTES: usize = size_of::<$t>();
            fn from_bytes(bytes: &[u8]) -> Self {
                let mut raw = [0; size_of::<$t>()];
                raw.copy_from_slice(bytes);
                <$t>::from_le_bytes(raw)
            }
            fn push_bytes(self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}
elements!(
    u8,
    i8,
    u16,
    i16,
    u32,
    i32,
    u64,
    i64,
    f32,
    f64,
    half::f16,
    half::bf16
);

/// A launch among those in a memory, counted from 1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Number {
    pub(crate) own: u32,
    /// The oldest launch that may still run when this one starts.
    pub(crate) in_flight: u32,
}

/// Global memory: what kernels see, and the host's way in and out.
///
/// Allocating needs `&mut`; reading and writing need only `&`, as on a device.
#[derive(Debug, Default)]
pub struct Memory {
    allocations: Vec<Region>,
    launches: AtomicU32,
    /// The oldest launch that may still run when the next one starts.
    in_flight: AtomicU32,
}

impl Memory {
    /// Memory without an allocation.
    pub fn new() -> Memory {
        Memory::default()
    }

    /// The number of a new launch. With `hands_over` it lets the next one start before it has itself
    /// waited for those in front of it.
    pub(crate) fn next_launch(&self, hands_over: bool) -> Number {
        let own = self.launches.fetch_add(1, Relaxed).wrapping_add(1);
        let in_flight = self.in_flight.load(Relaxed).max(1);
        if !hands_over {
            self.in_flight.store(own, Relaxed);
        }
        Number { own, in_flight }
    }

    fn push(&mut self, region: Region) -> u64 {
        assert!(
            region.bytes < (1 << SLOT_BITS) - 2 * GUARD,
            "an allocation of the interpreter is under 64 GiB"
        );
        self.allocations.push(region);
        ((FIRST_SLOT + self.allocations.len() as u64 - 1) << SLOT_BITS) + GUARD
    }

    /// Allocates `bytes` bytes and returns their device address (256-byte aligned). Every byte reads as 0xff,
    /// which is NaN in every float format.
    pub fn alloc(&mut self, bytes: u64) -> u64 {
        self.push(Region::new(bytes, false))
    }

    /// Allocates bytes whose every read by a kernel faults until they are written.
    pub fn alloc_poisoned(&mut self, bytes: u64) -> u64 {
        self.push(Region::new(bytes, true))
    }

    /// Allocates zeroed bytes.
    pub fn alloc_zeroed(&mut self, bytes: u64) -> u64 {
        let region = Region::new(bytes, false);
        region.words.iter().for_each(|w| w.store(0, Relaxed));
        self.push(region)
    }

    /// Allocates exactly `values` and copies them in.
    pub fn alloc_from<T: MemoryElement>(&mut self, values: &[T]) -> u64 {
        let region = Region::new((values.len() * T::BYTES) as u64, false);
        write_region(&region, 0, values);
        self.push(region)
    }

    /// Copies `values` to `address`.
    ///
    /// # Errors
    /// When the bytes do not lie in one allocation, or `address` is not a multiple of the element's size.
    pub fn write<T: MemoryElement>(&self, address: u64, values: &[T]) -> Result<(), Fault> {
        let (region, offset) = self.host(address, (values.len() * T::BYTES) as u64, T::BYTES)?;
        write_region(region, offset, values);
        Ok(())
    }

    /// Copies `len` values from `address`.
    ///
    /// # Errors
    /// As [`Memory::write`].
    pub fn read<T: MemoryElement>(&self, address: u64, len: usize) -> Result<Vec<T>, Fault> {
        let (region, offset) = self.host(address, (len * T::BYTES) as u64, T::BYTES)?;
        let end = offset + (len * T::BYTES) as u64;
        let skip = (offset % 4) as usize;
        let words = &region.words[(offset / 4) as usize..end.div_ceil(4) as usize];
        let bytes: Vec<u8> = words
            .iter()
            .flat_map(|w| w.load(Relaxed).to_le_bytes())
            .collect();
        Ok(bytes[skip..skip + len * T::BYTES]
            .chunks_exact(T::BYTES)
            .map(T::from_bytes)
            .collect())
    }

    fn host(&self, address: u64, bytes: u64, align: usize) -> Result<(&Region, u64), Fault> {
        let fault = |what| {
            Fault::new(FaultKind::Host {
                address,
                bytes,
                what,
            })
        };
        let (region, offset) = self
            .region(address)
            .ok_or_else(|| fault("no such allocation".to_owned()))?;
        if !region.holds(offset, bytes) {
            return Err(fault(self.nearest(address)));
        }
        if offset % align as u64 != 0 {
            return Err(fault(format!("the address must be a multiple of {align}")));
        }
        Ok((region, offset))
    }

    /// The slot's allocation and the offset in it; the offset may lie outside (a wrapped one, if before the start).
    #[inline(always)]
    pub(crate) fn region(&self, address: u64) -> Option<(&Region, u64)> {
        let slot = (address >> SLOT_BITS).checked_sub(FIRST_SLOT)?;
        let region = self.allocations.get(usize::try_from(slot).ok()?)?;
        Some((
            region,
            (address & ((1 << SLOT_BITS) - 1)).wrapping_sub(GUARD),
        ))
    }

    /// Words that say which allocation `address` probably meant.
    pub(crate) fn nearest(&self, address: u64) -> String {
        match self.region(address) {
            None => "no allocation is near".to_owned(),
            Some((region, offset)) => {
                describe(address.wrapping_sub(offset), offset as i64, region.bytes)
            }
        }
    }

    pub(crate) fn out_of_bounds(&self, address: u64, bytes: u32) -> FaultKind {
        FaultKind::OutOfBounds {
            space: FaultSpace::Global,
            address,
            bytes,
            nearest: self.nearest(address),
        }
    }
}

/// How an offset relates to an allocation of `bytes` bytes.
pub(crate) fn describe(start: u64, offset: i64, bytes: u64) -> String {
    if offset < 0 {
        format!(
            "{} bytes before the allocation of {bytes} bytes at {start:#x}",
            -offset
        )
    } else if offset as u64 >= bytes {
        format!(
            "{} bytes past the end of the allocation of {bytes} bytes at {start:#x}",
            offset as u64 - bytes
        )
    } else {
        format!("runs over the end of the allocation of {bytes} bytes at {start:#x}")
    }
}

fn write_region<T: MemoryElement>(region: &Region, offset: u64, values: &[T]) {
    let mut bytes = Vec::with_capacity(values.len() * T::BYTES);
    values.iter().for_each(|v| v.push_bytes(&mut bytes));
    (offset..offset + bytes.len() as u64).for_each(|b| region.define(b, 1));
    let head = (bytes.len()).min((offset.wrapping_neg() % 4) as usize);
    for (i, b) in bytes[..head].iter().enumerate() {
        region.store(offset + i as u64, 1, u32::from(*b));
    }
    let middle = &bytes[head..];
    let mut at = offset + head as u64;
    for chunk in middle.chunks(4) {
        if let [a, b, c, d] = *chunk {
            region.set_word(at, u32::from_le_bytes([a, b, c, d]));
        } else {
            for (i, b) in chunk.iter().enumerate() {
                region.store(at + i as u64, 1, u32::from(*b));
            }
        }
        at += 4;
    }
}
