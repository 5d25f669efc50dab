//! What a comparison comes to.

use crate::{overlay::Overlay, step::Step};

/// What is to be done, in this order, and what should be looked at by a person.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The steps.
    pub steps: Vec<Step>,
    /// Host ends whose programs are to be looked after: name and index.
    pub host_ends: Vec<(String, u32)>,
    /// The overlay, if there is to be one.
    pub overlay: Option<Overlay>,
    /// Sentences.
    pub problems: Vec<String>,
    /// Sentences about the ways to other nodes, if these were looked at.
    pub route_problems: Option<Vec<String>>,
}
