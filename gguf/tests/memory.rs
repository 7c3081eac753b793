//! The bound on memory, measured: the tables for a file take at most 16 MiB beside its bytes.
//!
//! One test in a process of its own, because the peak that Linux reports is the process's.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

use gannet_gguf::Gguf;

/// A file of `keys` keys and `tensors` one-byte tensors with names of `name_len` digits.
fn file(keys: u64, tensors: u64, name_len: usize, num_dims: u32) -> Vec<u8> {
    let name = |i: u64| format!("{i:0name_len$}").into_bytes();
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend(tensors.to_le_bytes());
    file.extend((keys + 1).to_le_bytes());
    let alignment = "general.alignment";
    file.extend((alignment.len() as u64).to_le_bytes());
    file.extend(alignment.as_bytes());
    file.extend([4, 0, 0, 0, 1, 0, 0, 0]);
    for i in 0..keys {
        file.extend((name_len as u64).to_le_bytes());
        file.extend(name(i));
        file.extend([0, 0, 0, 0, 1]);
    }
    for i in 0..tensors {
        file.extend((name_len as u64).to_le_bytes());
        file.extend(name(i));
        file.extend(num_dims.to_le_bytes());
        (0..num_dims).for_each(|_| file.extend(1u64.to_le_bytes()));
        file.extend(24u32.to_le_bytes()); // I8
        file.extend(i.to_le_bytes());
    }
    file.resize(file.len() + tensors as usize, 1);
    file
}

/// The most memory this process ever had, in bytes; `None` where the system does not tell.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(
        line.trim()
            .strip_suffix(" kB")?
            .trim()
            .parse::<u64>()
            .ok()?
            * 1024,
    )
}

#[test]
fn tables_stay_within_their_bound() {
    // The longest names and the most dimensions take the most memory.
    let bytes = file(16_383, 32_768, 64, 4);
    // The peak restarts from here, without what it took to make the file.
    let restarted = std::fs::write("/proc/self/clear_refs", "5").is_ok();
    let before = peak().filter(|_| restarted);
    let model = Gguf::from_vec("many", bytes).unwrap();
    assert_eq!(model.tensors().len(), 32_768);
    match (before, peak()) {
        (Some(before), Some(after)) => {
            let tables = after.saturating_sub(before);
            eprintln!("{tables} bytes of tables");
            assert!(tables <= 16 << 20, "{tables} bytes");
            assert!(
                tables >= 4 << 20,
                "{tables} bytes cannot hold them: the measure is wrong"
            );
        }
        _ => eprintln!("skipped: this system does not report peak memory"),
    }
    // One more is refused by number, before anything is read.
    let error = Gguf::from_vec("many", file(0, 32_769, 5, 1))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("tensor_count is 32769, must be at most 32768"),
        "{error}"
    );
    let error = Gguf::from_vec("many", file(16_384, 0, 5, 1))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("metadata_kv_count is 16385, must be at most 16384"),
        "{error}"
    );
}
