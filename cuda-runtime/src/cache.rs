//! The on-disk cache of compiled kernels.
//!
//! Always holds: the key is a stable hash of the PTX text, the compute capability and the driver
//! version, each with its length, so no two of them run together; an entry is written to a
//! temporary file and renamed, so a reader sees all of it or nothing; a damaged entry reads as
//! absent; failing to write costs time later, never the run.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

const MAGIC: [u8; 8] = *b"GNTCUBN1";
/// Magic, key, checksum of the cubin, length of the cubin.
const HEADER: usize = 8 + 16 + 16 + 8;

/// Where compiled kernels are kept.
#[derive(Debug, Clone)]
pub struct CubinCache {
    folder: Option<PathBuf>,
}

impl CubinCache {
    /// A cache in `folder`, which is created when the first entry is written.
    pub fn new(folder: impl Into<PathBuf>) -> CubinCache {
        CubinCache {
            folder: Some(folder.into()),
        }
    }

    /// A cache that keeps nothing.
    #[must_use]
    pub fn disabled() -> CubinCache {
        CubinCache { folder: None }
    }

    /// Where it is, if anywhere.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// The entry of `key`, if there is a sound one.
    pub(crate) fn get(&self, key: CubinKey) -> Option<Vec<u8>> {
        let bytes = fs::read(self.path(key)?).ok()?;
        unwrap_entry(key, &bytes).map(<[u8]>::to_vec)
    }

    /// Writes the entry of `key`, replacing whatever is there.
    pub(crate) fn put(&self, key: CubinKey, cubin: &[u8]) -> io::Result<()> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let Some(path) = self.path(key) else {
            return Ok(());
        };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        // Unique in this process and among processes: several may compile the same kernel at once.
        let unique = NEXT.fetch_add(1, Ordering::Relaxed);
        let temporary = path.with_extension(format!("{}-{unique}.tmp", std::process::id()));
        let written = fs::write(&temporary, wrap_entry(key, cubin))
            .and_then(|()| fs::rename(&temporary, &path));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    fn path(&self, key: CubinKey) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.join(format!("{:032x}.cubin", key.0)))
    }
}

/// What an entry is found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CubinKey(u128);

impl CubinKey {
    /// The key of `ptx` compiled by driver `version` for a device of `capability`.
    pub(crate) fn new(ptx: &str, capability: (u32, u32), version: (u32, u32)) -> CubinKey {
        let mut hash = Fnv::new();
        hash.part(ptx.as_bytes());
        for number in [capability.0, capability.1, version.0, version.1] {
            hash.part(&number.to_le_bytes());
        }
        CubinKey(hash.0)
    }
}

fn wrap_entry(key: CubinKey, cubin: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + cubin.len());
    bytes.extend(MAGIC);
    bytes.extend(key.0.to_le_bytes());
    bytes.extend(checksum(cubin).to_le_bytes());
    bytes.extend((cubin.len() as u64).to_le_bytes());
    bytes.extend(cubin);
    bytes
}

/// The cubin of an entry, when it is the one asked for and complete.
fn unwrap_entry(key: CubinKey, bytes: &[u8]) -> Option<&[u8]> {
    let (header, cubin) = bytes.split_at_checked(HEADER)?;
    // The same bytes that `wrap_entry` puts before this cubin under this key.
    let expected = [
        MAGIC.as_slice(),
        &key.0.to_le_bytes(),
        &checksum(cubin).to_le_bytes(),
        &(cubin.len() as u64).to_le_bytes(),
    ]
    .concat();
    (header == expected && !cubin.is_empty()).then_some(cubin)
}

fn checksum(bytes: &[u8]) -> u128 {
    let mut hash = Fnv::new();
    hash.part(bytes);
    hash.0
}

/// FNV-1a with 128 bits: tiny, and the same on every build and machine, which `std`'s hasher does
/// not promise. Keys come from our own text, not from strangers, so collisions on purpose are no
/// concern. Parameters: <http://www.isthe.com/chongo/tech/comp/fnv/>.
struct Fnv(u128);

impl Fnv {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

    fn new() -> Fnv {
        Fnv(Self::OFFSET)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u128::from(byte)).wrapping_mul(Self::PRIME);
        }
    }

    /// Bytes and their length, so that the border between two parts counts.
    fn part(&mut self, bytes: &[u8]) {
        self.bytes(&(bytes.len() as u64).to_le_bytes());
        self.bytes(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fnv_is_the_published_one() {
        let mut hash = Fnv::new();
        assert_eq!(hash.0, Fnv::OFFSET);
        hash.bytes(b"a");
        assert_eq!(hash.0, 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
    }

    #[test]
    fn keys_differ_in_every_part() {
        let keys = [
            CubinKey::new("ptx", (9, 0), (12, 8)),
            CubinKey::new("ptx ", (9, 0), (12, 8)),
            CubinKey::new("ptx", (8, 0), (12, 8)),
            CubinKey::new("ptx", (9, 1), (12, 8)),
            CubinKey::new("ptx", (9, 0), (13, 8)),
            CubinKey::new("ptx", (9, 0), (12, 9)),
        ];
        for (i, key) in keys.iter().enumerate() {
            assert!(keys[i + 1..].iter().all(|other| other != key));
        }
        assert_eq!(keys[0], CubinKey::new("ptx", (9, 0), (12, 8)));
    }

    #[test]
    fn round_trip_and_damage() {
        let folder = tempfile::tempdir().unwrap();
        let cache = CubinCache::new(folder.path().join("deep/er"));
        let key = CubinKey::new("ptx", (9, 0), (13, 0));
        assert!(cache.get(key).is_none());
        cache.put(key, b"cubin bytes").unwrap();
        assert_eq!(cache.get(key).unwrap(), b"cubin bytes");
        assert!(cache.get(CubinKey::new("other", (9, 0), (13, 0))).is_none());

        let path = cache.path(key).unwrap();
        let whole = fs::read(&path).unwrap();
        for len in 0..whole.len() {
            fs::write(&path, &whole[..len]).unwrap();
            assert!(cache.get(key).is_none(), "cut to {len}");
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            fs::write(&path, &bytes).unwrap();
            assert!(cache.get(key).is_none(), "byte {at}");
        }
        cache.put(key, b"again").unwrap();
        assert_eq!(cache.get(key).unwrap(), b"again");
        // No temporary file is left behind.
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn disabled_and_unwritable() {
        let key = CubinKey::new("ptx", (9, 0), (13, 0));
        let off = CubinCache::disabled();
        off.put(key, b"x").unwrap();
        assert!(off.get(key).is_none());
        let file = tempfile::NamedTempFile::new().unwrap();
        let cache = CubinCache::new(file.path().join("below a file"));
        assert!(cache.put(key, b"x").is_err());
        assert!(cache.get(key).is_none());
    }
}
