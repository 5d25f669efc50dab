//! How the server behaves: it can misbehave in every way that a client has to survive.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{objects::Streaming, rbac::Right};

/// How the server behaves.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fault of its own, and they go together in any way"
)]
pub struct Behaviour {
    /// How it answers to watches that ask for what there is first.
    pub streaming: Streaming,
    /// How long it takes for each answer.
    pub delay: Duration,
    /// It takes requests and never answers.
    pub hangs: bool,
    /// What watches get instead of JSON, once.
    pub garbage: Option<&'static str>,
    /// Watches end in the middle of an event.
    pub cuts: bool,
    /// Watches tell nothing, not even that time passes.
    pub silent: bool,
    /// Requests of this plural are refused with this code.
    pub refuses: BTreeMap<&'static str, u16>,
    /// Lists of this plural are answered by an empty one that says that it is of another version and kind.
    pub lists_others: BTreeMap<&'static str, (&'static str, &'static str)>,
    /// The only version in which it serves ClusterNetworkPolicies.
    pub cluster_policies: &'static str,
    /// What clients may do; everything, if nothing is said.
    pub rights: Option<BTreeSet<Right>>,
    /// Next so many requests are refused: they are too many, and may come again after a second.
    pub busy: u32,
    /// Lists of this group are refused as streams, by whoever serves it behind this server.
    pub streams_not: Option<&'static str>,
    /// Next so many rests of lists are forgotten before they are asked for.
    pub forgets_rests: u32,
    /// What it compresses.
    pub compresses: Compresses,
    /// Whether it speaks HTTP/2 on connections that are made from now on.
    pub http2: bool,
    /// Watches that ask for no list never get headers.
    pub hangs_watches: bool,
    /// How often a watch gets a bookmark in which nothing has changed.
    pub bookmarks: Duration,
}

/// Which answers are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compresses {
    /// Those of 128 KiB and more, for whoever asks, as a real server does.
    #[default]
    Large,
    /// All, watches too, whether anybody asked or not.
    All,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            streaming: Streaming::default(),
            delay: Duration::ZERO,
            hangs: false,
            garbage: None,
            cuts: false,
            silent: false,
            refuses: BTreeMap::new(),
            lists_others: BTreeMap::new(),
            cluster_policies: "v1alpha2",
            rights: None,
            busy: 0,
            streams_not: None,
            forgets_rests: 0,
            compresses: Compresses::default(),
            http2: true,
            hangs_watches: false,
            // A real server sends one a minute.
            bookmarks: Duration::from_secs(1),
        }
    }
}
