//! The verifier.

use crate::ir::Kernel;

/// Why a kernel is refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A rule is broken.
    #[error("{0}")]
    Rule(String),
}

impl Kernel {
    /// Checks every rule of the verifier.
    pub fn verify(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Verifies the kernel and prints it as a PTX module.
    pub fn ptx(&self) -> Result<String, Error> {
        self.verify()?;
        Ok(crate::print::print(self))
    }
}
