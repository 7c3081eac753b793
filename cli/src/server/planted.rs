//! Faults that a server is started with, so that tests over sockets see what becomes of them.
//!
//! `--fault KIND=N`, hidden from the help, may be given several times:
//!
//! | kind | what happens |
//! |---|---|
//! | `fail-step` | step N fails; steps are counted from 1 |
//! | `fail-every` | every Nth step fails |
//! | `lose-at` | the device is lost at step N |
//! | `panic-at` | the engine's thread panics at step N |
//! | `nan-at` | the logits of the first sequence of step N are no numbers |
//! | `slow-steps` | every step takes N milliseconds longer |
//! | `slow-load` | loading takes N milliseconds longer |

use std::time::Duration;

use gannet_engine::settings::Faults;

/// A fault.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Planted {
    kind: Kind,
    number: u64,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    FailStep,
    FailEvery,
    LoseAt,
    PanicAt,
    NanAt,
    SlowSteps,
    SlowLoad,
}

const KINDS: [(&str, Kind); 7] = [
    ("fail-step", Kind::FailStep),
    ("fail-every", Kind::FailEvery),
    ("lose-at", Kind::LoseAt),
    ("panic-at", Kind::PanicAt),
    ("nan-at", Kind::NanAt),
    ("slow-steps", Kind::SlowSteps),
    ("slow-load", Kind::SlowLoad),
];

/// Reads `KIND=N`.
pub(crate) fn parse(text: &str) -> Result<Planted, String> {
    let (name, number) = text.split_once('=').ok_or("expected KIND=N")?;
    let known = KINDS.iter().find(|(known, _)| *known == name);
    let Some(&(_, kind)) = known else {
        let names: Vec<&str> = KINDS.iter().map(|(name, _)| *name).collect();
        return Err(format!("there are {}", names.join(", ")));
    };
    match number.parse() {
        Ok(number) if number > 0 => Ok(Planted { kind, number }),
        _ => Err("N must be a whole number above 0".to_owned()),
    }
}

impl Planted {
    /// Adds it to others.
    pub(crate) fn plant(self, faults: &mut Faults) {
        let number = self.number;
        match self.kind {
            Kind::FailStep => faults.fail_step = Some(number),
            Kind::FailEvery => faults.fail_every = Some(number),
            Kind::LoseAt => faults.lose_at = Some(number),
            Kind::PanicAt => faults.panic_at = Some(number),
            Kind::NanAt => faults.nan_at = Some(number),
            Kind::SlowSteps => faults.slow_steps = Duration::from_millis(number),
            Kind::SlowLoad => faults.slow_load = Duration::from_millis(number),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read() {
        let mut faults = Faults::default();
        for text in ["fail-every=7", "slow-steps=20"] {
            parse(text).unwrap().plant(&mut faults);
        }
        assert_eq!(faults.fail_every, Some(7));
        assert_eq!(faults.slow_steps, Duration::from_millis(20));
        for text in ["fail-every", "fail-every=", "fail-every=0", "other=1"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
