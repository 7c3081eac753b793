//! Tensors as the container describes them: a name, a shape, a type, a place.
//!
//! [`TensorType`] is ggml's list of storage types with the only two numbers a container needs of
//! each: how many elements a block has, and how many bytes. What the bytes mean is not known here.

use std::fmt;

macro_rules! tensor_types {
    ($($(#[$doc:meta])* $name:ident = $id:literal, $block_len:literal, $block_bytes:literal;)*) => {
        /// How a tensor's elements are stored. The discriminant is ggml's number for the type.
        #[allow(non_camel_case_types)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        #[non_exhaustive]
        pub enum TensorType {
            $($(#[$doc])* $name = $id,)*
        }

        impl TensorType {
            /// Every type that a file may use, in the order of their numbers.
            pub const ALL: &'static [TensorType] = &[$(TensorType::$name,)*];

            /// ggml's name of the type, such as `Q4_K`.
            pub fn name(self) -> &'static str {
                match self { $(TensorType::$name => stringify!($name),)* }
            }

            /// How many consecutive elements of a row form a block.
            pub fn block_len(self) -> u64 {
                match self { $(TensorType::$name => $block_len,)* }
            }

            /// How many bytes a block takes.
            pub fn block_bytes(self) -> u64 {
                match self { $(TensorType::$name => $block_bytes,)* }
            }
        }
    };
}

// Source of numbers and sizes: ggml's `enum ggml_type` and its block structures.
tensor_types! {
    /// IEEE 754 single precision.
    F32 = 0, 1, 4;
    /// IEEE 754 half precision.
    F16 = 1, 1, 2;
    /// 4-bit, scale.
    Q4_0 = 2, 32, 18;
    /// 4-bit, scale and minimum.
    Q4_1 = 3, 32, 20;
    /// 5-bit, scale.
    Q5_0 = 6, 32, 22;
    /// 5-bit, scale and minimum.
    Q5_1 = 7, 32, 24;
    /// 8-bit, scale.
    Q8_0 = 8, 32, 34;
    /// 8-bit, scale and sum (activations).
    Q8_1 = 9, 32, 36;
    /// 2-bit super-blocks.
    Q2_K = 10, 256, 84;
    /// 3-bit super-blocks.
    Q3_K = 11, 256, 110;
    /// 4-bit super-blocks.
    Q4_K = 12, 256, 144;
    /// 5-bit super-blocks.
    Q5_K = 13, 256, 176;
    /// 6-bit super-blocks.
    Q6_K = 14, 256, 210;
    /// 8-bit super-blocks (activations).
    Q8_K = 15, 256, 292;
    /// Codebook, 2.06 bits per weight.
    IQ2_XXS = 16, 256, 66;
    /// Codebook, 2.31 bits per weight.
    IQ2_XS = 17, 256, 74;
    /// Codebook, 3.06 bits per weight.
    IQ3_XXS = 18, 256, 98;
    /// Codebook, 1.56 bits per weight.
    IQ1_S = 19, 256, 50;
    /// 4-bit indices into a fixed table.
    IQ4_NL = 20, 32, 18;
    /// Codebook, 3.44 bits per weight.
    IQ3_S = 21, 256, 110;
    /// Codebook, 2.56 bits per weight.
    IQ2_S = 22, 256, 82;
    /// 4-bit indices into a fixed table, super-blocks.
    IQ4_XS = 23, 256, 136;
    /// Signed 8-bit integers.
    I8 = 24, 1, 1;
    /// Signed 16-bit integers.
    I16 = 25, 1, 2;
    /// Signed 32-bit integers.
    I32 = 26, 1, 4;
    /// Signed 64-bit integers.
    I64 = 27, 1, 8;
    /// IEEE 754 double precision.
    F64 = 28, 1, 8;
    /// Codebook, 1.75 bits per weight.
    IQ1_M = 29, 256, 56;
    /// The upper half of a single-precision number.
    BF16 = 30, 1, 2;
    /// Ternary, 1.69 bits per weight.
    TQ1_0 = 34, 256, 54;
    /// Ternary, 2.06 bits per weight.
    TQ2_0 = 35, 256, 66;
    /// 4-bit floats with a shared power-of-two scale (OCP microscaling).
    MXFP4 = 39, 32, 17;
    /// 4-bit floats with 8-bit float scales of 16 elements.
    NVFP4 = 40, 64, 36;
    /// 1-bit, scale.
    Q1_0 = 41, 128, 18;
}

/// Numbers that ggml once gave out and withdrew; files that use them must be converted again.
const REMOVED: &[(u32, &str)] = &[
    (4, "Q4_2"),
    (5, "Q4_3"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (36, "IQ4_NL_4_4"),
    (37, "IQ4_NL_4_8"),
    (38, "IQ4_NL_8_8"),
];

impl TensorType {
    /// ggml's number of the type.
    pub fn id(self) -> u32 {
        self as u32
    }

    /// The type with ggml's number `id`; `None` for unknown and withdrawn numbers.
    pub fn from_id(id: u32) -> Option<TensorType> {
        Self::ALL.iter().copied().find(|t| t.id() == id)
    }

    /// The name of a number that ggml has withdrawn.
    pub fn removed_name(id: u32) -> Option<&'static str> {
        REMOVED
            .iter()
            .find(|(removed, _)| *removed == id)
            .map(|(_, name)| *name)
    }

    /// The bytes of a tensor of this type and shape (`dims[0]` contiguous), computed without
    /// wrapping.
    ///
    /// # Errors
    /// The field that is wrong, when the shape is not 1 to 4 dimensions of at least 1, when its
    /// product or size exceeds 63 bits, or when `dims[0]` is not a multiple of the block.
    pub fn tensor_bytes(self, dims: &[u64]) -> Result<u64, ShapeError> {
        if dims.is_empty() || dims.len() > MAX_DIMS {
            return Err(ShapeError::Count(dims.len() as u64));
        }
        // ggml keeps extents as signed 64-bit numbers: larger ones are negative there.
        if let Some(&bad) = dims.iter().find(|&&d| d == 0 || d > i64::MAX as u64) {
            return Err(ShapeError::Extent(bad));
        }
        let fits = |n: &u64| *n <= i64::MAX as u64;
        let product = dims
            .iter()
            .try_fold(1u64, |n, &d| n.checked_mul(d))
            .filter(fits);
        let elements = product.ok_or(ShapeError::Overflow)?;
        if !dims[0].is_multiple_of(self.block_len()) {
            return Err(ShapeError::Block {
                found: dims[0],
                block_len: self.block_len(),
            });
        }
        let blocks = elements / self.block_len();
        blocks
            .checked_mul(self.block_bytes())
            .filter(fits)
            .ok_or(ShapeError::Overflow)
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The most dimensions a tensor may have.
pub const MAX_DIMS: usize = 4;

/// The longest tensor name, in bytes.
pub const MAX_NAME_BYTES: usize = 64;

/// What is wrong with a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShapeError {
    /// This many dimensions.
    Count(u64),
    /// A dimension that is zero or exceeds 63 bits, which ggml reads as negative.
    Extent(u64),
    /// The number of elements or bytes exceeds 63 bits.
    Overflow,
    /// The contiguous dimension is not a multiple of the type's block.
    Block {
        /// The contiguous dimension.
        found: u64,
        /// The type's elements per block.
        block_len: u64,
    },
}

impl ShapeError {
    /// The field, the value found, and what would be right, for a message.
    pub(crate) fn parts(self, dims: &[u64], ty: TensorType) -> (&'static str, String, String) {
        match self {
            ShapeError::Count(n) => (
                "the number of dimensions",
                n.to_string(),
                format!("1 to {MAX_DIMS}"),
            ),
            ShapeError::Extent(0) => ("a dimension", "0".into(), "at least 1".into()),
            ShapeError::Extent(n) => (
                "a dimension",
                format!("{n}, an overflow"),
                "from 1 to 2^63-1".into(),
            ),
            ShapeError::Overflow => (
                "the shape",
                format!("{dims:?} of {ty}, an overflow"),
                "of at most 2^63-1 elements and bytes".into(),
            ),
            ShapeError::Block { found, block_len } => (
                "the first dimension",
                found.to_string(),
                format!("a multiple of {block_len}, the block of {ty}"),
            ),
        }
    }
}

/// One tensor of a file: what it is called, its shape, how and where it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name, such as `blk.0.attn_q.weight`; at most 64 bytes, unique in the model.
    pub name: String,
    /// One to four extents, each at least 1, in ggml's order: `dims[0]` is the contiguous one, so
    /// that a matrix of `[rows, cols]` has `dims == [cols, rows]`.
    pub dims: Vec<u64>,
    /// How the elements are stored; `dims[0]` is a multiple of its block.
    pub ty: TensorType,
    /// Which shard holds it, from 0.
    pub shard: usize,
    /// Where its data starts, in bytes from the start of the shard.
    pub offset: u64,
    /// The bytes of its data, without padding.
    pub bytes: u64,
}

impl TensorInfo {
    /// The number of elements: the product of the dimensions.
    pub fn elements(&self) -> u64 {
        self.dims.iter().product()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_up_to_the_last_is_live_or_removed() {
        for id in 0..=41 {
            let live = TensorType::from_id(id);
            assert!(
                live.is_some() != TensorType::removed_name(id).is_some(),
                "{id}"
            );
            assert!(live.is_none_or(|t| t.id() == id));
        }
        assert_eq!(TensorType::from_id(u32::MAX), None);
        assert_eq!(TensorType::ALL.len() + REMOVED.len(), 42);
    }

    #[test]
    fn sizes_do_not_wrap() {
        use TensorType::*;
        assert_eq!(Q4_K.tensor_bytes(&[512, 3]), Ok(2 * 3 * 144));
        assert_eq!(F32.tensor_bytes(&[7]), Ok(28));
        assert_eq!(
            F32.tensor_bytes(&[1 << 32, 1 << 32]),
            Err(ShapeError::Overflow)
        );
        assert_eq!(F64.tensor_bytes(&[1 << 61]), Err(ShapeError::Overflow));
        assert_eq!(F32.tensor_bytes(&[]), Err(ShapeError::Count(0)));
        assert_eq!(F32.tensor_bytes(&[1; 5]), Err(ShapeError::Count(5)));
        assert_eq!(F32.tensor_bytes(&[0]), Err(ShapeError::Extent(0)));
        assert_eq!(
            F32.tensor_bytes(&[u64::MAX]),
            Err(ShapeError::Extent(u64::MAX))
        );
        let block = ShapeError::Block {
            found: 16,
            block_len: 32,
        };
        assert_eq!(Q4_0.tensor_bytes(&[16, 2]), Err(block));
    }
}
