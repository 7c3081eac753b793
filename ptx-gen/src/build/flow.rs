//! Control flow and barriers.

use std::ops::Range;

use super::val::Repr;
use super::{AsVal, Builder, Pred, Type, Val};
use crate::ir::{If, Loop, Reg, Stmt};
use crate::op::{Fence, Opcode};

impl Builder {
    /// Runs `then` in the threads where `cond` holds.
    #[track_caller]
    pub fn if_(&self, cond: Val<'_, Pred>, then: impl FnOnce()) {
        self.if_else(cond, then, || {});
    }

    /// Runs `then` in the threads where `cond` holds, `otherwise` in the others.
    #[track_caller]
    pub fn if_else(&self, cond: Val<'_, Pred>, then: impl FnOnce(), otherwise: impl FnOnce()) {
        let loc = self.here();
        match cond.repr {
            Repr::Imm(imm) if imm.bits != 0 => then(),
            Repr::Imm(_) => otherwise(),
            Repr::Reg(reg) => {
                let (cond, negated) = self.branch_on(reg);
                let (then, ()) = self.scoped(then);
                let (otherwise, ()) = self.scoped(otherwise);
                self.push(Stmt::If(If {
                    cond,
                    negated,
                    then,
                    otherwise,
                    loc,
                }));
            }
        }
    }

    /// The value of `then` in the threads where `cond` holds, of `otherwise` in the others; each
    /// side runs only where it is wanted.
    #[track_caller]
    pub fn if_value<'k, T: Type>(
        &'k self,
        cond: Val<'k, Pred>,
        then: impl FnOnce() -> Val<'k, T>,
        otherwise: impl FnOnce() -> Val<'k, T>,
    ) -> Val<'k, T> {
        match cond.known() {
            Some(0) => otherwise(),
            Some(_) => then(),
            None => {
                let zero = crate::ir::Imm { ty: T::TY, bits: 0 };
                let result = super::Var::new(self, Val::imm(self, zero));
                let loc = self.here();
                let set = |value| self.blame(loc, || result.set(value));
                self.if_else(cond, || set(then()), || set(otherwise()));
                result.get()
            }
        }
    }

    /// The predicate to branch on for `reg`, and whether to branch on its opposite.
    fn branch_on(&self, mut reg: Reg) -> (Reg, bool) {
        let state = self.state.borrow();
        let mut negated = false;
        while let Some(of) = state.negations.get(&reg) {
            reg = *of;
            negated = !negated;
        }
        (reg, negated)
    }

    /// `for i in (start..end).step_by(step)`, as a loop of the kernel. The body receives `i`.
    ///
    /// All arithmetic is `u32`: `end + step` must not exceed `u32::MAX`. When start and end are
    /// equal in all threads of the block, the body may hold barriers.
    ///
    /// # Panics
    ///
    /// When `step` is 0.
    #[track_caller]
    pub fn for_each<'k>(
        &'k self,
        start: impl AsVal<'k, u32>,
        end: impl AsVal<'k, u32>,
        step: impl AsVal<'k, u32>,
        body: impl FnOnce(Val<'k, u32>),
    ) {
        let (start, end, step) = (start.val(self), end.val(self), step.val(self));
        assert_ne!(step.known(), Some(0), "a loop that does not advance");
        // No start is below zero: a step of the whole range leaves nothing for a second turn.
        let loc = self.here();
        let once = matches!((step.known(), end.known()), (Some(s), Some(e)) if s >= e);
        self.if_(start.lt(end), || {
            if once {
                return body(start);
            }
            let i = self.var(start);
            self.loop_while(|| {
                let now = i.get();
                body(now);
                self.blame(loc, || {
                    i.set(now + step);
                    i.get().lt(end)
                })
            });
        });
    }

    /// The loop written out: `body` is called for each number while building.
    pub fn unrolled(&self, range: Range<u32>, body: impl FnMut(u32)) {
        range.for_each(body);
    }

    /// `do { again = body() } while again`.
    #[track_caller]
    pub fn loop_while<'k>(&'k self, body: impl FnOnce() -> Val<'k, Pred>) {
        let loc = self.here();
        let (stmts, again) = self.scoped(|| body().to_reg());
        self.push(Stmt::Loop(Loop {
            body: stmts,
            again,
            loc,
        }));
    }

    /// `while cond() { body() }`. The condition is written twice: before the loop and at its end.
    #[track_caller]
    pub fn while_<'k>(&'k self, cond: impl Fn() -> Val<'k, Pred>, body: impl FnOnce()) {
        self.if_(cond(), || {
            self.loop_while(|| {
                body();
                cond()
            });
        });
    }

    /// Ends the threads where `cond` holds. No barrier may follow unless `cond` is equal in the
    /// whole block.
    #[track_caller]
    pub fn exit_if(&self, cond: Val<'_, Pred>) {
        let loc = self.here();
        self.if_(cond, || {
            self.blame(loc, || self.emit(Opcode::Exit, &[], &[]));
        });
    }

    /// Waits for every thread of the block; orders their shared and global memory accesses.
    #[track_caller]
    pub fn barrier(&self) {
        self.emit(Opcode::BarSync, &[], &[]);
    }

    /// Waits at barrier `id` (1..=15) with `threads` threads in all (a multiple of 32).
    #[track_caller]
    pub fn barrier_n(&self, id: u8, threads: u16) {
        self.emit(Opcode::BarSyncN { id, threads }, &[], &[]);
    }

    /// Waits for the whole warp; orders its memory accesses.
    #[track_caller]
    pub fn warp_barrier(&self) {
        self.emit(
            Opcode::BarWarpSync,
            &[],
            &[self.constant(u32::MAX).operand()],
        );
    }

    /// A memory fence.
    #[track_caller]
    pub fn fence(&self, fence: Fence) {
        self.emit(Opcode::Fence(fence), &[], &[]);
    }

    /// Claims that `cond` is equal in all threads of the block, where the verifier cannot see it.
    #[track_caller]
    pub fn assume_uniform<'k>(&'k self, cond: Val<'k, Pred>) -> Val<'k, Pred> {
        self.value(Opcode::AssumeUniform, &[cond.operand()])
    }
}
