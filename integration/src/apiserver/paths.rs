//! Which objects a request is about.

/// What the path of a request names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// `plural.group`.
    pub resource: String,
    /// `group/version`, or `v1`.
    pub api_version: String,
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub subresource: Option<String>,
}

impl Target {
    pub fn of(path: &str) -> Option<Self> {
        let parts: Vec<_> = path.trim_matches('/').split('/').collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        let owned = |text: &&str| (*text).to_owned();
        let (namespace, rest) = match rest {
            ["namespaces", namespace, plural, rest @ ..] if *plural != "status" => {
                (Some(*namespace), [&[*plural], rest].concat())
            }
            rest => (None, rest.to_vec()),
        };
        let plural = rest.first()?;
        Some(Self {
            resource: if group.is_empty() { owned(plural) } else { format!("{plural}.{group}") },
            api_version: if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") },
            namespace: namespace.map(ToOwned::to_owned),
            name: rest.get(1).map(owned),
            subresource: rest.get(2).map(owned),
        })
    }

    /// The key of the object that is named.
    pub fn key(&self) -> Option<String> {
        let name = self.name.as_ref()?;
        Some(self.namespace.as_ref().map_or_else(|| name.clone(), |namespace| format!("{namespace}/{name}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_resources_and_objects() {
        let of = |path: &str| Target::of(path).map(|it| (it.resource.clone(), it.key()));
        assert_eq!(of("/api/v1/pods"), Some(("pods".into(), None)));
        assert_eq!(of("/api/v1/namespaces/ns/pods/a"), Some(("pods".into(), Some("ns/a".into()))));
        assert_eq!(of("/api/v1/namespaces/ns"), Some(("namespaces".into(), Some("ns".into()))));
        assert_eq!(of("/api/v1/nodes/n/status"), Some(("nodes".into(), Some("n".into()))));
        assert_eq!(of("/apis/a.b/v3/tiers"), Some(("tiers.a.b".into(), None)));
        assert_eq!(of("/healthz"), None);
    }
}
