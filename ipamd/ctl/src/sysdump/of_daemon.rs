//! What the daemon tells over its socket: a line of JSON for each thing, so that what is cut can be read all the same.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::bail;
use ipamd_api::{
    Client, Reply, Request,
    policy::{PolicyQuery, PolicySummary},
    services::ServiceQuery,
    wire::{Connection, ConntrackFilter, DnsFilter},
};
use serde::Serialize;

use super::{item::Item, room::Room};

/// So many connections are listed; all of them are counted.
const CONNECTIONS: usize = 1_000;

/// The socket, and why nobody is asked there any more.
#[derive(Clone)]
struct Socket {
    path: PathBuf,
    silent: Arc<Mutex<Option<String>>>,
}

impl Socket {
    /// Connects, unless the daemon has kept silent before: each item would wait for it once more.
    fn connect(&self, room: &Room) -> anyhow::Result<Client> {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(why) = &*silent {
            bail!("the daemon was not asked, because it had not answered before: {why}");
        }
        *silent = Some("it gave no answer in time".to_owned());
        drop(silent);
        let connected = Client::connect(&self.path);
        let trouble = connected.as_ref().err().map(ToString::to_string);
        // Stays as it is until the daemon has answered.
        if trouble.is_some() {
            *self.silent.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
        }
        let client = connected?;
        client.wait_at_most(room.left());
        Ok(client)
    }

    fn answered(&self) {
        *self.silent.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Asks for one thing, and writes what is answered.
type Ask = fn(&mut Client, &mut Room) -> anyhow::Result<()>;

/// All that the daemon at the socket is asked.
pub(super) fn items(socket: &Path) -> Vec<Item> {
    let socket = Socket { path: socket.to_owned(), silent: Arc::default() };
    let asked: [(&str, Ask); 8] = [
        ("daemon/status.json", status),
        ("daemon/pools.jsonl", pools),
        ("daemon/endpoints.jsonl", endpoints),
        ("daemon/policies.jsonl", policies),
        ("daemon/services.jsonl", services),
        ("daemon/dns.jsonl", dns),
        ("daemon/conntrack.json", conntrack),
        ("daemon/details.jsonl", details),
    ];
    let item = |(path, ask): (&str, Ask)| {
        let socket = socket.clone();
        Item::new(path, move |room| {
            let mut client = socket.connect(room)?;
            let asked = ask(&mut client, room);
            // A refusal is an answer.
            if room.left().as_millis() > 1 {
                socket.answered();
            }
            asked
        })
    };
    asked.map(item).into()
}

fn json_line(room: &mut Room, value: &impl Serialize) -> io::Result<()> {
    room.line(serde_json::to_string(value)?)
}

/// Asks for something whose answer has several parts, until `part` says that one was the last.
fn each(
    client: &mut Client,
    room: &mut Room,
    request: Request,
    mut part: impl FnMut(Reply, &mut Room) -> io::Result<Option<bool>>,
) -> anyhow::Result<()> {
    client.send(request)?;
    loop {
        client.wait_at_most(room.left());
        match part(client.receive()?, room)? {
            Some(true) => return Ok(()),
            Some(false) => {}
            None => return Err(client.confused("the answer is of another sort".into()).into()),
        }
    }
}

fn status(client: &mut Client, room: &mut Room) -> anyhow::Result<()> {
    each(client, room, Request::Status, |reply, room| {
        let Reply::Status(status) = reply else { return Ok(None) };
        room.line(serde_json::to_string_pretty(&status)?)?;
        Ok(Some(true))
    })
}

fn pools(client: &mut Client, room: &mut Room) -> anyhow::Result<()> {
    each(client, room, Request::Pools, |reply, room| {
        let Reply::Pools(pools) = reply else { return Ok(None) };
        pools.iter().try_for_each(|pool| json_line(room, pool))?;
        Ok(Some(true))
    })
}

fn endpoints(client: &mut Client, room: &mut Room) -> anyhow::Result<()> {
    each(client, room, Request::Endpoints, |reply, room| {
        let Reply::Endpoints(endpoints) = reply else { return Ok(None) };
        endpoints.iter().try_for_each(|endpoint| json_line(room, endpoint))?;
        Ok(Some(true))
    })
}

/// Policies in force, staged ones, and objects that are refused.
fn policies(client: &mut Client, room: &mut Room) -> anyhow::Result<()> {
    each(client, room, Request::Policies, |reply, room| {
        let Reply::Policies(page) = reply else { return Ok(None) };
        for policy in page.policies.iter().chain(&page.staged) {
            json_line(room, policy)?;
        }
        for refused in &page.refused {
            json_line(room, &serde_json::json!({ "refused": refused }))?;
        }
        Ok(Some(page.last))
    })
}

fn services(client: &mut Client, room: &mut Room) -> anyhow::Result<()> {
    each(client, room, Request::Services, |reply, room| {
        let Reply::Services(page) = reply else { return Ok(None) };
        page.services.iter().try_for_each(|service| json_line(room, service))?;
        Ok(Some(page.last))
    })
}

fn dns(client: &mut Client, room: &mut Room) -> anyhow::Result<()> {
    each(client, room, Request::DnsNames(DnsFilter::default()), |reply, room| {
        let Reply::DnsNames(page) = reply else { return Ok(None) };
        page.names.iter().try_for_each(|name| json_line(room, name))?;
        Ok(Some(page.last))
    })
}

/// Connections, counted by family, protocol and state; and some of them.
fn conntrack(client: &mut Client, room: &mut Room) -> anyhow::Result<()> {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let mut some: Vec<Connection> = Vec::new();
    each(client, room, Request::Conntrack(ConntrackFilter::default()), |reply, _| {
        let Reply::Conntrack(page) = reply else { return Ok(None) };
        for one in &page.connections {
            let family = if one.source.is_ipv4() { "ipv4" } else { "ipv6" };
            *counts.entry(format!("{family} protocol {} {}", one.protocol, one.state)).or_default() += 1;
        }
        let missing = CONNECTIONS.saturating_sub(some.len());
        some.extend(page.connections.into_iter().take(missing));
        Ok(Some(page.last))
    })?;
    let told = serde_json::json!({ "counts": counts, "first_connections": some });
    Ok(room.line(serde_json::to_string_pretty(&told)?)?)
}

/// Each policy with its rules and their hits, each service with its backends.
fn details(client: &mut Client, room: &mut Room) -> anyhow::Result<()> {
    let mut queries = Vec::new();
    each(client, room, Request::Policies, |reply, _| {
        let Reply::Policies(page) = reply else { return Ok(None) };
        queries.extend(page.policies.into_iter().chain(page.staged).map(policy_query));
        Ok(Some(page.last))
    })?;
    each(client, room, Request::Services, |reply, _| {
        let Reply::Services(page) = reply else { return Ok(None) };
        queries.extend(page.services.into_iter().map(|it| {
            let (namespace, name) = (it.summary.namespace, it.summary.name);
            Request::Service(ServiceQuery { namespace, name })
        }));
        Ok(Some(page.last))
    })?;
    for query in queries {
        each(client, room, query, |reply, room| {
            match reply {
                Reply::Done => return Ok(Some(true)),
                Reply::Policy(policy) => json_line(room, &policy)?,
                Reply::Service(service) => json_line(room, &service)?,
                Reply::ServiceBackends(page) => json_line(room, &page)?,
                _ => return Ok(None),
            }
            Ok(Some(false))
        })?;
    }
    Ok(())
}

fn policy_query(summary: PolicySummary) -> Request {
    let name = summary.policy;
    Request::Policy(PolicyQuery { kind: Some(name.kind), namespace: name.namespace, name: name.name })
}
