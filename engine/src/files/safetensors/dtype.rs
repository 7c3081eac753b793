//! The element types of safetensors: their names in a header and their widths.
//!
//! The table is the container's own list (the `Dtype` of the safetensors specification); what the
//! bits of a type mean is not known here.

use std::fmt;

macro_rules! dtypes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $bits:literal;)*) => {
        /// How the elements of a tensor are stored.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(non_camel_case_types, reason = "these are the container's names")]
        #[non_exhaustive]
        pub enum Dtype {
            $($(#[$doc])* $variant,)*
        }

        impl Dtype {
            /// Every type that a header may name.
            pub const ALL: &'static [Dtype] = &[$(Dtype::$variant,)*];

            /// The name in a header, such as `BF16`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Dtype::$variant => $name,)* }
            }

            /// Bits of an element; some types share a byte with their neighbour.
            #[must_use]
            pub fn bits(self) -> u64 {
                match self { $(Dtype::$variant => $bits,)* }
            }
        }
    };
}

dtypes! {
    /// One byte, 0 or 1.
    Bool = "BOOL", 8;
    /// 4-bit float (OCP microscaling E2M1).
    F4 = "F4", 4;
    /// 6-bit float, 2 bits of exponent.
    F6_E2M3 = "F6_E2M3", 6;
    /// 6-bit float, 3 bits of exponent.
    F6_E3M2 = "F6_E3M2", 6;
    /// Unsigned 8-bit integer.
    U8 = "U8", 8;
    /// Signed 8-bit integer.
    I8 = "I8", 8;
    /// 8-bit float, 5 bits of exponent.
    F8_E5M2 = "F8_E5M2", 8;
    /// 8-bit float, 4 bits of exponent.
    F8_E4M3 = "F8_E4M3", 8;
    /// 8-bit power of two.
    F8_E8M0 = "F8_E8M0", 8;
    /// 8-bit float, 4 bits of exponent, no infinities and no negative zero.
    F8_E4M3FNUZ = "F8_E4M3FNUZ", 8;
    /// 8-bit float, 5 bits of exponent, no infinities and no negative zero.
    F8_E5M2FNUZ = "F8_E5M2FNUZ", 8;
    /// Signed 16-bit integer.
    I16 = "I16", 16;
    /// Unsigned 16-bit integer.
    U16 = "U16", 16;
    /// IEEE 754 half precision.
    F16 = "F16", 16;
    /// The upper half of a single-precision number.
    BF16 = "BF16", 16;
    /// Signed 32-bit integer.
    I32 = "I32", 32;
    /// Unsigned 32-bit integer.
    U32 = "U32", 32;
    /// IEEE 754 single precision.
    F32 = "F32", 32;
    /// Two single-precision numbers.
    C64 = "C64", 64;
    /// IEEE 754 double precision.
    F64 = "F64", 64;
    /// Signed 64-bit integer.
    I64 = "I64", 64;
    /// Unsigned 64-bit integer.
    U64 = "U64", 64;
}

impl Dtype {
    /// The type of a header's name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Dtype> {
        Self::ALL.iter().copied().find(|d| d.name() == name)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
