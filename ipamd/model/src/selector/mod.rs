//! Calico's selector language, which Kubernetes' label selectors are read into too.

mod evaluate;
mod expression;
mod parse;
mod show;
#[cfg(test)]
mod tests;

pub use self::{
    expression::{Selector, Subject},
    parse::SelectorError,
};
