//! What must hold after every step. One invariant per file.

use crate::facts::{Fact, View};

mod acknowledged;
mod committed;
mod consumed;
mod controllers;
mod epochs;
mod high_watermark;
mod isr;
mod leaders;
mod log_matching;
pub mod progress;

/// An invariant with what it remembers.
pub trait Invariant {
    /// Its name.
    fn name(&self) -> &'static str;
    /// Whether a fact keeps it; if not, why.
    fn check(&mut self, fact: &Fact, view: &View<'_>) -> Result<(), String>;
}

/// All of them.
pub fn all(parts: usize) -> Vec<Box<dyn Invariant>> {
    vec![
        Box::new(acknowledged::Acknowledged::new(parts)),
        Box::new(committed::Committed),
        Box::new(consumed::Consumed::new(parts)),
        Box::new(controllers::Controllers::default()),
        Box::new(epochs::Epochs::default()),
        Box::new(high_watermark::HighWatermark::default()),
        Box::new(isr::Isr),
        Box::new(leaders::Leaders::default()),
        Box::new(log_matching::LogMatching::default()),
    ]
}
