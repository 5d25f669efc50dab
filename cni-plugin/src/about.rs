//! What a person is told who starts the plugin by hand.

use crate::version::CniVersion;

/// The plugin's name and version, and the versions of the specification that it speaks.
pub fn text() -> String {
    let versions = CniVersion::ALL.map(CniVersion::as_str).join(", ");
    format!(
        "CNI plugin cambric v{}\nCNI protocol versions supported: {versions}\n",
        env!("CARGO_PKG_VERSION")
    )
}

/// What is told besides to who asks for help.
pub const USAGE: &str = "A container runtime starts it, with its parameters in the environment (CNI_COMMAND and others) and the \
                         network's configuration on the standard input.\nTo ask a node's daemon, there is cambricctl.\n";
