//! A server of the service.

use std::{
    net::{SocketAddr, TcpListener},
    str::FromStr,
};

use anyhow::{Context, Result};

use crate::{netns::Netns, option_values::parse};

/// A server's namespace, and where it listens.
#[derive(Clone, Debug)]
pub struct Server {
    /// Its namespace.
    pub netns: Netns,
    /// Where it listens.
    pub at: SocketAddr,
}

impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (netns, at) =
            text.split_once('@').ok_or_else(|| format!("{text:?} is not of the form NETNS@ADDRESS:PORT"))?;
        Ok(Self { netns: Netns(netns.into()), at: parse(at)? })
    }
}

impl Server {
    /// Listens, and leaves this thread in the namespace.
    pub fn listen(&self) -> Result<TcpListener> {
        self.netns.enter()?;
        let listener = TcpListener::bind(self.at).with_context(|| format!("listen on {}", self.at))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }
}
