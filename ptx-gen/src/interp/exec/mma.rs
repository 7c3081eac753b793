//! Warp-wide matrix instructions: fragments in registers, products in matrices.
//!
//! All `mma.sync` shapes share one layout (PTX ISA, "Matrix Fragments"): with g = lane / 4, t = lane % 4 and `per`
//! elements in a register, register r's element j of A is at row g + 8 (r & 1), column per t + j + 4 per (r >> 1),
//! of B at k = per t + j + 4 per r, column g. C and D hold two neighbouring columns a register pair: row
//! g + 8 (r >> 1), column 2t + (r & 1).

use half::f16;

/// The 32 lanes of one register.
pub(crate) type Lanes = [u32; 32];

/// Element type of a factor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Factor {
    F16,
    Bf16,
    Tf32,
    S8,
    U8,
}

impl Factor {
    /// Elements in a 32-bit register.
    pub(crate) fn per(self) -> usize {
        match self {
            Factor::F16 | Factor::Bf16 => 2,
            Factor::Tf32 => 1,
            Factor::S8 | Factor::U8 => 4,
        }
    }

    fn float(self, register: u32, j: usize) -> f64 {
        let half = (register >> (16 * (j & 1))) as u16;
        match self {
            Factor::F16 => f64::from(f16::from_bits(half).to_f32()),
            Factor::Bf16 => f64::from(f32::from_bits(u32::from(half) << 16)),
            // The tensor core reads the upper 19 bits of a tf32 operand.
            Factor::Tf32 => f64::from(f32::from_bits(register & 0xffff_e000)),
            Factor::S8 | Factor::U8 => f64::from(self.integer(register, j)),
        }
    }

    fn integer(self, register: u32, j: usize) -> i32 {
        let byte = (register >> (8 * j)) as u8;
        if self == Factor::S8 {
            i32::from(byte as i8)
        } else {
            i32::from(byte)
        }
    }
}

/// The largest K of a shape here (m16n8k32).
const MAX_K: usize = 32;

/// Row-major factors, zero-padded to 16 x 32 and 32 x 8.
struct Factors<T> {
    a: [[T; MAX_K]; 16],
    b: [[T; 8]; MAX_K],
}

/// A factor as a warp holds it: its registers and what they hold.
#[derive(Clone, Copy)]
pub(crate) struct Fragment<'r> {
    pub(crate) factor: Factor,
    pub(crate) registers: &'r [Lanes],
}

fn gather<T: Copy + Default>(
    a: Fragment<'_>,
    b: Fragment<'_>,
    value: impl Fn(Factor, u32, usize) -> T,
) -> Factors<T> {
    let (a_per, b_per) = (a.factor.per(), b.factor.per());
    let mut m = Factors {
        a: [[T::default(); MAX_K]; 16],
        b: [[T::default(); 8]; MAX_K],
    };
    for lane in 0..32 {
        let (g, t) = (lane / 4, lane % 4);
        for (r, register) in a.registers.iter().enumerate() {
            for j in 0..a_per {
                m.a[g + 8 * (r & 1)][a_per * t + j + 4 * a_per * (r >> 1)] =
                    value(a.factor, register[lane], j);
            }
        }
        for (r, register) in b.registers.iter().enumerate() {
            for j in 0..b_per {
                m.b[b_per * t + j + 4 * b_per * r][g] = value(b.factor, register[lane], j);
            }
        }
    }
    m
}

/// The row of C (and D) register `r` in group `g`, and its column for thread `t`.
fn place(lane: usize, r: usize) -> (usize, usize) {
    (lane / 4 + 8 * (r >> 1), 2 * (lane % 4) + (r & 1))
}

/// A x B + C as f64: products are exact, the sum is rounded far below f32. Result `[r][lane]`, laid out as C.
pub(crate) fn float(
    a: Fragment<'_>,
    b: Fragment<'_>,
    c: impl Fn(usize, usize) -> f64,
) -> [[f64; 32]; 4] {
    let m = gather(a, b, Factor::float);
    let k = 4 * b.factor.per() * b.registers.len();
    let mut product = [[0.0; 8]; 16];
    for (row, out) in m.a.iter().zip(&mut product) {
        for (x, column) in row[..k].iter().zip(&m.b) {
            for (o, y) in out.iter_mut().zip(column) {
                *o += x * y;
            }
        }
    }
    let mut d = [[0.0; 32]; 4];
    for (r, lanes) in d.iter_mut().enumerate() {
        for (lane, out) in lanes.iter_mut().enumerate() {
            let (row, col) = place(lane, r);
            *out = product[row][col] + c(r, lane);
        }
    }
    d
}

/// A x B + C in integers; wraps, or clamps to i32 when `saturate`. `c` has 4 registers, or 2 for m8n8k16.
pub(crate) fn integer(a: Fragment<'_>, b: Fragment<'_>, c: &[Lanes], saturate: bool) -> [Lanes; 4] {
    let m = gather(a, b, Factor::integer);
    let k = 16 * b.registers.len();
    let mut product = [[0i32; 8]; 16];
    for (row, out) in m.a.iter().zip(&mut product) {
        for (x, column) in row[..k].iter().zip(&m.b) {
            for (o, y) in out.iter_mut().zip(column) {
                *o += x * y;
            }
        }
    }
    let mut d = [[0; 32]; 4];
    for (r, lanes) in d.iter_mut().enumerate().take(c.len()) {
        for (lane, out) in lanes.iter_mut().enumerate() {
            let (row, col) = place(lane, r);
            let (p, q) = (product[row][col], c[r][lane] as i32);
            *out = if saturate {
                p.saturating_add(q)
            } else {
                p.wrapping_add(q)
            } as u32;
        }
    }
    d
}

/// Lane `lane`'s register of an 8 x 8 matrix of 16-bit elements: M[g][2t] below M[g][2t + 1], or transposed.
pub(crate) fn tile_register(tile: &[[u16; 8]; 8], lane: usize, transpose: bool) -> u32 {
    let (g, t) = (lane / 4, lane % 4);
    let (low, high) = if transpose {
        (tile[2 * t][g], tile[2 * t + 1][g])
    } else {
        (tile[g][2 * t], tile[g][2 * t + 1])
    };
    u32::from(low) | u32::from(high) << 16
}

/// The 8 x 8 matrix that a warp's registers hold: the inverse of [`tile_register`].
pub(crate) fn tile_matrix(register: &Lanes, transpose: bool) -> [[u16; 8]; 8] {
    let mut tile = [[0; 8]; 8];
    for (lane, word) in register.iter().enumerate() {
        let (g, t) = (lane / 4, lane % 4);
        for (j, half) in [(0, *word as u16), (1, (*word >> 16) as u16)] {
            if transpose {
                tile[2 * t + j][g] = half;
            } else {
                tile[g][2 * t + j] = half;
            }
        }
    }
    tile
}
