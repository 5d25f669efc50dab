//! What the daemon knows of a flow, before it is written as Hubble's clients read it.

use std::{net::IpAddr, sync::Arc};

use ipamd_api::policy::{DecidingRule, IcmpMessage, ObjectName, Verdict};
use ipamd_model::{labels::Labels, policy::Direction};

/// What has become of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was opened.
    Forwarded,
    /// A packet was dropped.
    Dropped {
        /// Why, as in the drop counters.
        reason: String,
        /// Whether its sender was told.
        rejected: bool,
    },
    /// The staged policies would judge it otherwise.
    Staged {
        /// What they would say.
        would: Verdict,
        /// Because of which of them.
        because: Vec<ObjectName>,
    },
}

/// A flow that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Microseconds since the Unix epoch.
    pub time: u64,
    /// What has become of it.
    pub outcome: Outcome,
    /// IP protocol number.
    pub protocol: u8,
    /// The ICMP message that opens it.
    pub icmp: Option<IcmpMessage>,
    /// Who opens it.
    pub source: Side,
    /// Whom it is opened to.
    pub destination: Side,
    /// What the endpoints' policies say: the opener's egress before the other side's ingress.
    pub decisions: Vec<Decision>,
    /// The service that leads to the destination: its namespace and name.
    pub service: Option<(Arc<str>, Arc<str>)>,
    /// The DNS names that the opener was told for the destination.
    pub names: Vec<String>,
}

/// One side of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// Its address; unspecified if the packet could not be parsed.
    pub address: IpAddr,
    /// Its port; 0 where there is none.
    pub port: u16,
    /// Who has the address.
    pub owner: Owner,
    /// Whether it is an endpoint of this node.
    pub is_local: bool,
}

/// Who has an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A pod.
    Pod {
        /// Its namespace.
        namespace: Arc<str>,
        /// Its name.
        name: Arc<str>,
        /// Its labels.
        labels: Labels,
        /// Its service account.
        service_account: Option<Arc<str>>,
    },
    /// This node.
    ThisNode,
    /// Another node, by its name.
    OtherNode(Arc<str>),
    /// Whoever is beyond the cluster, or not known.
    World,
}

/// What an endpoint's policies say of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// As the endpoint sees it.
    pub direction: Direction,
    /// Whether it passes.
    pub verdict: Verdict,
    /// What decides; `None`: no policy does.
    pub rule: Option<DecidingRule>,
    /// The tier of what decides.
    pub tier: Option<Arc<str>>,
}
