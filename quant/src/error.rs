//! The errors of this crate: sizes that do not fit a format, values that a format cannot hold.
//!
//! Every error states what was expected and what was found, so that a caller can add the file and
//! the tensor and print the result as it is.

/// Why a conversion of weights was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A count of weights (or of columns) is not a whole number of blocks.
    #[error("{format}: {weights} weights are not a multiple of the block length {block_len}")]
    PartialBlock {
        /// The format's name.
        format: &'static str,
        /// How many weights there are.
        weights: usize,
        /// How many weights a block holds.
        block_len: usize,
    },
    /// A buffer does not have the size that its shape asks for.
    #[error("{format}: {what} has {found}, expected {expected}")]
    Size {
        /// The format's name.
        format: &'static str,
        /// Which buffer, with its unit.
        what: &'static str,
        /// The size that would be right.
        expected: usize,
        /// The size found.
        found: usize,
    },
    /// The size of a matrix does not fit the address space.
    #[error("{format}: a matrix of {rows} x {cols} is too large to address")]
    TooLarge {
        /// The format's name.
        format: &'static str,
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        cols: usize,
    },
    /// A block format was asked to hold a NaN or an infinity.
    #[error("{format}: value {index} is not finite")]
    NotFinite {
        /// The format's name.
        format: &'static str,
        /// Position of the first such value.
        index: usize,
    },
    /// What the errors of a column count is negative or not finite.
    #[error("the importance of column {index} is {value}, not a finite number from 0 up")]
    Importance {
        /// The column.
        index: usize,
        /// The value found.
        value: String,
    },
    /// A weight leaves the range of the format that it is converted to.
    #[error("{from} to {to}: weight {index} of row {row} is out of range")]
    OutOfRange {
        /// The format's name.
        from: &'static str,
        /// The target format's name.
        to: &'static str,
        /// Row of the weight.
        row: usize,
        /// Column of the weight.
        index: usize,
    },
    /// Unpacked in half precision, a row would not be what it is: one of its scales stands far above all of
    /// its weights. See [`tile`](crate::tile).
    #[error("{format}: the scales of row {row} are too far apart for half precision")]
    Imprecise {
        /// The format's name.
        format: &'static str,
        /// The row, in the order packed.
        row: usize,
    },
    /// Two matrices whose rows were to be interleaved are not alike.
    #[error("{first} and {second} cannot be interleaved: they differ in format or shape")]
    Unequal {
        /// Format and shape of the first.
        first: String,
        /// Those of the second.
        second: String,
    },
    /// The GPU has no layout for this format; see [`repack::gpu_format`](crate::repack::gpu_format).
    #[error("{format} has no GPU layout of its own")]
    NoLayout {
        /// The format's name.
        format: &'static str,
    },
}
