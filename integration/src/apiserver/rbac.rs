//! What a client may do: the rules of a ClusterRole.

use std::collections::BTreeSet;

use hyper::Method;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};

use super::paths::Target;

/// One thing that a client does, or may do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// `get`, `list`, `watch` and so on.
    pub verb: String,
    /// The API group, empty for the core.
    pub group: String,
    /// The plural, with the subresource behind a slash.
    pub resource: String,
}

impl Right {
    /// What a request takes.
    pub(super) fn needed(method: &Method, target: &Target, query: &str) -> Self {
        let watches = query.split('&').any(|it| matches!(it, "watch" | "watch=true" | "watch=1"));
        let verb = match (method.as_str(), &target.name) {
            ("GET", Some(_)) => "get",
            ("GET", None) if watches => "watch",
            ("GET", None) => "list",
            ("POST", _) => "create",
            ("PUT", _) => "update",
            ("PATCH", _) => "patch",
            ("DELETE", Some(_)) => "delete",
            _ => "deletecollection",
        };
        let (plural, group) = target.resource.split_once('.').unwrap_or((&target.resource, ""));
        let resource = match &target.subresource {
            Some(subresource) => format!("{plural}/{subresource}"),
            None => plural.to_owned(),
        };
        Self { verb: verb.into(), group: group.into(), resource }
    }

    /// All that a role allows. Nothing in it may be a `*`, which nobody could list.
    pub fn of_role(role: &ClusterRole) -> BTreeSet<Self> {
        role.rules.iter().flatten().flat_map(Self::of_rule).collect()
    }

    fn of_rule(rule: &PolicyRule) -> Vec<Self> {
        let (groups, resources) = (rule.api_groups.iter().flatten(), rule.resources.iter().flatten());
        let named = groups.flat_map(|group| resources.clone().map(move |resource| (group, resource)));
        let right = |(group, resource): (&String, &String), verb: &String| Self {
            verb: verb.clone(),
            group: group.clone(),
            resource: resource.clone(),
        };
        named.flat_map(|it| rule.verbs.iter().map(move |verb| right(it, verb))).collect()
    }
}
