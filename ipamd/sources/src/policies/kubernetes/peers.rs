//! The entries of `from` and `to`.

use std::{net::IpAddr, sync::Arc};

use ipnetwork::IpNetwork;

use super::labels;
use crate::field::{Field, shown};
use ipamd_model::{
    field::FieldError,
    policy::{Dialect, Entity, ItemKinds, ItemSelector, Scope},
    selector::Selector,
};

/// Reads a peer of a policy in a namespace.
pub(super) fn read(field: &Field<'_>, namespace: &Arc<str>) -> Result<Entity, FieldError> {
    field.only(&["podSelector", "namespaceSelector", "ipBlock"])?;
    let pod_selector = field.get("podSelector")?.map(|it| labels::selector(&it)).transpose()?;
    let namespace_selector = field.get("namespaceSelector")?.map(|it| labels::selector(&it)).transpose()?;
    let block = field.get("ipBlock")?;
    let scope = match (&block, &pod_selector, namespace_selector) {
        (Some(block), None, None) => return ip_block(block),
        (Some(block), ..) => return Err(block.refuse("is not possible together with a selector")),
        (None, None, None) => {
            return Err(field.refuse("says of nobody: it has no podSelector, namespaceSelector or ipBlock"));
        }
        (None, Some(_), None) => Scope::Namespace(Arc::clone(namespace)),
        (None, _, Some(selector)) => Scope::Matching(selector),
    };
    Ok(Entity { items: Some(pods(scope, pod_selector.unwrap_or(Selector::All))), ..Entity::ANY })
}

/// Pods by their namespaces and labels.
pub(in crate::policies) fn pods(scope: Scope, labels: Selector) -> ItemSelector {
    ItemSelector {
        kinds: ItemKinds::Pods,
        scope,
        labels,
        dialect: Dialect::Kubernetes,
        service_account_names: None,
        service_accounts: None,
    }
}

fn ip_block(block: &Field<'_>) -> Result<Entity, FieldError> {
    block.only(&["cidr", "except"])?;
    let net = cidr(&block.need("cidr")?)?;
    let mut not_nets = Vec::new();
    if let Some(list) = block.get("except")? {
        for item in list.items()? {
            let except = cidr(&item)?;
            if except.is_ipv4() != net.is_ipv4()
                || except.prefix() <= net.prefix()
                || !net.contains(except.ip())
            {
                return Err(item.refuse(format!("{except} is not a smaller part of {net}")));
            }
            not_nets.push(except);
        }
    }
    Ok(Entity { nets: Some(vec![net]), not_nets, ..Entity::ANY })
}

/// A CIDR; bits beyond its prefix are not looked at.
pub(in crate::policies) fn cidr(field: &Field<'_>) -> Result<IpNetwork, FieldError> {
    let text = field.text()?;
    let wrong = || field.refuse(format!("{} is not a CIDR such as 10.0.0.0/8", shown(text)));
    let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    if prefix.is_empty()
        || !prefix.bytes().all(|c| c.is_ascii_digit())
        || (prefix.len() > 1 && prefix.starts_with('0'))
    {
        return Err(wrong());
    }
    if address.to_canonical() != address {
        return Err(field.refuse(format!("{} is of IPv4 in the form of IPv6", shown(text))));
    }
    let net = IpNetwork::new(address, prefix.parse().map_err(|_| wrong())?).map_err(|_| wrong())?;
    IpNetwork::new(net.network(), net.prefix()).map_err(|_| wrong())
}
