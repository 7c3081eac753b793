//! Clusters: blocks that run together, wait for each other and reach each other's shared memory.
//!
//! Blocks of a cluster take turns on one thread. What one does to another (an arrival at its mbarrier, a copy into its
//! shared memory) is a message that is delivered between turns: later than at once, as on hardware. Races between
//! blocks are not followed, except that a copy must not land where a copy or a product of the other block is in flight.

use super::block::{Block, IDLE_ROUNDS, Progress, Turn};
use super::decode::{Inst, Program};
use super::exec::{self, Context, Message, Remote};
use super::fault::{Fault, FaultKind};
use super::memory::{Memory, Number};
use super::warp::State;
use super::{InterpStats, Options, index};
use crate::op::Opcode;

/// The race detector's barrier of the cluster.
const CLUSTER: u8 = 16;

/// Runs a grid of clusters, one after another.
pub(super) fn run(
    program: &Program,
    memory: &Memory,
    args: &[u64],
    launch: Number,
    grid: [u32; 3],
    options: &Options,
) -> Result<InterpStats, Fault> {
    let size = program.cluster;
    let clusters = u64::from(grid[0] / size) * u64::from(grid[1]) * u64::from(grid[2]);
    let new = |_| Block::new(program, memory, args, launch, grid, options);
    let mut blocks: Vec<Block> = (0..size).map(new).collect();
    let mut stats = InterpStats::default();
    for n in 0..clusters {
        for (rank, block) in (0..).zip(&mut blocks) {
            block.start(index(n * u64::from(size) + rank, grid));
        }
        one(&mut blocks)?;
        stats = blocks.iter().fold(stats, |sum, b| sum.plus(b.stats()));
    }
    Ok(stats)
}

/// Runs the blocks of one cluster to their ends.
fn one(blocks: &mut [Block]) -> Result<(), Fault> {
    let mut running = vec![true; blocks.len()];
    while running.contains(&true) {
        let mut delivered = false;
        for n in 0..blocks.len() {
            if !running[n] {
                continue;
            }
            running[n] = blocks[n].round()? == Progress::Running;
            for message in std::mem::take(&mut blocks[n].cx.outbox) {
                delivered = true;
                deliver(blocks, &running, n, message)?;
            }
        }
        let released = release(blocks);
        let stuck = |(b, running): (&Block, &bool)| !running || b.idle > IDLE_ROUNDS;
        if !delivered
            && !released
            && running.contains(&true)
            && blocks.iter().zip(&running).all(stuck)
        {
            let first = running.iter().position(|r| *r).unwrap_or(0);
            return Err(blocks[first].deadlock());
        }
    }
    Ok(())
}

fn deliver(
    blocks: &mut [Block],
    running: &[bool],
    from: usize,
    message: Message,
) -> Result<(), Fault> {
    let Message { rank, what, pc } = message;
    let to = rank as usize;
    let outcome = if running[to] {
        let cx = &mut blocks[to].cx;
        match what {
            Remote::Arrive(offset) => exec::arrive_from(cx, offset),
            Remote::Copy(bulk) => exec::begin_bulk(cx, *bulk),
        }
    } else {
        let what =
            format!("block {rank} of the cluster, whose shared memory this reaches, has ended");
        Err(FaultKind::Protocol(what))
    };
    outcome.map_err(|kind| blocks[from].fault_at(pc, kind))
}

/// Opens the cluster's barrier when every warp of the cluster has arrived or ended.
fn release(blocks: &mut [Block]) -> bool {
    let there = |b: &Block| {
        b.warps
            .iter()
            .all(|w| w.in_cluster || w.state == State::Done)
    };
    let waits = |b: &Block| b.warps.iter().any(|w| w.in_cluster);
    if !blocks.iter().all(there) || !blocks.iter().any(waits) {
        return false;
    }
    for block in blocks {
        let warps = block.warps.iter_mut().filter(|w| w.in_cluster);
        let mut arrived = Vec::new();
        for w in warps {
            w.in_cluster = false;
            if w.state == State::Cluster {
                w.state = State::Ready;
            } else {
                // It will wait for what has happened already.
                w.cluster_open = true;
            }
            arrived.push(w.index);
        }
        block.idle = 0;
        block.cx.events += 1;
        if let Some(races) = &mut block.cx.races {
            races.open(CLUSTER, arrived.into_iter());
        }
    }
    true
}

impl Block<'_> {
    /// `barrier.cluster.arrive` and `.wait`; `Some` ends the turn.
    pub(super) fn cluster_barrier(
        &mut self,
        at: usize,
        inst: &Inst,
        m: u32,
    ) -> Result<Option<Turn>, Fault> {
        let w = &mut self.warps[at];
        if m != w.live {
            let needed = w.live;
            let kind = FaultKind::Divergent { active: m, needed };
            return Err(self.fault(at, exec::first(m), kind));
        }
        if inst.op == Opcode::ClusterArrive {
            if w.in_cluster || w.cluster_open {
                let what = "a second arrival at the cluster's barrier without waiting there";
                return Err(self.fault(at, 0, FaultKind::Protocol(what.to_owned())));
            }
            w.in_cluster = true;
            w.pc += 1;
            if let Some(races) = &mut self.cx.races {
                races.arrive(w.index, CLUSTER);
            }
            self.cx.events += 1;
            if self.cx.program.cluster == 1 {
                w.in_cluster = false;
                w.cluster_open = true;
            }
            return Ok(None);
        }
        if w.cluster_open {
            w.cluster_open = false;
            w.pc += 1;
            return Ok(None);
        }
        if !w.in_cluster {
            let what = "a wait at the cluster's barrier without an arrival";
            return Err(self.fault(at, 0, FaultKind::Protocol(what.to_owned())));
        }
        w.pc += 1;
        w.state = State::Cluster;
        Ok(Some(Turn::Stopped))
    }

    /// `setmaxnreg`; `Some` ends the turn: the registers are not there.
    pub(super) fn set_registers(
        &mut self,
        at: usize,
        wanted: u32,
        increase: bool,
        m: u32,
    ) -> Result<Option<Turn>, Fault> {
        let w = &mut self.warps[at];
        let waited = w.asks;
        if !waited && let Err(e) = exec::together([u64::from(wanted), 0, 0], m, w, &mut self.cx) {
            return Err(self.fault(at, e.lane, e.kind));
        }
        let cx: &mut Context = &mut self.cx;
        if cx.program.registers.is_none() {
            // Without a bound of registers the instruction is ignored.
            w.pc += 1;
            return Ok(None);
        }
        let has = w.registers;
        if increase && wanted < has || !increase && wanted > has {
            let how = if increase { "more" } else { "fewer" };
            let what = format!("{wanted} registers are not {how} than the {has} a thread has");
            return Err(self.fault(at, 0, FaultKind::Protocol(what)));
        }
        if increase && wanted - has > cx.free_registers {
            // Asked again when another warp has given some up.
            w.asks = true;
            w.state = State::Registers;
            return Ok(Some(Turn::Stopped));
        }
        cx.free_registers = cx.free_registers + has - wanted;
        cx.events += 1;
        (w.registers, w.asks) = (wanted, false);
        w.pc += 1;
        for other in self.warps.iter_mut() {
            if other.state == State::Registers {
                other.state = State::Ready;
            }
        }
        Ok(None)
    }
}
