//! One block: its warps in turn, its control flow and its barriers.
//!
//! A warp runs until it waits, ends, or has had its share of steps; then the next one runs. Divergence follows the
//! kernel's structure: a branch pushes the lanes that came in, runs each side with its own, and pops them all.

use super::decode::{Inst, Program, Step};
use super::exec::{self, Context, LaneFault, thread_index};
use super::fault::{Fault, FaultKind, Site};
use super::memory::{Memory, Number, Region};
use super::races::Races;
use super::warp::{Frame, State, Warp};
use super::{InterpStats, Options};
use crate::op::Opcode;
use crate::table::row_of;

/// Steps a warp may take before the next one's turn.
const SLICE: u64 = 100_000;
/// Rounds in which every warp only polled and nothing changed before the block counts as stuck.
pub(crate) const IDLE_ROUNDS: u32 = 10_000;

/// One step of SplitMix64 (Steele, Lea and Flood, 2014).
pub(crate) fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A named barrier.
#[derive(Clone, Copy, Default)]
struct Barrier {
    /// Threads that have arrived, 32 a warp.
    arrived: u32,
    /// Threads it takes, once somebody has said so; 0 is all of the block.
    needed: u32,
}

/// Why a warp's turn ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It waits, or is done.
    Stopped,
    /// Its share is used up.
    Slice,
    /// It looked for something that has not happened.
    Polled,
}

/// What became of a block's turn.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    Running,
    Done,
}

pub(crate) struct Block<'a> {
    pub(super) cx: Context<'a>,
    pub(super) warps: Vec<Warp>,
    barriers: [Barrier; 16],
    max_steps: u64,
    /// Other blocks may change what its warps wait for.
    has_peers: bool,
    /// Rounds in a row in which nothing happened but polling.
    pub(crate) idle: u32,
    /// State of the generator that draws the order of warps, where it is drawn.
    shuffle: Option<u64>,
    seed: Option<u64>,
}

impl<'a> Block<'a> {
    pub(crate) fn new(
        program: &'a Program,
        memory: &'a Memory,
        args: &'a [u64],
        launch: Number,
        grid: [u32; 3],
        options: &Options,
    ) -> Block<'a> {
        let warps = program.threads().div_ceil(32);
        let shared = Region::new(u64::from(program.shared_bytes), options.track_shared);
        Block {
            cx: Context {
                program,
                memory,
                args,
                launch,
                grid,
                block: [0; 3],
                shared,
                mbarriers: Vec::new(),
                bulk: Vec::new(),
                races: options.races.then(|| Box::new(Races::new(program))),
                steps: 0,
                lane_steps: 0,
                events: 0,
                warpgroups: Vec::new(),
                seed: None,
                free_registers: 0,
                outbox: Vec::new(),
            },
            warps: (0..warps).map(|index| Warp::new(program, index)).collect(),
            barriers: [Barrier::default(); 16],
            max_steps: options.max_steps,
            has_peers: (program.communicates && grid != [1, 1, 1]) || program.cluster > 1,
            idle: 0,
            shuffle: None,
            seed: options.shuffle,
        }
    }

    /// Makes this the block at `index`, at its first instruction.
    pub(crate) fn start(&mut self, index: [u32; 3]) {
        let threads = self.cx.program.threads();
        self.warps.iter_mut().for_each(|w| w.restart(threads));
        self.barriers = [Barrier::default(); 16];
        self.idle = 0;
        let salt = index.iter().fold(0, |n, i| n * 0x1_0001 + u64::from(*i));
        self.shuffle = self.seed.map(|seed| mix(seed ^ mix(salt)));
        let cx = &mut self.cx;
        cx.block = index;
        cx.shared.reset();
        cx.mbarriers.clear();
        cx.bulk.clear();
        if let Some(races) = &mut cx.races {
            races.restart();
        }
        (cx.steps, cx.lane_steps, cx.events) = (0, 0, 0);
        cx.warpgroups.clear();
        cx.outbox.clear();
        cx.seed = self.shuffle;
        cx.free_registers = 0;
        let registers = cx.program.registers.unwrap_or(0);
        self.warps.iter_mut().for_each(|w| w.registers = registers);
    }

    pub(crate) fn stats(&self) -> InterpStats {
        InterpStats {
            blocks: 1,
            warp_instructions: self.cx.steps,
            lane_instructions: self.cx.lane_steps,
        }
    }

    /// Runs the block to its end.
    pub(crate) fn run(&mut self) -> Result<(), Fault> {
        while self.round()? == Progress::Running {}
        Ok(())
    }

    /// A number below `bound`; 0 unless warps are shuffled.
    fn draw(&mut self, bound: u64) -> u64 {
        match &mut self.shuffle {
            None => 0,
            Some(state) => {
                *state = mix(*state);
                *state % bound
            }
        }
    }

    /// Gives every warp a turn.
    pub(crate) fn round(&mut self) -> Result<Progress, Fault> {
        let (before, mut only_polled, mut ran, mut done) = (self.cx.events, true, false, true);
        let start = self.draw(self.warps.len() as u64);
        for n in 0..self.warps.len() {
            let index = (start as usize + n) % self.warps.len();
            if self.warps[index].state == State::Ready {
                ran = true;
                only_polled &= self.turn(index)? != Turn::Slice;
            }
            done &= self.warps[index].state == State::Done;
        }
        if done {
            return Ok(Progress::Done);
        }
        let cluster = self.warps.iter().any(|w| w.state == State::Cluster);
        if !ran && !cluster {
            return Err(self.deadlock());
        }
        let idle = only_polled && before == self.cx.events;
        self.idle = if idle { self.idle + 1 } else { 0 };
        if self.idle > IDLE_ROUNDS && !self.has_peers {
            return Err(self.deadlock());
        }
        Ok(Progress::Running)
    }

    pub(crate) fn deadlock(&self) -> Fault {
        let waiting: Vec<String> = self
            .warps
            .iter()
            .filter_map(|w| match w.state {
                State::Barrier(id) => Some(format!("warp {} at barrier {id}", w.index)),
                State::Cluster => Some(format!("warp {} at the cluster's barrier", w.index)),
                State::Registers => Some(format!("warp {} for registers", w.index)),
                State::Ready => Some(format!("warp {} polling", w.index)),
                State::Done => None,
            })
            .collect();
        let blamed = self
            .warps
            .iter()
            .find(|w| w.state != State::Done)
            .map_or(0, |w| w.index as usize);
        self.fault(
            blamed,
            0,
            FaultKind::Deadlock {
                waiting: waiting.join(", "),
            },
        )
    }

    /// A fault of the instruction at an index of the program, whoever executed it.
    pub(super) fn fault_at(&mut self, pc: usize, kind: FaultKind) -> Fault {
        let before = std::mem::replace(&mut self.warps[0].pc, pc);
        let state = std::mem::replace(&mut self.warps[0].state, State::Ready);
        let fault = self.fault(0, 0, kind);
        (self.warps[0].pc, self.warps[0].state) = (before, state);
        fault
    }

    /// A fault of a lane of a warp at its current step.
    pub(super) fn fault(&self, warp: usize, lane: usize, kind: FaultKind) -> Fault {
        let (program, w) = (self.cx.program, &self.warps[warp]);
        // A waiting warp's instruction is the one before.
        let pc = if matches!(w.state, State::Barrier(_) | State::Cluster) {
            w.pc - 1
        } else {
            w.pc
        };
        let instruction = match &program.code[pc] {
            Step::Opcode(inst) => row_of(inst.op, program.target).mnemonic,
            step => format!("{step:?}"),
        };
        let site = Site {
            kernel: program.name.clone(),
            instruction,
            source: program.sites[pc].to_string(),
            block: self.cx.block,
            thread: thread_index((warp * 32 + lane) as u32, program.block_size),
        };
        Fault {
            kind: Box::new(kind),
            site: Some(Box::new(site)),
        }
    }

    /// Runs one warp until it waits, ends, polls or has had its share.
    fn turn(&mut self, index: usize) -> Result<Turn, Fault> {
        let program = self.cx.program;
        if self.cx.steps > self.max_steps {
            let steps = self.cx.steps;
            return Err(self.fault(index, 0, FaultKind::StepLimit { steps }));
        }
        let limit = self.cx.steps + SLICE;
        let interrupt = match self.shuffle {
            None => u64::MAX,
            Some(_) => self.cx.steps + 1 + self.draw(64),
        };
        self.warps[index].polled = false;
        loop {
            let w = &mut self.warps[index];
            match &program.code[w.pc] {
                Step::Opcode(inst) => {
                    let m = match inst.guard {
                        None => w.active,
                        Some((pred, true)) => w.active & w.pred(pred),
                        Some((pred, false)) => w.active & !w.pred(pred),
                    };
                    self.cx.steps += 1;
                    if m != 0 {
                        self.cx.lane_steps += u64::from(m.count_ones());
                        if matches!(
                            inst.op,
                            Opcode::BarSync
                                | Opcode::BarSyncN { .. }
                                | Opcode::BarArrive { .. }
                                | Opcode::ClusterArrive
                                | Opcode::ClusterWait
                                | Opcode::SetMaxNReg { .. }
                                | Opcode::Exit
                        ) {
                            if let Some(turn) = self.control(index, inst, m)? {
                                return Ok(turn);
                            }
                            continue;
                        }
                        let watched = match inst.watch.is_empty() {
                            true => Ok(()),
                            false => exec::watch(inst, m, w, &self.cx),
                        };
                        let run = |()| exec::execute(inst, m, w, &mut self.cx);
                        if let Err(e) = watched.and_then(run) {
                            let LaneFault { lane, kind } = *e;
                            return Err(self.fault(index, lane, kind));
                        }
                    }
                    w.pc += 1;
                    if self.cx.steps >= interrupt {
                        return Ok(Turn::Slice);
                    }
                }
                Step::If {
                    cond,
                    negated,
                    otherwise,
                } => {
                    let taken = if *negated {
                        !w.pred(*cond)
                    } else {
                        w.pred(*cond)
                    };
                    w.stack.push(Frame {
                        entered: w.active,
                        otherwise: w.active & !taken,
                    });
                    w.active &= taken;
                    w.pc = if w.active == 0 { *otherwise } else { w.pc + 1 };
                }
                Step::Else { end } => {
                    w.active = w.stack.last().map_or(0, |f| f.otherwise) & w.live;
                    w.pc = if w.active == 0 { *end } else { w.pc + 1 };
                }
                Step::EndIf => {
                    w.active = w.stack.pop().map_or(0, |f| f.entered) & w.live;
                    w.pc += 1;
                }
                Step::Loop => {
                    w.stack.push(Frame {
                        entered: w.active,
                        otherwise: 0,
                    });
                    w.pc += 1;
                }
                Step::Again { cond, start } => {
                    w.active &= w.pred(*cond);
                    if w.active == 0 {
                        w.active = w.stack.pop().map_or(0, |f| f.entered) & w.live;
                        w.pc += 1;
                        continue;
                    }
                    w.pc = start + 1;
                    if w.polled {
                        return Ok(Turn::Polled);
                    }
                    if self.cx.steps >= limit {
                        return Ok(Turn::Slice);
                    }
                }
                Step::End => {
                    if let Err(e) = exec::end_lanes(w.live, w, &self.cx) {
                        return Err(self.fault(index, e.lane, e.kind));
                    }
                    w.state = State::Done;
                    self.cx.events += 1;
                    self.release(0);
                    return Ok(Turn::Stopped);
                }
            }
        }
    }

    /// Barriers and exits; `Some` ends the turn.
    fn control(&mut self, index: usize, inst: &Inst, m: u32) -> Result<Option<Turn>, Fault> {
        let w = &mut self.warps[index];
        let (id, threads, waits) = match inst.op {
            Opcode::BarSync => (0, 0, true),
            Opcode::BarSyncN { id, threads } => (id, u32::from(threads), true),
            Opcode::BarArrive { id, threads } => (id, u32::from(threads), false),
            Opcode::ClusterArrive | Opcode::ClusterWait => {
                return self.cluster_barrier(index, inst, m);
            }
            Opcode::SetMaxNReg {
                registers,
                increase,
            } => return self.set_registers(index, u32::from(registers), increase, m),
            _ => {
                if let Err(e) = exec::end_lanes(m, w, &self.cx) {
                    return Err(self.fault(index, e.lane, e.kind));
                }
                w.live &= !m;
                w.active &= !m;
                w.pc += 1;
                if w.live == 0 {
                    w.state = State::Done;
                    self.cx.events += 1;
                    self.release(0);
                    return Ok(Some(Turn::Stopped));
                }
                return Ok(None);
            }
        };
        if m != w.live {
            let needed = w.live;
            return Err(self.fault(
                index,
                exec::first(m),
                FaultKind::Divergent { active: m, needed },
            ));
        }
        let barrier = &mut self.barriers[usize::from(id) % 16];
        if barrier.arrived > 0 && barrier.needed != threads {
            let what = format!(
                "barrier {id} is used with {threads} and with {} threads at once",
                barrier.needed
            );
            return Err(self.fault(index, exec::first(m), FaultKind::Protocol(what)));
        }
        barrier.needed = threads;
        barrier.arrived += 32;
        self.cx.events += 1;
        let w = &mut self.warps[index];
        if let Some(races) = &mut self.cx.races {
            races.arrive(w.index, id);
        }
        w.pc += 1;
        if waits {
            w.state = State::Barrier(id);
        }
        self.release(id);
        // Even a warp that may go on lets the others run first: they are where it was.
        Ok(waits.then_some(Turn::Stopped))
    }

    /// Opens a barrier if all have come. A warp that is done no longer counts for barrier 0.
    fn release(&mut self, id: u8) {
        let barrier = &mut self.barriers[usize::from(id) % 16];
        let live = self.warps.iter().filter(|w| w.state != State::Done).count() as u32 * 32;
        let needed = if barrier.needed == 0 {
            live
        } else {
            barrier.needed
        };
        if barrier.arrived == 0 || barrier.arrived < needed {
            return;
        }
        *barrier = Barrier::default();
        if let Some(races) = &mut self.cx.races {
            let waiting = self.warps.iter().filter(|w| w.state == State::Barrier(id));
            races.open(id, waiting.map(|w| w.index));
        }
        for w in self
            .warps
            .iter_mut()
            .filter(|w| w.state == State::Barrier(id))
        {
            w.state = State::Ready;
        }
    }
}
