//! The model of the cluster, the same for every source: objects, labels and selectors, policies of every dialect in one
//! form, services and their endpoints; and the values of these that the programs read.

pub mod concerned;
pub mod deny;
pub mod domain;
pub mod endpoint;
pub mod field;
pub mod host;
pub mod host_layer;
pub mod id;
pub mod interned;
pub mod labels;
pub mod named_port;
pub mod objects;
pub mod origins;
pub mod policy;
pub mod selector;
pub mod service_name;
pub mod services;
pub mod special;
pub mod staged;
pub mod uplink;
