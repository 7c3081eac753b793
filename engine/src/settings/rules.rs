//! A set of the rules of lowering, for those that a user wants to do without.
//!
//! What the rules are is lowering's to say; here they are places in its table.

/// Rules by their place in the table of lowering.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct RuleSet(u32);

impl RuleSet {
    /// The most rules that there can be.
    pub const MOST: usize = u32::BITS as usize;

    /// This set and the rule at that place, below [`RuleSet::MOST`].
    #[must_use]
    pub const fn with(self, place: usize) -> RuleSet {
        RuleSet(self.0 | 1 << place)
    }

    /// Whether the rule at that place is in it.
    #[must_use]
    pub const fn contains(self, place: usize) -> bool {
        self.0 >> place & 1 == 1
    }
}
