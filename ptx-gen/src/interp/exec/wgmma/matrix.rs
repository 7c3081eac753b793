//! Where the chunks of a matrix in shared memory are, by its descriptor. The formulas are those of
//! [`crate::build::Descriptor`]'s module, over absolute addresses as the hardware has them.

use crate::build::Swizzle;

/// The fields of a descriptor.
struct Fields {
    start: u32,
    leading: u32,
    stride: u32,
    swizzle: Swizzle,
}

fn fields(descriptor: u64) -> Result<Fields, String> {
    let bytes = |at: u32| (descriptor >> at) as u32 & 0x3fff;
    let swizzle = Swizzle::of((descriptor >> 62) as u32);
    if descriptor >> 49 & 7 != 0 {
        return Err("a base offset that is not 0".to_owned());
    }
    let known = 0x3fff | 0x3fff << 16 | 0x3fff << 32 | 3 << 62;
    if descriptor & !known != 0 {
        return Err(format!(
            "bits without a meaning: {:#x}",
            descriptor & !known
        ));
    }
    Ok(Fields {
        start: bytes(0) << 4,
        leading: bytes(16) << 4,
        stride: bytes(32) << 4,
        swizzle,
    })
}

/// The shared addresses of the 16-byte chunks of some rows (the first one and how many; multiples of 8), 32 bytes of
/// `k`: row by row the two chunks of `k`, or, transposed, for each eight rows the sixteen chunks of `k`.
pub(super) fn chunks(
    descriptor: u64,
    first: usize,
    rows: usize,
    transposed: bool,
) -> Result<Vec<u32>, String> {
    let f = fields(descriptor)?;
    let (row_bytes, align) = (f.swizzle.row_bytes(), f.swizzle.align());
    let within = f.start % align;
    // A k step moves within the first row of an atom; nothing else may.
    let fits = match (f.swizzle, transposed) {
        (Swizzle::None, _) => true,
        (_, false) => within + 32 <= row_bytes,
        (_, true) => within == 0,
    };
    if !fits {
        return Err(format!(
            "it starts {within} bytes into an atom of {align} bytes"
        ));
    }
    let crosses = |distance: u32, used: bool| used && !distance.is_multiple_of(align);
    let steps = first + rows
        > if transposed {
            row_bytes as usize / 2
        } else {
            8
        };
    if f.swizzle != Swizzle::None
        && (crosses(f.stride, steps || transposed) || crosses(f.leading, steps && transposed))
    {
        return Err(format!(
            "distances of {} and {} bytes leave atoms of {align} bytes misaligned",
            f.leading, f.stride
        ));
    }
    let mut out = Vec::new();
    if transposed {
        for g in first as u32 / 8..(first + rows) as u32 / 8 {
            out.extend((0..16).map(|k| f.place(f.start + f.by_rows(g, k))));
        }
    } else {
        for r in first as u32..(first + rows) as u32 {
            out.extend((0..2).map(|c| f.place(f.start + f.by_k(r, c))));
        }
    }
    Ok(out)
}

impl Fields {
    /// Row `r`, chunk `c` of `k`.
    fn by_k(&self, r: u32, c: u32) -> u32 {
        let next = match self.swizzle {
            Swizzle::None => self.leading,
            _ => 16,
        };
        r % 8 * self.swizzle.row_bytes() + r / 8 * self.stride + c * next
    }

    /// Chunk `g` of rows at `k`.
    fn by_rows(&self, g: u32, k: u32) -> u32 {
        if self.swizzle == Swizzle::None {
            return k % 8 * 16 + k / 8 * self.leading + g * self.stride;
        }
        let row = self.swizzle.row_bytes();
        let chunks = row / 16;
        k % 8 * row + k / 8 * self.stride + g % chunks * 16 + g / chunks * self.leading
    }

    fn place(&self, address: u32) -> u32 {
        self.swizzle.place(address) & 0x3_ffff
    }
}
