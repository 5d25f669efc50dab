//! What other projects hold an implementation of their policies to, as truth tables that the oracle and the product's tables
//! both have to show: the cases of upstream Kubernetes' end-to-end tests of NetworkPolicy, the examples in Calico's
//! documentation, and what the API of ClusterNetworkPolicy promises.

mod calico;
mod calico_tiers;
mod cluster_policy;
mod grid;
mod network_policy_changes;
mod network_policy_peers;
mod network_policy_ports;
mod policies;
