//! Races on shared memory: accesses to the same bytes, one a write, that nothing orders.
//!
//! Order is tracked by vector clocks (Lamport's happens-before; the per-cell records follow Flanagan and Freund,
//! "FastTrack", 2009) with one clock a warp: a barrier, an mbarrier or a strong access hands the clocks of those who
//! arrived to those who go on. Within a warp, lanes are ordered by `bar.warp.sync` and by block barriers only, as the
//! PTX memory model has it: running in lockstep is an accident.
//!
//! What is reported is a race whatever the schedule. Two lanes of one instruction storing to one place are not
//! reported, and a synchronisation by one lane is credited to its whole warp: races may be missed, not invented.

//!
//! Bulk copies go through the async proxy, which does not see what ordinary instructions wrote before a
//! `fence.proxy.async` on the way from the write to the copy. A second half of each clock therefore says up to when
//! each warp's writes were fenced; it travels as the first half does. Of global memory only the block's own writes are
//! followed, and only where a kernel copies from it in bulk.

mod cluster;

use std::collections::HashMap;

use super::decode::{Program, SHARED_BASE};
use super::fault::{FaultKind, FaultSpace};

/// A time for each warp, and a time for each warp up to which its writes are fenced for the async proxy.
pub(crate) type Clock = [u32; 64];
/// Where the second half of a [`Clock`] starts.
const FENCED: usize = 32;

fn join(into: &mut Clock, from: &Clock) {
    for (a, b) in into.iter_mut().zip(from) {
        *a = (*a).max(*b);
    }
}

/// In place of a lane: several lanes.
const MANY: u8 = 0xfe;
/// In place of a lane: a bulk copy. What it wrote may be read by whoever waited for it; what it reads may not be
/// written until it was waited for.
pub(crate) const BULK: u8 = 0xff;
/// In place of a lane: a product in flight.
pub(crate) const TENSOR: u8 = 0xfd;

/// The last write of a cell.
#[derive(Clone, Copy, Default)]
struct Write {
    clock: u32,
    pc: u32,
    warp: u8,
    lane: u8,
    /// By an atomic, or with a memory order.
    strong: bool,
    /// By an asynchronous copy that nobody has waited for.
    in_flight: bool,
}

/// A warp's last read of a cell.
#[derive(Clone, Copy, Default)]
struct Read {
    clock: u32,
    pc: u32,
    lane: u8,
}

/// How an access touches memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
    /// An atomic, or a volatile or relaxed load or store: never in conflict with its like, but ordering nothing.
    Relaxed,
    /// The same with acquire or release.
    Strong,
    /// The issue of an asynchronous copy: a write that may happen from now on.
    Copy,
}

/// Who accesses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct By {
    pub(crate) warp: u32,
    pub(crate) lane: usize,
    /// The instruction, as an index of the program.
    pub(crate) pc: usize,
}

/// An mbarrier: who initialised it when, and the clocks of those who arrived.
struct Arrivals {
    offset: u32,
    born: (u32, u32),
    clock: Clock,
}

pub(crate) struct Races {
    warps: usize,
    /// Bytes of a cell, as a power of two: the narrowest access of the kernel.
    shift: u32,
    clocks: Vec<Clock>,
    /// The warp's own clock when its lanes were last ordered.
    ordered: Vec<u32>,
    barriers: [Clock; 17],
    strong: Clock,
    mbarriers: Vec<Arrivals>,
    writes: Vec<Write>,
    /// `[cell][warp]`.
    reads: Vec<Read>,
    /// The block's last write of each word of global memory, by address; kept where bulk copies may read it.
    global: Option<HashMap<u64, Write>>,
}

impl Races {
    pub(crate) fn new(program: &Program) -> Races {
        let warps = program.threads().div_ceil(32) as usize;
        let shift = program.shared_cell.trailing_zeros();
        let cells = (program.shared_bytes as usize).div_ceil(1 << shift);
        Races {
            warps,
            shift,
            clocks: vec![[0; 64]; warps],
            ordered: vec![0; warps],
            barriers: [[0; 64]; 17],
            strong: [0; 64],
            mbarriers: Vec::new(),
            writes: vec![Write::default(); cells],
            reads: vec![Read::default(); cells * warps],
            global: program.bulk_loads.then(HashMap::new),
        }
    }

    /// Starts another block: all that was is ordered before all that comes, so no record needs clearing.
    pub(crate) fn restart(&mut self) {
        let latest = self.clocks.iter().flatten().copied().max().unwrap_or(0);
        self.clocks.fill([latest; 64]);
        // A warp's own clock is ahead of what the others know of it.
        (0..self.warps as u32).for_each(|warp| self.warp_sync(warp));
        self.barriers = [[0; 64]; 17];
        self.strong = [0; 64];
        self.mbarriers.clear();
        self.writes.iter_mut().for_each(|w| w.in_flight = false);
        self.global.iter_mut().for_each(HashMap::clear);
    }

    fn tick(&mut self, warp: u32) {
        self.clocks[warp as usize][warp as usize] += 1;
    }

    /// The lanes of a warp wait for each other.
    pub(crate) fn warp_sync(&mut self, warp: u32) {
        self.tick(warp);
        self.ordered[warp as usize] = self.clocks[warp as usize][warp as usize];
    }

    /// A warp arrives at a named barrier.
    pub(crate) fn arrive(&mut self, warp: u32, id: u8) {
        join(
            &mut self.barriers[usize::from(id) % 17],
            &self.clocks[warp as usize],
        );
        self.warp_sync(warp);
    }

    /// A named barrier opens for the warps that waited.
    pub(crate) fn open(&mut self, id: u8, waiting: impl Iterator<Item = u32>) {
        let clock = std::mem::replace(&mut self.barriers[usize::from(id) % 17], [0; 64]);
        for warp in waiting {
            join(&mut self.clocks[warp as usize], &clock);
        }
    }

    /// An mbarrier is initialised.
    pub(crate) fn init(&mut self, warp: u32, offset: u32) {
        self.mbarriers.retain(|b| b.offset != offset);
        let born = (warp, self.clocks[warp as usize][warp as usize]);
        self.mbarriers.push(Arrivals {
            offset,
            born,
            clock: [0; 64],
        });
    }

    /// A warp uses an mbarrier: its initialisation must be visible to it.
    pub(crate) fn check_born(&self, warp: u32, offset: u32) -> Result<(), FaultKind> {
        let late = |b: &&Arrivals| {
            b.offset == offset && b.born.1 > self.clocks[warp as usize][b.born.0 as usize]
        };
        match self.mbarriers.iter().find(late) {
            Some(b) if b.born.0 != warp => Err(FaultKind::Race {
                address: u64::from(offset),
                what: format!(
                    "no barrier since warp {} initialised this mbarrier",
                    b.born.0
                ),
            }),
            _ => Ok(()),
        }
    }

    /// A lane of a warp arrives at an mbarrier.
    pub(crate) fn arrive_at(&mut self, warp: u32, offset: u32) {
        if let Some(b) = self.mbarriers.iter_mut().find(|b| b.offset == offset) {
            join(&mut b.clock, &self.clocks[warp as usize]);
        }
        self.tick(warp);
    }

    /// A wait at an mbarrier succeeds.
    pub(crate) fn waited(&mut self, warp: u32, offset: u32) {
        if let Some(b) = self.mbarriers.iter().find(|b| b.offset == offset) {
            join(&mut self.clocks[warp as usize], &b.clock);
        }
    }

    /// The cells of an access; empty when it lies outside, which is another check's to report.
    fn cells(&self, offset: u64, bytes: u32) -> std::ops::Range<usize> {
        let from = (offset >> self.shift).min(self.writes.len() as u64);
        let to = offset
            .saturating_add(u64::from(bytes))
            .div_ceil(1 << self.shift)
            .min(self.writes.len() as u64);
        from as usize..(to as usize).max(from as usize)
    }

    /// Orders a warp with all others that have come here: a fence, or an access with acquire or release.
    pub(crate) fn fence(&mut self, warp: u32) {
        join(&mut self.clocks[warp as usize], &self.strong);
        join(&mut self.strong, &self.clocks[warp as usize]);
        self.tick(warp);
    }

    /// Checks a lane's access to shared memory. All lanes of an instruction are checked before any is recorded, so
    /// that they do not conflict with each other.
    #[inline]
    pub(crate) fn check(
        &self,
        kind: Kind,
        by: By,
        offset: u64,
        bytes: u32,
        program: &Program,
    ) -> Result<(), FaultKind> {
        let (warp, lane) = (by.warp as usize, by.lane as u8);
        let (clocks, ordered) = (&self.clocks[warp], self.ordered[warp]);
        let strong = matches!(kind, Kind::Relaxed | Kind::Strong);
        for cell in self.cells(offset, bytes) {
            let last = &self.writes[cell];
            let unordered = if usize::from(last.warp) == warp {
                last.clock >= ordered && last.lane != lane && last.lane != BULK
            } else {
                last.clock > clocks[usize::from(last.warp)]
            };
            if last.in_flight || (unordered && !(strong && last.strong)) {
                return Err(self.conflict(kind, offset, (*last).into(), program));
            }
            if kind == Kind::Read {
                continue;
            }
            let mine = cell * self.warps;
            for (other, read) in self.reads[mine..mine + self.warps].iter().enumerate() {
                let unordered = if matches!(read.lane, BULK | TENSOR) {
                    true
                } else if other == warp {
                    read.clock >= ordered && read.lane != lane
                } else {
                    read.clock > clocks[other]
                };
                if unordered {
                    let past = Past {
                        warp: other,
                        lane: read.lane,
                        pc: read.pc,
                        what: "read",
                    };
                    return Err(self.conflict(kind, offset, past, program));
                }
            }
        }
        Ok(())
    }

    /// Records an access that [`Races::check`] let pass.
    #[inline]
    pub(crate) fn record(&mut self, kind: Kind, by: By, offset: u64, bytes: u32) {
        let (warp, lane, pc) = (by.warp as usize, by.lane as u8, by.pc as u32);
        let clock = self.clocks[warp][warp];
        for cell in self.cells(offset, bytes) {
            if kind == Kind::Read {
                let read = &mut self.reads[cell * self.warps + warp];
                if matches!(read.lane, BULK | TENSOR) {
                    continue;
                }
                let many = read.clock == clock && read.lane != lane;
                *read = Read {
                    clock,
                    pc,
                    lane: if many { MANY } else { lane },
                };
            } else {
                let last = &mut self.writes[cell];
                let many =
                    usize::from(last.warp) == warp && last.clock == clock && last.lane != lane;
                *last = Write {
                    clock,
                    pc,
                    warp: by.warp as u8,
                    lane: if many { MANY } else { lane },
                    strong: matches!(kind, Kind::Relaxed | Kind::Strong),
                    in_flight: kind == Kind::Copy,
                };
            }
        }
    }

    /// A lane has waited for a copy of its own: it has written, now.
    pub(crate) fn landed(&mut self, by: By, offset: u64, bytes: u32) {
        let clock = self.clocks[by.warp as usize][by.warp as usize];
        for cell in self.cells(offset, bytes) {
            let write = &mut self.writes[cell];
            (write.in_flight, write.clock) = (false, clock);
        }
    }

    /// A bulk copy has landed: what came before its issue, and its data, are visible to whoever waits.
    pub(crate) fn bulk_landed(&mut self, mbarrier: u32, issued: &Clock, offset: u64, bytes: u32) {
        for cell in self.cells(offset, bytes) {
            let write = &mut self.writes[cell];
            (write.in_flight, write.lane) = (false, BULK);
        }
        if let Some(b) = self.mbarriers.iter_mut().find(|b| b.offset == mbarrier) {
            join(&mut b.clock, issued);
        }
    }

    /// The clocks of a warp that issues a bulk copy; later accesses of its own come after the copy's.
    pub(crate) fn issue_bulk(&mut self, warp: u32) -> Clock {
        let issued = self.clocks[warp as usize];
        self.tick(warp);
        issued
    }

    /// A bulk copy ([`BULK`]) or a product ([`TENSOR`]) begins to read shared memory.
    pub(crate) fn begins_to_read(&mut self, reader: u8, by: By, offset: u64, bytes: u32) {
        let clock = self.clocks[by.warp as usize][by.warp as usize];
        for cell in self.cells(offset, bytes) {
            self.reads[cell * self.warps + by.warp as usize] = Read {
                clock,
                pc: by.pc as u32,
                lane: reader,
            };
        }
    }

    /// A lane has waited until its bulk copy or product had read shared memory: it has read, now.
    pub(crate) fn has_read(&mut self, by: By, offset: u64, bytes: u32) {
        let clock = self.clocks[by.warp as usize][by.warp as usize];
        for cell in self.cells(offset, bytes) {
            let read = &mut self.reads[cell * self.warps + by.warp as usize];
            (read.clock, read.lane) = (clock, by.lane as u8);
        }
    }

    /// `fence.proxy.async`: bulk copies that come after it see the writes that came before it.
    pub(crate) fn proxy_fence(&mut self, warp: u32) {
        let clock = &mut self.clocks[warp as usize];
        let (now, fenced) = clock.split_at_mut(FENCED);
        for (a, b) in fenced.iter_mut().zip(now) {
            *a = (*a).max(*b);
        }
        self.tick(warp);
    }

    /// Whether a write lacks a fence that a warp's bulk copy needs.
    fn unfenced(&self, warp: u32, write: &Write) -> bool {
        let fenced = self.clocks[warp as usize][FENCED + usize::from(write.warp)];
        write.lane != BULK && write.clock > fenced
    }

    /// Checks that a warp's bulk copy may access shared memory: ordinary writes to it are fenced.
    pub(crate) fn check_proxy(
        &self,
        warp: u32,
        offset: u64,
        bytes: u32,
        program: &Program,
    ) -> Result<(), FaultKind> {
        let mut cells = self.cells(offset, bytes);
        match cells.find(|cell| self.unfenced(warp, &self.writes[*cell])) {
            None => Ok(()),
            Some(cell) => Err(FaultKind::Proxy {
                space: FaultSpace::Shared,
                address: ((cell as u64) << self.shift) + u64::from(SHARED_BASE),
                what: unfenced(&self.writes[cell], program),
            }),
        }
    }

    /// As [`Races::check_proxy`], for a copy from global memory.
    pub(crate) fn check_global_proxy(
        &self,
        warp: u32,
        address: u64,
        bytes: u32,
        program: &Program,
    ) -> Result<(), FaultKind> {
        let Some(global) = &self.global else {
            return Ok(());
        };
        for word in words(address, bytes) {
            if let Some(write) = global.get(&word)
                && self.unfenced(warp, write)
            {
                return Err(FaultKind::Proxy {
                    space: FaultSpace::Global,
                    address: word * 4,
                    what: unfenced(write, program),
                });
            }
        }
        Ok(())
    }

    /// Whether writes to global memory are to be shown to [`Races::wrote_global`].
    pub(crate) fn follows_global(&self) -> bool {
        self.global.is_some()
    }

    /// A lane has written to global memory.
    pub(crate) fn wrote_global(&mut self, by: By, address: u64, bytes: u32) {
        let write = Write {
            clock: self.clocks[by.warp as usize][by.warp as usize],
            pc: by.pc as u32,
            warp: by.warp as u8,
            lane: by.lane as u8,
            ..Write::default()
        };
        if let Some(global) = &mut self.global {
            global.extend(words(address, bytes).map(|word| (word, write)));
        }
    }

    #[cold]
    fn conflict(&self, kind: Kind, offset: u64, past: Past, program: &Program) -> FaultKind {
        let this = if kind == Kind::Read { "read" } else { "write" };
        let lane = match past.lane {
            MANY => "several lanes".to_owned(),
            BULK => "a bulk copy".to_owned(),
            TENSOR => "a product in flight".to_owned(),
            lane => format!("lane {lane}"),
        };
        let source = &program.sites[past.pc as usize];
        FaultKind::Race {
            address: offset + u64::from(SHARED_BASE),
            what: format!(
                "this {this} and the {} by warp {}, {lane}, from {source} are not ordered by a barrier",
                past.what, past.warp
            ),
        }
    }
}

/// The words of global memory that an access touches, by address.
fn words(address: u64, bytes: u32) -> std::ops::Range<u64> {
    address / 4..address.saturating_add(u64::from(bytes)).div_ceil(4)
}

fn unfenced(write: &Write, program: &Program) -> String {
    format!(
        "no fence.proxy.async since the write by warp {} from {}",
        write.warp, program.sites[write.pc as usize]
    )
}

/// The earlier of two conflicting accesses.
struct Past {
    warp: usize,
    lane: u8,
    pc: u32,
    what: &'static str,
}

impl From<Write> for Past {
    fn from(w: Write) -> Past {
        let what = if w.in_flight {
            "copy still in flight"
        } else {
            "write"
        };
        Past {
            warp: usize::from(w.warp),
            lane: w.lane,
            pc: w.pc,
            what,
        }
    }
}
