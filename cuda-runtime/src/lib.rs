//! The CUDA driver, safely.
