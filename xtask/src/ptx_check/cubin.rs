//! Counts the machine instructions in what ptxas writes, a 64-bit little-endian ELF file.
//!
//! Only the section table is read, so no disassembler is needed. Every offset comes from the file
//! and is checked: bytes that are no cubin are an error, never a panic.

/// Bytes of one instruction on every GPU since Volta (compute capability 7.0).
const INSTRUCTION_BYTES: u64 = 16;
/// `e_machine` of CUDA.
const MACHINE: u64 = 190;
/// `sh_flags`: the section holds instructions (`SHF_EXECINSTR`).
const EXECUTABLE: u64 = 4;

/// Instructions in all executable sections, with the padding at their ends.
///
/// Layout: the ELF-64 object file format, "ELF header" and "Sections". A section's size in the
/// file is held against the file's length.
pub(super) fn instructions(cubin: &[u8]) -> Result<u32, String> {
    if !cubin.starts_with(b"\x7fELF\x02\x01") {
        return Err("not a 64-bit little-endian ELF file".into());
    }
    let machine = field(cubin, 18, 2)?;
    if machine != MACHINE {
        return Err(format!("an ELF file for machine {machine}, not {MACHINE}"));
    }
    let (table, row, count) = (
        field(cubin, 40, 8)?,
        field(cubin, 58, 2)?,
        field(cubin, 60, 2)?,
    );
    let mut bytes = 0_u64;
    for index in 0..count {
        // At most 2^32, so that only the sum can overflow.
        let header = table.checked_add(index * row).ok_or("a table past 2^64")?;
        let header = usize::try_from(header).map_err(|_| "a table past the file's end")?;
        let at = |offset: usize| header.checked_add(offset).ok_or("a table past 2^64");
        if field(cubin, at(8)?, 8)? & EXECUTABLE == 0 {
            continue;
        }
        let (start, size) = (field(cubin, at(24)?, 8)?, field(cubin, at(32)?, 8)?);
        let end = start.checked_add(size);
        if end.is_none_or(|end| end > cubin.len() as u64) {
            return Err(format!("section {index} ends past the file's end"));
        }
        if size % INSTRUCTION_BYTES != 0 {
            return Err(format!("section {index} has {size} bytes of instructions"));
        }
        bytes += size;
    }
    match u32::try_from(bytes / INSTRUCTION_BYTES) {
        Ok(0) => Err("no instructions".into()),
        Ok(count) => Ok(count),
        Err(_) => Err(format!("{bytes} bytes of instructions")),
    }
}

/// The little-endian number in `width` bytes (8 at most) at `offset`.
fn field(file: &[u8], offset: usize, width: usize) -> Result<u64, String> {
    let bytes = offset
        .checked_add(width)
        .and_then(|end| file.get(offset..end))
        .ok_or_else(|| format!("the file ends before byte {offset}"))?;
    Ok(bytes
        .iter()
        .rev()
        .fold(0, |number, &byte| number << 8 | u64::from(byte)))
}

/// A file with one section for each (flags, bytes) pair, for tests.
#[cfg(test)]
pub(super) fn sample(sections: &[(u64, u64)]) -> Vec<u8> {
    let mut file = vec![0; 64];
    file[..6].copy_from_slice(b"\x7fELF\x02\x01");
    file[18] = MACHINE as u8;
    file[58] = 64;
    file[60] = sections.len() as u8;
    let mut table = Vec::new();
    for &(flags, size) in sections {
        let mut header = [0; 64];
        header[8..16].copy_from_slice(&flags.to_le_bytes());
        header[24..32].copy_from_slice(&(file.len() as u64).to_le_bytes());
        header[32..40].copy_from_slice(&size.to_le_bytes());
        table.extend(header);
        file.resize(file.len() + size as usize, 0);
    }
    let start = file.len() as u64;
    file[40..48].copy_from_slice(&start.to_le_bytes());
    file.extend(table);
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executable_sections_count() {
        let file = sample(&[(2, 40), (6, 128), (3, 8), (6, 256)]);
        assert_eq!(instructions(&file), Ok(24));
        assert!(instructions(&sample(&[(2, 40)])).is_err());
        assert!(instructions(&sample(&[(6, 40)])).is_err());
    }

    /// Any answer will do, but for a table that is cut.
    #[test]
    fn no_prefix_and_no_changed_byte_panics() {
        let file = sample(&[(6, 128), (2, 8)]);
        assert!(instructions(&file[..file.len() - 64]).is_err());
        for end in 0..file.len() {
            let _ = instructions(&file[..end]);
        }
        for at in 0..file.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut changed = file.clone();
                changed[at] = value;
                let _ = instructions(&changed);
            }
        }
    }

    #[test]
    fn sizes_beyond_the_file_are_refused() {
        let mut file = sample(&[(6, 128)]);
        let size_at = file.len() - 64 + 32;
        file[size_at..size_at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(
            instructions(&file),
            Err("section 0 ends past the file's end".into())
        );
        let mut other = sample(&[(6, 128)]);
        other[18] = 62;
        assert!(instructions(&other).is_err());
    }
}
