//! Rotary position embedding of every head, from a table of cosines and sines.
//!
//! | parameter | type | shape |
//! |---|---|---|
//! | x | f32 | `[tokens, num_heads * head_dim]` |
//! | lengths | u32 | `[tokens]`, position plus one; 0 turns by nothing |
//! | angles | f32 | `[positions, rot_dim / 2, 2]`, (cos, sin) |
//! | out | f32, may be x | as x |
//!
//! Grid `[tokens, 1, 1]`. Moves `8 * tokens * num_heads * head_dim + 4 * tokens * rot_dim` bytes.
//! Formula: Su et al., "RoFormer", section 3.2.2.

use crate::build::{Ptr, Val};
use crate::ir::{Kernel, Param};
use crate::target::Target;

/// Which elements of a head rotate together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RopeKind {
    /// Pairs `(2i, 2i + 1)`.
    Interleaved,
    /// Pairs `(i, i + rot_dim / 2)`.
    Neox,
}

impl RopeKind {
    /// Short lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            RopeKind::Interleaved => "interleaved",
            RopeKind::Neox => "neox",
        }
    }
}

/// Heads of `dim` elements that are turned as a whole, four neighbouring elements at a time.
pub(in crate::kernels) struct Turned<'k> {
    pub(in crate::kernels) kind: RopeKind,
    pub(in crate::kernels) dim: u32,
    /// `[dim / 2, 2]`: (cos, sin) of the position.
    pub(in crate::kernels) angles: Ptr<'k, f32>,
}

/// Cosines and sines of four elements, two pairs of them in a word of 16 bytes.
pub(in crate::kernels) type Angles<'k> = Vec<[Val<'k, f32>; 4]>;

impl<'k> Turned<'k> {
    /// Angles of the elements from `i` on, a multiple of 4.
    pub(in crate::kernels) fn angles(&self, i: Val<'k, u32>) -> Angles<'k> {
        match self.kind {
            RopeKind::Interleaved => vec![self.angles.load_vec4(i)],
            RopeKind::Neox => {
                let first = i % (self.dim / 2) * 2;
                [0, 4].map(|at| self.angles.load_vec4(first + at)).to_vec()
            }
        }
    }

    /// The turned elements from `i` on of the head at `head`.
    pub(in crate::kernels) fn load(
        &self,
        head: Ptr<'k, f32>,
        i: Val<'k, u32>,
        angles: Angles<'k>,
    ) -> [Val<'k, f32>; 4] {
        let own = head.load_vec4(i);
        match self.kind {
            RopeKind::Interleaved => turn_pairs(own, angles[0]),
            RopeKind::Neox => {
                let half = self.dim / 2;
                let first = i.lt(half);
                let other = head.load_vec4((i + half) % self.dim);
                let signed = |sin: Val<'k, f32>| (-sin).select(first, sin);
                turn_halves(own, other, &angles, signed)
            }
        }
    }
}

/// Elements `(0, 1)` and `(2, 3)` turned by two angles.
pub(in crate::kernels) fn turn_pairs<'k>(
    [a, b, c, d]: [Val<'k, f32>; 4],
    [cos, sin, cos2, sin2]: [Val<'k, f32>; 4],
) -> [Val<'k, f32>; 4] {
    [
        a * cos - b * sin,
        a * sin + b * cos,
        c * cos2 - d * sin2,
        c * sin2 + d * cos2,
    ]
}

/// Elements turned against those half a head away. `signed` gives the sine of the first half its
/// sign: a product has the same bits whichever factor is negative, and a sum in either order.
pub(in crate::kernels) fn turn_halves<'k>(
    own: [Val<'k, f32>; 4],
    other: [Val<'k, f32>; 4],
    angles: &Angles<'k>,
    signed: impl Fn(Val<'k, f32>) -> Val<'k, f32>,
) -> [Val<'k, f32>; 4] {
    std::array::from_fn(|j| {
        let (cos, sin) = (angles[j / 2][j % 2 * 2], angles[j / 2][j % 2 * 2 + 1]);
        own[j] * cos + other[j] * signed(sin)
    })
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

    /// The parameters in launch order.
    pub fn params(&self) -> Vec<Param> {
        vec![
            Param::input::<f32>("x"),
            Param::input::<u32>("lengths"),
            Param::input::<f32>("angles"),
            Param::output::<f32>("out"),
        ]
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
        let pairing = kind.name();
        let name = format!("rope_{pairing}_{num_heads}x{head_dim}_{rot_dim}");
        Kernel::new(name, target, |k| {
            k.doc(format!(
                "Rotates the {pairing} pairs of {num_heads} heads of {head_dim} by the angles of \
                 position lengths[t] - 1.\nout may be x. Grid [tokens, 1, 1]."
            ));
            k.block_size(self.threads());
            k.declare(self.params());
            let (x, lengths) = (k.bind::<f32>("x"), k.bind::<u32>("lengths"));
            let table = k.bind::<f32>("angles").read_only();
            let out = k.bind::<f32>("out");
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

pub(in crate::kernels) fn representative(target: Target) -> Vec<RopeSpec> {
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
