//! A scheduler and a device, and the rules that every step and every result must keep.
//!
//! The rules are told anew here, not asked of the scheduler; only what it holds is looked at.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::super::request::{Place, StayId};
use super::super::weakness::Weakness;
use super::super::{Choice, ChosenBy, EndReason, Entry, RequestId, Scheduler, SchedulerConfig};
use super::super::{Ticket, TokenSource, Work, WorkRow};
use super::Random;
use super::device::{Device, Script};
use crate::kv::{BLOCK_TOKENS, BlockLife};

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Done(EndReason),
    Cancelled,
    Failed,
}

/// What is known of a request from outside.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) got: Vec<u32>,
    pub(super) fate: Option<Fate>,
    has_joined: bool,
    /// Requests that were submitted later and joined before it.
    overtaken: u64,
}

/// A step on the device.
#[derive(Debug)]
struct Pending {
    ticket: Ticket,
    rows: Vec<WorkRow>,
    /// What its wanted rows chose; `None` for a step that failed.
    results: Option<Vec<Option<u32>>>,
}

/// A request in a slot, as it was before a step was made.
struct Sat {
    request: RequestId,
    stay: StayId,
    rank: (u64, RequestId),
    published: usize,
    can_decode: bool,
    is_over: bool,
}

/// A scheduler, a device, and what was asked of them.
pub(super) struct World {
    pub(super) scheduler: Scheduler,
    pub(super) scripts: BTreeMap<RequestId, Script>,
    pub(super) progress: BTreeMap<RequestId, Progress>,
    config: SchedulerConfig,
    device: Device,
    pending: VecDeque<Pending>,
    random: Random,
    pub(super) steps: usize,
}

impl World {
    pub(super) fn new(config: SchedulerConfig, seed: u64) -> World {
        World {
            scheduler: Scheduler::new(&config),
            scripts: BTreeMap::new(),
            progress: BTreeMap::new(),
            config,
            device: Device::new(&config.limits),
            pending: VecDeque::new(),
            random: Random::new(seed),
            steps: 0,
        }
    }

    pub(super) fn weaken(&mut self, weakness: Weakness) {
        self.scheduler.weakness = Some(weakness);
    }

    /// Submits a request that fits.
    pub(super) fn submit(&mut self, entry: Entry, seed: u64) -> RequestId {
        let id = self.scheduler.submit(entry.clone()).unwrap();
        let script = Script::alone(entry, seed, self.scheduler.context());
        self.scripts.insert(id, script);
        self.progress.insert(id, Progress::default());
        id
    }

    pub(super) fn cancel(&mut self, id: RequestId) {
        let progress = self.progress.get_mut(&id).unwrap();
        assert_eq!(self.scheduler.cancel(id), progress.fate.is_none());
        progress.fate = progress.fate.or(Some(Fate::Cancelled));
    }

    /// Requests that have not ended.
    pub(super) fn alive(&self) -> impl Iterator<Item = RequestId> {
        let alive = self.progress.iter().filter(|(_, p)| p.fate.is_none());
        alive.map(|(&id, _)| id)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.pending.len()
    }

    /// Queues the next step and runs it; `fails` says how it will turn out. Returns its work.
    pub(super) fn queue(&mut self, fails: bool) -> Option<Work> {
        let sat = self.sat();
        let known = self.known();
        // Steps of prompts have decoding ones before and behind them.
        let may_pass = self.scheduler.prompts_are_next;
        let Some(work) = self.scheduler.next() else {
            if self.pending.len() < self.config.steps_ahead {
                self.check_decoding(&sat, &[], false);
                let waits = self.pending.is_empty() && self.alive().next().is_some();
                assert!(!waits, "nothing runs, and somebody waits");
            }
            return None;
        };
        assert!(self.pending.len() < self.config.steps_ahead);
        self.steps += 1;
        self.check_rows(&work, &known);
        self.check_decoding(&sat, &work.rows, may_pass);
        assert!(!may_pass || !self.scheduler.prompts_are_next || self.decodes(&work));
        self.check_prefixes(&sat, &work);
        self.count_overtaking(&work);
        // Now and then nothing can be saved, and the step runs all the same.
        if !work.saves.is_empty() && self.random.once_in(8) {
            self.scheduler.lose_saved(work.ticket);
        }
        let table = self.scheduler.table();
        let results = if fails {
            self.device.run_failing(&work, table, &mut self.random);
            None
        } else {
            let results = (self.device).run(&work, table, &self.scripts, &mut self.random);
            Some(results)
        };
        self.pending.push_back(Pending {
            ticket: work.ticket,
            rows: work.rows.clone(),
            results,
        });
        Some(work)
    }

    /// Tells the scheduler what became of the oldest step, if there is one.
    pub(super) fn report(&mut self) {
        let Some(pending) = self.pending.pop_front() else {
            return;
        };
        let Some(results) = pending.results else {
            for id in self.scheduler.fail(pending.ticket) {
                assert!(pending.rows.iter().any(|row| row.request == id));
                let fate = &mut self.progress.get_mut(&id).unwrap().fate;
                assert_eq!(fate.replace(Fate::Failed), None);
            }
            return;
        };
        let (progress, scripts) = (&mut self.progress, &self.scripts);
        let ended = self.scheduler.complete(pending.ticket, |wanted| {
            let (progress, script) = (
                progress.get_mut(&wanted.request).unwrap(),
                &scripts[&wanted.request],
            );
            let token =
                results[wanted.output].expect("a token that counts stands on what it should");
            assert_eq!(progress.fate, None);
            assert_eq!(wanted.index, progress.got.len());
            assert_eq!(script.chosen().get(wanted.index), Some(&token));
            progress.got.push(token);
            let is_last = progress.got.len() == script.chosen().len();
            Choice {
                token,
                ends: is_last && script.reason == EndReason::Stopped,
            }
        });
        for end in ended {
            let progress = self.progress.get_mut(&end.request).unwrap();
            let script = &self.scripts[&end.request];
            assert_eq!(progress.got, script.chosen());
            assert_eq!(end.reason, script.reason);
            progress.fate = Some(Fate::Done(end.reason));
        }
    }

    /// Reports and queues until nothing is left to do.
    pub(super) fn run_to_end(&mut self) {
        while self.queue(false).is_some() || self.in_flight() > 0 {
            if self.in_flight() == self.config.steps_ahead || self.random.once_in(3) {
                self.report();
            }
            self.scheduler.check();
        }
        self.check_end();
    }

    /// Everybody ended, with all or the beginning of what they give alone, and nothing is kept.
    pub(super) fn check_end(&self) {
        assert!(self.scheduler.is_idle());
        for (id, progress) in &self.progress {
            assert!(progress.fate.is_some(), "{id} was lost");
            assert!(self.scripts[id].chosen().starts_with(&progress.got));
        }
        let counters = self.scheduler.counters();
        let fates = |fate| {
            let same = self.progress.values().filter(|p| p.fate == Some(fate));
            same.count()
        };
        assert_eq!(counters.cancellations, fates(Fate::Cancelled) as u64);
        assert_eq!(counters.failed_requests, fates(Fate::Failed) as u64);
        assert_eq!(
            (counters.waiting, counters.running, counters.leaving),
            (0, 0, 0)
        );
        assert_eq!(counters.blocks_held, 0);
        let blocks = counters.blocks_free + counters.blocks_cached;
        assert_eq!(blocks, self.config.limits.cache_blocks);
        assert_eq!(counters.places_free, self.config.limits.saved_blocks);
    }

    fn rank(&self, id: RequestId) -> (u64, RequestId) {
        let class = u64::from(self.scripts[&id].entry.priority);
        (id.0 + class * self.config.overtakes, id)
    }

    /// Who sits where.
    fn sat(&self) -> Vec<Sat> {
        let running = self.scheduler.running.iter();
        let sat = running.map(|&id| {
            let request = &self.scheduler.requests[&id];
            let seat = request.seat().unwrap();
            let by_host = request.chosen_by == ChosenBy::Host;
            let is_over = request.length() == request.most;
            let one_left = request.length() == seat.cached + 1;
            Sat {
                request: id,
                stay: seat.stay,
                rank: self.rank(id),
                published: seat.published,
                can_decode: !is_over && one_left && (!by_host || request.awaited.is_empty()),
                is_over,
            }
        });
        sat.collect()
    }

    /// Blocks of known prefixes.
    fn known(&self) -> Vec<BlockLife> {
        let table = self.scheduler.table();
        let blocks = 0..self.config.limits.cache_blocks as u32;
        let known = blocks.filter(|&block| table.is_known(block));
        known.map(|block| table.life(block)).collect()
    }

    /// A step fits, rows follow each other, and nobody writes what others have.
    fn check_rows(&self, work: &Work, known: &[BlockLife]) {
        let limits = self.config.limits;
        let table = self.scheduler.table();
        assert!(work.rows.len() <= self.config.rows.min(limits.max_rows).max(1));
        assert!(work.rows.iter().filter(|row| row.wanted).count() <= limits.max_outputs.max(1));
        let groups: Vec<_> = work.rows.chunk_by(|a, b| a.request == b.request).collect();
        let mut slots: Vec<usize> = groups.iter().map(|group| group[0].slot).collect();
        slots.sort_unstable();
        slots.dedup();
        assert_eq!(
            slots.len(),
            groups.len(),
            "a request or a slot has two groups"
        );
        for group in groups {
            let (first, last) = (group[0], group[group.len() - 1]);
            let script = &self.scripts[&first.request];
            assert!(
                (first.position..)
                    .zip(group)
                    .all(|(p, row)| p == row.position)
            );
            assert!(last.position < self.scheduler.context());
            assert!(group.iter().all(|row| row.slot == first.slot));
            assert!(group.iter().all(|row| !row.wanted || *row == last));
            let asked = script.entry.prompt.len() + script.entry.max_tokens;
            assert!(last.position + 1 < asked, "a row past the end");
            if script.entry.chosen_by == ChosenBy::Host {
                let known = |row: &WorkRow| matches!(row.source, TokenSource::Known(_));
                assert!(group.iter().all(known), "the host has not chosen yet");
            }
            let blocks = table.blocks(first.slot);
            let restored = work.restores.iter().filter(|r| blocks.contains(&r.1));
            for (_, block) in restored {
                assert!(work.joined.contains(&first.request), "restored in mid-stay");
                assert!(
                    !known.contains(&table.life(*block)),
                    "a known block is restored"
                );
            }
            let written = first.position / BLOCK_TOKENS..=last.position / BLOCK_TOKENS;
            for &block in &blocks[written] {
                assert!(
                    !known.contains(&table.life(block)),
                    "a known block is written"
                );
                let others = (self.scheduler.running.iter())
                    .filter_map(|id| self.scheduler.requests[id].seat())
                    .filter(|seat| seat.slot != first.slot);
                for other in others {
                    assert!(!table.blocks(other.slot).contains(&block), "a shared block");
                }
            }
        }
    }

    /// Whether a step has the next row of somebody past his prompt.
    fn decodes(&self, work: &Work) -> bool {
        work.rows
            .iter()
            .any(|row| row.source == TokenSource::Chosen || self.scheduler.decodes(row.request))
    }

    /// Who could decode has a row or was preempted, unless all are passed over; and the first in rank was
    /// not preempted.
    fn check_decoding(&self, sat: &[Sat], rows: &[WorkRow], may_pass: bool) {
        let stays = sat.iter().filter(|sat| !sat.is_over);
        let first = stays.clone().map(|sat| sat.rank).min();
        for sat in stays {
            let has_left = match &self.scheduler.requests[&sat.request].place {
                Place::Running(seat) => seat.stay != sat.stay,
                Place::Waiting { .. } | Place::Leaving => true,
            };
            assert!(!has_left || Some(sat.rank) != first, "the first gave way");
            let row = rows.iter().find(|row| row.request == sat.request);
            assert!(
                !sat.can_decode || has_left || row.is_some() || may_pass,
                "no row to decode"
            );
        }
    }

    /// Nobody joins to compute a block that another is about to.
    fn check_prefixes(&self, sat: &[Sat], work: &Work) {
        let groups = work.rows.chunk_by(|a, b| a.request == b.request);
        let firsts: Vec<WorkRow> = groups.map(|group| group[0]).collect();
        // Those who run, with what was known of them before the step, in the order they joined.
        let running: Vec<(RequestId, usize, bool)> = (self.scheduler.running.iter())
            .map(|&id| {
                let stay = self.scheduler.requests[&id].seat().unwrap().stay;
                let before = sat.iter().find(|s| s.request == id && s.stay == stay);
                let first = || {
                    let row = firsts.iter().find(|row| row.request == id).unwrap();
                    // Within a block: it is known, and copied for the last row.
                    row.position.next_multiple_of(BLOCK_TOKENS)
                };
                let published = before.map_or_else(first, |s| s.published);
                (id, published, before.is_none())
            })
            .collect();
        for (i, &(id, start, has_joined)) in running.iter().enumerate() {
            let tokens = &self.scheduler.requests[&id].tokens;
            let end = start + BLOCK_TOKENS;
            if !has_joined || !start.is_multiple_of(BLOCK_TOKENS) || end > tokens.len() {
                continue;
            }
            for &(other, published, _) in &running[..i] {
                let theirs = &self.scheduler.requests[&other].tokens;
                let key = self.scripts[&id].entry.key;
                let same = theirs.get(..end) == Some(&tokens[..end])
                    && self.scripts[&other].entry.key == key;
                // The last block of a known prompt is computed where there is no room to copy it.
                let no_copy = || end == tokens.len() && self.scheduler.table().knows(key, tokens);
                assert!(
                    !same || published >= end || no_copy(),
                    "{id} computes what {other} does"
                );
            }
        }
    }

    /// Counts who joined before whom, and holds it to the bound.
    fn count_overtaking(&mut self, work: &Work) {
        let rows = work.rows.iter().map(|row| row.request);
        for joined in rows.collect::<BTreeSet<_>>() {
            let had_joined = &mut self.progress.get_mut(&joined).unwrap().has_joined;
            if std::mem::replace(had_joined, true) {
                continue;
            }
            for (id, progress) in self.progress.range_mut(..joined) {
                if !progress.has_joined && progress.fate.is_none() {
                    progress.overtaken += 1;
                    let class = u64::from(self.scripts[id].entry.priority);
                    let bound = (class + 1) * self.config.overtakes;
                    assert!(progress.overtaken <= bound, "{id} was overtaken too often");
                }
            }
        }
    }
}
