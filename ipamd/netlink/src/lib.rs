//! How Cambric talks to the kernel by netlink: one blocking [`Socket`] for the plugin and the daemon, whatever the family.
//!
//! Requests go out in a [`Batch`], in one call; a refusal says what was asked, the kernel's number and its words. A dump is read
//! message by message, so that what is not wanted is passed over unparsed, and is begun anew if the table changed meanwhile.
//! A kernel that keeps silent becomes an error. Events come by a [`Subscription`].

mod answer;
mod batch;
mod datagrams;
mod error;
mod message;
mod socket;
mod subscription;

pub use batch::Batch;
pub use error::NetlinkError;
pub use message::{Attributes, Message, Messages};
pub use socket::{Dump, Family, Socket};
pub use subscription::Subscription;
