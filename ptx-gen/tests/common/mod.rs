//! What kernel tests share: random data, the error measure, and for every family launches whose
//! results are known. The mutation test checks mutants by the same ones.

#![allow(dead_code, unreachable_pub, reason = "each test target uses its part")]
#![allow(clippy::unwrap_used)]

pub mod attention;
pub mod kv;
pub mod products;
pub mod rotation;
pub mod sample;
pub mod sample_hair;
pub mod sample_model;
pub mod simple;
pub mod steps;
pub mod trial;

/// A small counter-based generator; the same numbers on every machine.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u32) -> u32 {
        (self.bits() % u64::from(n)) as u32
    }

    /// In `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Standard normal (Box and Muller).
    pub fn gauss(&mut self) -> f32 {
        let (u, v) = (1.0 - self.unit(), self.unit());
        ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
    }

    pub fn gaussians(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.gauss()).collect()
    }
}

/// `sum((a - b)^2) / sum(b^2)`; infinite where either side is not finite.
pub fn nmse(a: &[f32], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let (mut error, mut norm) = (0.0, 0.0);
    for (&a, &b) in a.iter().zip(b) {
        let d = f64::from(a) - b;
        error += if d.is_finite() { d * d } else { f64::INFINITY };
        norm += b * b;
    }
    if error == 0.0 { 0.0 } else { error / norm }
}
