//! Random clusters, small and crowded: pods of few labels, policies of all kinds over them.

mod calico;
mod cluster_policy;
mod documents;
mod kubernetes;
mod pods;
mod pools;
mod questions;
mod scene;
mod staged;
mod story;

pub use self::{
    documents::{document, pod, policy, scene},
    questions::Questions,
    scene::{Scene, Told, id},
    staged::{Trial, trial},
    story::{Step, story},
};
