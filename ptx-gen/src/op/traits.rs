//! What holds of an instruction as a whole, whatever its operands are.

use super::{Opcode, Special};
use crate::ir::Ty;

impl Opcode {
    /// Whether PTX lets a constant of type `ty` stand where the instruction wants a value: 16-bit
    /// floats and pairs of them may be moved, chosen and stored, but not computed with.
    pub fn takes_constant(self, ty: Ty) -> bool {
        let half = matches!(ty, Ty::F16 | Ty::Bf16 | Ty::F16x2 | Ty::Bf16x2);
        match self {
            Opcode::Movmatrix => false,
            Opcode::Mov { .. } | Opcode::Selp { .. } | Opcode::St { .. } | Opcode::Shfl { .. } => {
                true
            }
            Opcode::Pack2x16 | Opcode::Unpack2x16 => true,
            _ => !half,
        }
    }

    /// Whether the instruction only computes its results from its sources: it may be reused,
    /// moved or dropped. Loads are not pure, since memory changes.
    pub fn is_pure(self) -> bool {
        match self {
            Opcode::Special(s) => !matches!(s, Special::Clock | Special::GlobalTimer),
            Opcode::Ld { .. }
            | Opcode::St { .. }
            | Opcode::Atom { .. }
            | Opcode::Red { .. }
            | Opcode::Fence(_) => false,
            Opcode::PrefetchL2
            | Opcode::BarSync
            | Opcode::BarSyncN { .. }
            | Opcode::BarArrive { .. } => false,
            Opcode::BarWarpSync | Opcode::Shfl { .. } | Opcode::Vote { .. } | Opcode::MatchAny => {
                false
            }
            Opcode::Redux { .. } | Opcode::ActiveMask | Opcode::ElectSync | Opcode::Mma(_) => false,
            Opcode::Ldmatrix { .. } | Opcode::Stmatrix { .. } | Opcode::Movmatrix => false,
            Opcode::Wgmma(_)
            | Opcode::WgmmaFence
            | Opcode::WgmmaCommit
            | Opcode::WgmmaWait { .. }
            | Opcode::SetMaxNReg { .. } => false,
            Opcode::CpAsync { .. }
            | Opcode::CpAsyncCommit
            | Opcode::CpAsyncWait { .. }
            | Opcode::CpAsyncBulk => false,
            Opcode::CpAsyncBulkStore
            | Opcode::CpAsyncBulkCommit
            | Opcode::CpAsyncBulkWait { .. } => false,
            Opcode::MbarrierInit | Opcode::MbarrierInval | Opcode::MbarrierArrive => false,
            Opcode::MbarrierArriveExpectTx | Opcode::MbarrierTryWait | Opcode::MbarrierTestWait => {
                false
            }
            Opcode::ClusterArrive
            | Opcode::ClusterWait
            | Opcode::MbarrierArriveCluster
            | Opcode::CpAsyncBulkMulticast => false,
            Opcode::GridDepWait
            | Opcode::GridDepLaunch
            | Opcode::Nanosleep
            | Opcode::Trap
            | Opcode::Exit => false,
            _ => true,
        }
    }
}
