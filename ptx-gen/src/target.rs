//! GPU targets and PTX versions.
//!
//! A target is a value that knows the lowest `.version` that can name it, so that a kernel can
//! declare the least it needs: a driver refuses text whose version is newer than its own, and
//! minor-version compatibility does not rescue it.
//!
//! The target's own name is printed as `.target`. `sm_90a` text compiles for compute capability
//! 9.0 alone; that is intended, since the runtime writes each kernel for the device at hand.

use std::fmt;

/// A PTX ISA version such as 8.0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PtxVersion {
    /// Major number.
    pub major: u8,
    /// Minor number.
    pub minor: u8,
}

impl PtxVersion {
    /// `major.minor`.
    pub const fn new(major: u8, minor: u8) -> PtxVersion {
        PtxVersion { major, minor }
    }
}

impl fmt::Display for PtxVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A GPU to write kernels for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Target {
    /// Turing.
    Sm75,
    /// Ampere, A100.
    Sm80,
    /// Ampere, consumer and workstation.
    Sm86,
    /// Ada.
    Sm89,
    /// Hopper, with its architecture-specific instructions.
    Sm90a,
    /// Blackwell, data centre.
    Sm100,
    /// Blackwell, consumer and workstation.
    Sm120,
}

impl Target {
    /// Every target, oldest first.
    pub const ALL: &[Target] = &[
        Target::Sm75,
        Target::Sm80,
        Target::Sm86,
        Target::Sm89,
        Target::Sm90a,
        Target::Sm100,
        Target::Sm120,
    ];

    /// Name as PTX writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Target::Sm75 => "sm_75",
            Target::Sm80 => "sm_80",
            Target::Sm86 => "sm_86",
            Target::Sm89 => "sm_89",
            Target::Sm90a => "sm_90a",
            Target::Sm100 => "sm_100",
            Target::Sm120 => "sm_120",
        }
    }

    /// The target of that name (`sm_80`, also `sm_90` for [`Target::Sm90a`]).
    pub fn from_name(name: &str) -> Option<Target> {
        if name == "sm_90" {
            return Some(Target::Sm90a);
        }
        Target::ALL.iter().copied().find(|t| t.name() == name)
    }

    /// The best target whose text a device of this compute capability runs; `None` when the
    /// device is older than every target.
    pub fn for_device(major: u32, minor: u32) -> Option<Target> {
        let capability = major * 10 + minor;
        if capability == 90 {
            return Some(Target::Sm90a);
        }
        Target::ALL
            .iter()
            .rev()
            .copied()
            .find(|t| *t != Target::Sm90a && t.capability() <= capability)
    }

    /// Compute capability times ten: 75, 80, ..., 120.
    pub const fn capability(self) -> u32 {
        match self {
            Target::Sm75 => 75,
            Target::Sm80 => 80,
            Target::Sm86 => 86,
            Target::Sm89 => 89,
            Target::Sm90a => 90,
            Target::Sm100 => 100,
            Target::Sm120 => 120,
        }
    }

    /// Lowest PTX version that knows the target.
    pub const fn min_ptx(self) -> PtxVersion {
        match self {
            Target::Sm75 => PtxVersion::new(6, 3),
            Target::Sm80 => PtxVersion::new(7, 0),
            Target::Sm86 => PtxVersion::new(7, 1),
            Target::Sm89 => PtxVersion::new(7, 8),
            Target::Sm90a => PtxVersion::new(8, 0),
            Target::Sm100 => PtxVersion::new(8, 6),
            Target::Sm120 => PtxVersion::new(8, 7),
        }
    }

    /// Most shared memory a block may use (static and dynamic, after opting in), in bytes.
    pub const fn max_shared(self) -> u32 {
        match self {
            Target::Sm75 => 64 << 10,
            Target::Sm80 => 163 << 10,
            Target::Sm86 | Target::Sm89 | Target::Sm120 => 99 << 10,
            Target::Sm90a | Target::Sm100 => 227 << 10,
        }
    }

    /// Whether `mma.sync` m16n8k16 on f16, `cp.async` and bf16 arithmetic exist (sm_80 on).
    pub const fn has_ampere(self) -> bool {
        self.capability() >= 80
    }

    /// Whether mbarrier waits, bulk copies and programmatic launches exist (sm_90 on).
    pub const fn has_hopper(self) -> bool {
        self.capability() >= 90
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
