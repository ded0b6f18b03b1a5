//! What must always be true.

mod agreement;
mod completeness;
mod configuration;
mod durability;
mod election_safety;
mod log_matching;
mod progress;
mod reads;
mod state_machine;
mod votes;

use crate::facts::{Fact, View};

/// One invariant.
pub trait Invariant {
    /// Its name.
    fn name(&self) -> &'static str;

    /// Looks at a fact; an error says how the invariant is broken.
    fn check(&mut self, fact: &Fact<'_>, view: &View<'_>) -> Result<(), String>;
}

/// All of them.
pub fn all() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::<election_safety::ElectionSafety>::default(),
        Box::<log_matching::LogMatching>::default(),
        Box::new(completeness::Completeness),
        Box::<state_machine::StateMachine>::default(),
        Box::new(durability::Durability::default()),
        Box::<votes::Votes>::default(),
        Box::new(configuration::Configuration),
        Box::new(agreement::Agreement),
        Box::new(reads::Reads),
        Box::new(progress::Progress),
    ]
}
