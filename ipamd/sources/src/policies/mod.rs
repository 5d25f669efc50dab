//! The readers of policies, one for each dialect. What they read is `ipamd_model::policy`.

pub mod calico;
pub mod cluster_policy;
mod domains;
pub mod kubernetes;
