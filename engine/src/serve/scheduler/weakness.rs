//! Ways in which a scheduler could be wrong, to see whether tests notice.
//!
//! Only tests can make a scheduler weak; `Scheduler::weak` is false everywhere else.

macro_rules! weaknesses {
    ($($(#[$doc:meta])* $weakness:ident,)*) => {
        /// One way to be wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Weakness {
            $($(#[$doc])* $weakness,)*
        }

        #[cfg(test)]
        impl Weakness {
            /// Every one.
            pub(super) const ALL: &'static [Weakness] = &[$(Weakness::$weakness,)*];
        }
    };
}

weaknesses! {
    /// What a failed step was to fill stays known.
    FailureStaysKnown,
    /// It stays known where nobody holds it any more.
    ForgetsOfTheLivingOnly,
    /// Requests that were given blocks of a failed step go on with them.
    DependentsGoOn,
    /// Tokens of rows that stand on a failed step count.
    ZombieCounted,
    /// A preempted request joins again before its queued tokens are known.
    ResumedEarly,
    /// Blocks are given back twice.
    #[cfg(test)]
    FreesTwice,
    /// A cancelled request keeps its slot and its blocks.
    CancelKeepsBlocks,
    /// A prefix under way is computed once more.
    NoPrefixWait,
    /// The class decides alone.
    NoAgeing,
    /// Any number may pass who waits for a prefix.
    PassedWithoutEnd,
    /// A prompt is known before the steps that fill its blocks are queued.
    KnownTooEarly,
    /// A shared block is written.
    WritesShared,
    /// The first in rank gives way.
    PreemptsTheFirst,
    /// Requests of any key share prefixes.
    KeyIgnored,
    /// Who joined in the step after one is not looked at when that fails.
    SettledTooEarly,
    /// Blocks that the step in the making fills are taken for known.
    DraftTakenForKnown,
    /// What a damaged stay fills later stays known.
    DamageEndsWithTheStep,
    /// What was saved in a step that failed, or stands on one, is restored.
    FailureStaysSaved,
    /// It is restored while that is not known.
    RestoredEarly,
    /// Restored blocks are taken for good whatever becomes of the step that restores them.
    RestoredAtOnce,
    /// Places for saved blocks are not given back.
    PlacesLeak,
    /// Rows are queued whose tokens the host is still to choose.
    HostRunsAhead,
}
