//! Rotary position embedding of every head, from a table of cosines and sines.
//!
//! | parameter | type | shape |
//! |---|---|---|
//! | x | f32 | `[tokens, num_heads * head_dim]` |
//! | lengths | u32 | `[tokens]`, position plus one; 0 turns by nothing |
//! | table | f32 | `[positions, rot_dim / 2, 2]`, (cos, sin) |
//! | out | f32, may be x | as x |
//!
//! Grid `[tokens, 1, 1]`. Moves `8 * tokens * num_heads * head_dim + 4 * tokens * rot_dim` bytes.
//! Formula: Su et al., "RoFormer", section 3.2.2.

use crate::ir::Kernel;
use crate::target::Target;

/// Which elements of a head rotate together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RopeKind {
    /// Pairs `(2i, 2i + 1)`.
    Interleaved,
    /// Pairs `(i, i + rot_dim / 2)`.
    Neox,
}

/// A rotary embedding of rows of heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RopeSpec {
    /// GPU to write for.
    pub target: Target,
    /// Heads of a row.
    pub num_heads: u32,
    /// Elements of a head.
    pub head_dim: u32,
    /// Rotated elements of a head; even, at most `head_dim`.
    pub rot_dim: u32,
    /// Pairing.
    pub kind: RopeKind,
}

impl RopeSpec {
    fn pairs(&self) -> u32 {
        self.num_heads * self.rot_dim / 2
    }

    fn threads(&self) -> u32 {
        self.pairs().next_multiple_of(32).clamp(32, 1024)
    }

    /// Blocks for `tokens` rows.
    pub fn grid(&self, tokens: u32) -> [u32; 3] {
        [tokens, 1, 1]
    }

    /// Bytes moved for `tokens` rows.
    pub fn bytes(&self, tokens: u64) -> u64 {
        tokens * (8 * u64::from(self.num_heads * self.head_dim) + 4 * u64::from(self.rot_dim))
    }

    /// Operations on `tokens` rows.
    pub fn flops(&self, tokens: u64) -> u64 {
        6 * tokens * u64::from(self.pairs())
    }

    /// The kernel.
    pub fn kernel(&self) -> Kernel {
        let RopeSpec {
            target,
            num_heads,
            head_dim,
            rot_dim,
            kind,
        } = *self;
        let half = rot_dim / 2;
        let pairing = match kind {
            RopeKind::Interleaved => "interleaved",
            RopeKind::Neox => "neox",
        };
        let name = format!("rope_{pairing}_{num_heads}x{head_dim}_{rot_dim}");
        Kernel::new(name, target, |k| {
            k.doc(format!(
                "Rotates the {pairing} pairs of {num_heads} heads of {head_dim} by the angles of \
                 position lengths[t] - 1.\nout may be x. Grid [tokens, 1, 1]."
            ));
            k.block_size(self.threads());
            let (x, lengths) = (k.input::<f32>("x"), k.input::<u32>("lengths"));
            let table = k.input::<f32>("table").read_only();
            let out = k.output::<f32>("out");
            let t = k.block_x();
            let position = lengths.load(t).max(1) - 1;
            let angles = table.offset(position * rot_dim);
            let row = t * (num_heads * head_dim);
            let (x, out) = (x.offset(row), out.offset(row));
            // The angles are on their way before the row exists.
            let found: Vec<_> = (0..self.pairs().div_ceil(k.threads()))
                .map(|turn| {
                    let p = k.thread_x() + turn * k.threads();
                    let ragged = (turn + 1) * k.threads() > self.pairs();
                    let exists = ragged.then(|| p.lt(self.pairs()));
                    (p, exists, angles.load_vec::<2>(p % half * 2))
                })
                .collect();
            k.wait_for_predecessor();
            for (p, exists, [cos, sin]) in found {
                let (head, i) = (p / half, p % half);
                let (first, second) = match kind {
                    RopeKind::Interleaved => (head * head_dim + i * 2, 1),
                    RopeKind::Neox => (head * head_dim + i, half),
                };
                let rotate = || {
                    let (a, b) = (x.load(first), x.load(first + second));
                    out.store(first, a * cos - b * sin);
                    out.store(first + second, a * sin + b * cos);
                };
                match exists {
                    Some(exists) => k.if_(exists, rotate),
                    None => rotate(),
                }
            }
            let rest = head_dim - rot_dim;
            if rest > 0 {
                k.for_each(k.thread_x(), num_heads * rest, k.threads(), |p| {
                    let i = (p / rest) * head_dim + p % rest + rot_dim;
                    out.store(i, x.load(i));
                });
            }
        })
    }
}

pub(super) fn representative(target: Target) -> Vec<RopeSpec> {
    let spec = |num_heads, head_dim, rot_dim, kind| RopeSpec {
        target,
        num_heads,
        head_dim,
        rot_dim,
        kind,
    };
    vec![
        spec(4, 64, 64, RopeKind::Interleaved),
        spec(12, 128, 128, RopeKind::Neox),
        spec(2, 64, 48, RopeKind::Neox),
    ]
}
