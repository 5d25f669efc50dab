//! The cluster as Cambric sees it, the same whichever source it came from: objects, labels and selectors, policies of every dialect in one
//! form, services and their endpoints; and the values that are told to the programs of them.

pub mod concerned;
pub mod endpoint;
pub mod field;
pub mod id;
pub mod interned;
pub mod labels;
pub mod objects;
pub mod origins;
pub mod policy;
pub mod selector;
pub mod services;
pub mod special;
pub mod uplink;
