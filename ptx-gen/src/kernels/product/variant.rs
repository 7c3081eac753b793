//! Ways to compute a matrix-vector product: one value says how lanes share a row, how a block is
//! made up, and in what arithmetic.
//!
//! Which one is fastest depends on shape and GPU and is measured; [`super::GemvSpec::variants`]
//! lists what is worth measuring. A variant is written as text in caches and names of kernels:
//! `dp4a-l16-w16-r2-b8` is [`Arithmetic::Dp4a`] with 16 lanes a row, loads of 16 bytes, 2 rows a
//! slot and 8 warps a block.

use std::fmt;
use std::str::FromStr;

use super::dot::Tiling;
use crate::kernels::WeightFormat;
use crate::kernels::weights::geometry::Geometry;

/// In what numbers a product is computed. Weights are those of the file in each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Arithmetic {
    /// Activations, products and sums in f32. Held to an NMSE of 1e-6.
    F32,
    /// Activations rounded to f16 relative to the largest of some columns, products in f16
    /// pairs, sums of at most 8 products in f16 and all others in f32. Held to an NMSE of 1e-6.
    F16x2,
    /// Activations rounded to 8 bits relative to the largest of their 32 columns, products and
    /// their sums exact in integers, sums over columns with other scales in f32. Held to an NMSE
    /// of 1e-3: not for where results are to be those of f32.
    Dp4a,
}

impl Arithmetic {
    /// Every arithmetic, the most exact one first.
    pub const ALL: [Arithmetic; 3] = [Arithmetic::F32, Arithmetic::F16x2, Arithmetic::Dp4a];

    /// Short lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Arithmetic::F32 => "f32",
            Arithmetic::F16x2 => "f16x2",
            Arithmetic::Dp4a => "dp4a",
        }
    }

    /// The normalised mean square error that results must stay below, against the product of the
    /// same weights with unrounded activations.
    pub const fn limit(self) -> f64 {
        match self {
            Arithmetic::F32 => 1e-9,
            Arithmetic::F16x2 => 1e-6,
            Arithmetic::Dp4a => 1e-3,
        }
    }
}

/// A way to compute a matrix-vector product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GemvVariant {
    /// Numbers to compute in.
    pub arithmetic: Arithmetic,
    /// Lanes that share a row: 8, 16 or 32.
    pub lanes: u32,
    /// Bytes of codes that a lane loads at once: 16, 8 or 4.
    pub width: u32,
    /// Warps of a block, 1 to 16.
    pub warps: u32,
    /// Rows that a slot of lanes computes at once: 1, 2 or 4.
    pub rows_per_slot: u32,
}

impl GemvVariant {
    /// [`Arithmetic::limit`] of its arithmetic.
    pub const fn limit(&self) -> f64 {
        self.arithmetic.limit()
    }
}

impl fmt::Display for GemvVariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let GemvVariant {
            arithmetic,
            lanes,
            width,
            warps,
            rows_per_slot,
        } = self;
        let arithmetic = arithmetic.name();
        write!(
            f,
            "{arithmetic}-l{lanes}-w{width}-r{rows_per_slot}-b{warps}"
        )
    }
}

/// A text that names no variant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no variant of a matrix-vector product; one is named like f16x2-l16-w16-r2-b8")]
pub struct ParseVariantError(String);

impl FromStr for GemvVariant {
    type Err = ParseVariantError;

    fn from_str(text: &str) -> Result<GemvVariant, ParseVariantError> {
        let variant = || {
            let mut parts = text.split('-');
            let name = parts.next()?;
            let arithmetic = Arithmetic::ALL.into_iter().find(|a| a.name() == name)?;
            let mut number =
                |letter: char| -> Option<u32> { parts.next()?.strip_prefix(letter)?.parse().ok() };
            let variant = GemvVariant {
                arithmetic,
                lanes: number('l')?,
                width: number('w')?,
                rows_per_slot: number('r')?,
                warps: number('b')?,
            };
            // One variant has one name.
            (variant.to_string() == text).then_some(variant)
        };
        variant().ok_or_else(|| ParseVariantError(text.to_owned()))
    }
}

/// What variants of a product are judged by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Shape {
    pub(super) format: WeightFormat,
    pub(super) rows: u32,
    pub(super) cols: u32,
    /// Matrices that are multiplied at once.
    pub(super) matrices: u32,
    /// Rows of activations of a block.
    pub(super) tokens: u32,
}

/// Columns from which staging the activations is a good part of a block's work.
const LONG_ROW: u32 = 4096;
/// Multiprocessors to spread work over; what the default is tuned for.
const PROCESSORS: u32 = 132;

impl Shape {
    /// How the product is spread over blocks.
    pub(super) fn tiling(&self, variant: Option<GemvVariant>) -> Tiling {
        let variant = variant.unwrap_or_else(|| self.default_variant());
        Tiling::new(self, variant)
    }

    /// What a kernel's name says of its variant: nothing of the default one.
    pub(super) fn suffix(&self, variant: Option<GemvVariant>) -> String {
        match variant {
            Some(variant) if variant != self.default_variant() => {
                format!("_{variant}").replace('-', "_")
            }
            _ => String::new(),
        }
    }

    /// Whether there is a kernel of this variant.
    pub(super) fn check(&self, variant: GemvVariant) -> Result<(), String> {
        let refuse = |why: &str| Err(format!("{variant} of {}: {why}", self.format.name()));
        if !matches!(variant.lanes, 8 | 16 | 32) {
            return refuse("8, 16 or 32 lanes share a row");
        }
        if !(1..=16).contains(&variant.warps) {
            return refuse("a block has 1 to 16 warps");
        }
        if !matches!(variant.rows_per_slot, 1 | 2 | 4) {
            return refuse("a slot has 1, 2 or 4 rows");
        }
        use WeightFormat::{BF16, F16, F32};
        let exists = match variant.arithmetic {
            Arithmetic::F32 => true,
            Arithmetic::F16x2 => self.format != F32,
            Arithmetic::Dp4a => !matches!(self.format, F32 | F16 | BF16),
        };
        if !exists {
            return refuse("the format does not go with the arithmetic");
        }
        self.check_width(variant).or_else(refuse)?;
        let sums = variant.rows_per_slot * self.matrices * self.tokens;
        let halves = matches!(self.format, F16 | BF16);
        let in_large_blocks = if halves { 1 } else { 2 };
        let narrow = variant.arithmetic != Arithmetic::F32;
        let large = |warps: u32| variant.warps > warps;
        let crowded = sums > in_large_blocks && large(8) || self.tokens > 1 && large(12);
        let crowded = narrow && crowded;
        // The default one was tried out.
        if (sums > 16 || crowded) && variant != self.default_variant() {
            return refuse("its sums do not fit registers");
        }
        Ok(())
    }

    /// Whether lanes load codes of this width.
    fn check_width(&self, variant: GemvVariant) -> Result<(), &'static str> {
        use WeightFormat::{BF16, F16, F32};
        match (self.format, variant.width) {
            (_, 16) if self.widest() < 16 => Err("rows are odd multiples of 8 bytes"),
            (_, 16) => Ok(()),
            (F32, 4 | 8) => Err("a lane multiplies four columns at least, which are 16 bytes"),
            (F16 | BF16, 4) => Err("a lane multiplies four columns at least, which are 8 bytes"),
            (_, 4 | 8) => {
                let share = self
                    .geometry(variant.lanes, variant.width)
                    .groups_per_block();
                match variant.lanes < share {
                    true => Err("fewer lanes share a row than load a block of weights"),
                    false => Ok(()),
                }
            }
            _ => Err("a lane loads 16, 8 or 4 bytes of codes"),
        }
    }

    /// Bytes of the widest load of codes.
    fn widest(&self) -> u32 {
        Geometry::widest(self.format, self.cols)
    }

    fn geometry(&self, lanes: u32, width: u32) -> Geometry {
        Geometry {
            format: self.format,
            rows: self.rows,
            cols: self.cols,
            lanes,
            width,
        }
    }

    /// What is worth measuring: the default, then by arithmetic, the most exact one last, since
    /// it is the slowest where formats are narrow.
    pub(super) fn variants(&self) -> Vec<GemvVariant> {
        let default = self.default_variant();
        let mut variants = vec![default];
        let long = self.cols >= LONG_ROW;
        for arithmetic in [Arithmetic::Dp4a, Arithmetic::F16x2, Arithmetic::F32] {
            let lanes = match arithmetic {
                Arithmetic::F32 => vec![default.lanes],
                _ => self.good_lanes(),
            };
            let tiles: &[(u32, &[u32])] = match (arithmetic, long) {
                (Arithmetic::F32, _) => &[(1, &[4, 8]), (2, &[4, 8])],
                (_, true) => &[(1, &[1, 2, 4, 8, 12, 16]), (2, &[4, 8, 16]), (4, &[4])],
                (_, false) => &[(1, &[1, 2, 4, 8, 16]), (2, &[4, 8]), (4, &[4])],
            };
            for (lanes, (rows_per_slot, warps)) in lanes
                .iter()
                .flat_map(|lanes| tiles.iter().map(move |tile| (lanes, tile)))
            {
                variants.extend(warps.iter().map(|warps| GemvVariant {
                    arithmetic,
                    lanes: *lanes,
                    warps: *warps,
                    rows_per_slot: *rows_per_slot,
                    ..default
                }));
            }
            variants.extend(self.narrower(arithmetic));
        }
        let mut seen = Vec::new();
        variants.retain(|variant| {
            let good = *variant == default || self.is_promising(variant);
            let keep = good && !seen.contains(variant) && self.check(*variant).is_ok();
            seen.push(*variant);
            keep
        });
        variants
    }

    /// What is worth measuring of narrower loads than the widest: a warp a row, in several tiles
    /// where that wastes little of a row's steps and loads of twice the width waste more, and
    /// otherwise in one.
    fn narrower(&self, arithmetic: Arithmetic) -> Vec<GemvVariant> {
        const LANES: u32 = 32;
        const TILES: [(u32, u32); 7] = [(2, 8), (2, 4), (1, 8), (1, 4), (1, 2), (1, 1), (1, 16)];
        let wastes = |width: u32| self.padded(LANES, width) * 4 >= self.cols * 5;
        let widths = [8, 4].into_iter().filter(|w| *w < self.widest());
        widths
            .flat_map(|width| {
                let variant = |(rows_per_slot, warps)| GemvVariant {
                    arithmetic,
                    lanes: LANES,
                    width,
                    warps,
                    rows_per_slot,
                };
                let several = wastes(2 * width) && !wastes(width);
                (TILES.map(variant).into_iter())
                    .filter(|v| self.is_promising(v) && self.check(*v).is_ok())
                    .take(if several { TILES.len() } else { 1 })
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    /// Columns that a row's steps cover.
    fn padded(&self, lanes: u32, width: u32) -> u32 {
        let geometry = self.geometry(lanes, width);
        geometry.steps() * geometry.step()
    }

    /// Whether it leaves few processors idle without being in smaller blocks than that takes:
    /// every block stages all activations.
    fn is_promising(&self, variant: &GemvVariant) -> bool {
        let GemvVariant {
            lanes,
            warps,
            rows_per_slot,
            ..
        } = *variant;
        let blocks = self.rows.div_ceil(warps * (32 / lanes) * rows_per_slot);
        let most = if self.cols >= LONG_ROW { 4 } else { 12 } * PROCESSORS;
        let smallest = rows_per_slot == 1 && warps == 1;
        (smallest || blocks >= PROCESSORS / 2) && (warps >= 4 || blocks <= most)
    }

    /// Lanes a row that waste less than a quarter of a row's steps, the most first; at least those
    /// that waste least. At most two.
    fn good_lanes(&self) -> Vec<u32> {
        let columns = |lanes: &u32| self.padded(*lanes, self.widest());
        let least = [32, 16, 8].iter().map(columns).min().unwrap_or(0);
        let good = |lanes: &u32| columns(lanes) <= least || columns(lanes) * 4 < self.cols * 5;
        let lanes = [32, 16, 8].into_iter().filter(good);
        lanes.take(2).collect()
    }

    /// The variant for where nothing was measured: as many lanes a row as waste little in the last
    /// step of a row, and blocks by what was measured on an H200.
    pub(super) fn default_variant(&self) -> GemvVariant {
        let waste = |lanes: u32| self.padded(lanes, self.widest()) * 16 / self.cols;
        let lanes = [32, 16, 8].into_iter().min_by_key(|lanes| waste(*lanes));
        let lanes = lanes.unwrap_or(32);
        let blocks =
            |warps: u32, per_slot: u32| self.rows.div_ceil(warps * (32 / lanes) * per_slot);
        let minima = matches!(self.format, WeightFormat::Q4K | WeightFormat::Q5K);
        let (warps, rows_per_slot) = match self.tokens {
            1 => self.one_token_tile(blocks),
            // Two rows of both matrices would not fit registers.
            _ if self.matrices == 2 && (self.tokens == 2 || !minima) => (8, 1),
            _ if blocks(8, 2) >= PROCESSORS / 2 => (8, 2),
            _ => (8, 1),
        };
        GemvVariant {
            arithmetic: Arithmetic::F32,
            lanes,
            width: self.widest(),
            warps,
            rows_per_slot,
        }
    }

    /// Warps a block and rows a slot for one token: rows that share a slot save reads of shared
    /// memory, large blocks save staging (each block stages all of x), and small blocks start and
    /// end smoothly. `blocks` counts blocks by warps and rows a slot.
    fn one_token_tile(&self, blocks: impl Fn(u32, u32) -> u32) -> (u32, u32) {
        let (most, plenty) = match self.format {
            WeightFormat::Q4K | WeightFormat::Q5K | WeightFormat::Q6K => (2, 8000),
            _ => (4, 512),
        };
        let most = most / self.matrices;
        if self.cols >= LONG_ROW && blocks(4, most) < plenty {
            // Staging counts: large blocks, of a size that leaves few processors idle at the end.
            let busy = |warps: u32, per_slot: u32| {
                let blocks = blocks(warps, per_slot);
                // In quarters, so that small differences do not decide.
                4 * blocks / blocks.next_multiple_of(PROCESSORS)
            };
            let tiles = [2, 1].into_iter().flat_map(|r| [16, 12, 8].map(|w| (w, r)));
            return tiles
                .max_by_key(|(w, r)| (busy(*w, *r), *r, *w))
                .unwrap_or((8, 1));
        }
        let mut rows_per_slot = most;
        while rows_per_slot > 1 && blocks(4, rows_per_slot) < 512 * self.matrices {
            rows_per_slot /= 2;
        }
        (4, rows_per_slot)
    }
}
