//! A collection that is listed and watched: the objects of a resource, or a selection of them.

use http::Request;
use ipamd_runtime::backoff::random_below;
use kube::api::{ListParams, WatchParams};

use super::{
    failure::{Failure, message_chain},
    resources::Resource,
    types::Type,
    watch_list::Server,
};

/// Which objects, and how they are asked for.
#[derive(Clone, Debug)]
pub(super) struct Collection {
    /// What people call it.
    pub name: String,
    pub server: Server,
    /// The type of its objects, as it is asked for.
    pub object: Type,
    path: String,
    labels: Option<&'static str>,
    fields: Option<&'static str>,
    /// Nothing but names is wanted.
    metadata: bool,
    /// Whose objects these are; `None` for definitions.
    resource: Option<&'static Resource>,
    /// How many versions have not been found since one was.
    not_found: usize,
}

impl Collection {
    /// The objects of a resource.
    pub fn of(resource: &'static Resource) -> Self {
        Self {
            name: resource.to_string(),
            server: if resource.optional { Server::Of(resource.group) } else { Server::Own },
            object: resource.object(),
            path: resource.path_in(resource.version),
            labels: resource.labels,
            fields: resource.fields,
            metadata: false,
            resource: Some(resource),
            not_found: 0,
        }
    }

    /// The definitions of resources that do not come with Kubernetes.
    pub fn of_crds() -> Self {
        Self {
            name: "customresourcedefinitions.apiextensions.k8s.io".into(),
            server: Server::Own,
            object: Type::new("PartialObjectMetadata", "meta.k8s.io/v1"),
            path: "/apis/apiextensions.k8s.io/v1/customresourcedefinitions".into(),
            labels: None,
            fields: None,
            metadata: true,
            resource: None,
            not_found: 0,
        }
    }

    /// Takes note that the server serves it in the version that it was asked for.
    pub fn is_served(&mut self) {
        self.not_found = 0;
    }

    /// The server does not serve it in that version: it is asked for in the next one. Returns false once the server serves none.
    pub fn try_another_version(&mut self) -> bool {
        let Some(resource) = self.resource else { return false };
        let versions = [&[resource.version], resource.other_versions].concat();
        let now = versions.iter().position(|version| resource.object_in(version) == self.object).unwrap_or(0);
        let next = versions[(now + 1) % versions.len()];
        (self.object, self.path) = (resource.object_in(next), resource.path_in(next));
        self.not_found = (self.not_found + 1) % versions.len();
        self.not_found > 0
    }

    /// A request for a page of the list, of at most so many objects. Without a version: what is there now.
    pub fn list(&self, limit: Option<u32>, rest: Option<&str>) -> Result<Request<Vec<u8>>, Failure> {
        let params = ListParams {
            label_selector: self.labels.map(ToOwned::to_owned),
            field_selector: self.fields.map(ToOwned::to_owned),
            limit,
            continue_token: rest.map(ToOwned::to_owned),
            ..ListParams::default()
        };
        let request = kube::core::Request::new(&self.path);
        if self.metadata { request.list_metadata(&params) } else { request.list(&params) }
            .map_err(|error| Failure::Broken(message_chain(&error)))
    }

    /// A request for what happens after a version; `with_list` asks for what there is before that, not older than the
    /// version, or what is there now if that is empty.
    pub fn watch(&self, version: &str, with_list: bool) -> Result<Request<Vec<u8>>, Failure> {
        let params = WatchParams {
            label_selector: self.labels.map(ToOwned::to_owned),
            field_selector: self.fields.map(ToOwned::to_owned),
            timeout: Some(watch_seconds()),
            bookmarks: true,
            send_initial_events: with_list,
        };
        let request = kube::core::Request::new(&self.path);
        if self.metadata { request.watch_metadata(&params, version) } else { request.watch(&params, version) }
            .map_err(|error| Failure::Broken(message_chain(&error)))
    }
}

/// How long the server is asked to go on with one watch: not the same for all nodes.
fn watch_seconds() -> u32 {
    200 + random_below(90)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipamd_model::objects::Kind;

    #[test]
    fn requests_are_those_that_every_server_understands() {
        let pods = Collection::of(Resource::of(Kind::Pod));
        let uri = |request: Result<Request<Vec<u8>>, Failure>| request.unwrap().uri().to_string();
        assert_eq!(
            uri(pods.list(Some(500), None)),
            "/api/v1/pods?&fieldSelector=status.phase%21%3DSucceeded%2Cstatus.phase%21%3DFailed&limit=500"
        );
        assert!(uri(pods.list(None, None)).ends_with("Failed"));
        assert!(uri(pods.list(Some(500), Some("a/b"))).ends_with("&limit=500&continue=a%2Fb"));
        let watch = uri(pods.watch("7", false));
        assert!(watch.contains("watch=true") && watch.contains("allowWatchBookmarks=true"), "{watch}");
        assert!(watch.ends_with("resourceVersion=7") && !watch.contains("sendInitialEvents"), "{watch}");
        let streamed = uri(pods.watch("", true));
        assert!(
            streamed.contains("sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion="),
            "{streamed}"
        );
        let definitions = Collection::of_crds().list(Some(1), None).unwrap();
        assert!(definitions.headers()["accept"].to_str().unwrap().contains("PartialObjectMetadataList"));
    }

    #[test]
    fn each_version_is_asked_for_until_one_is_served() {
        let mut policies = Collection::of(Resource::of(Kind::ClusterNetworkPolicy));
        let path = |it: &Collection| it.list(None, None).unwrap().uri().path().to_owned();
        let [new, old] = ["v1beta1", "v1alpha2"]
            .map(|version| format!("/apis/policy.networking.k8s.io/{version}/clusternetworkpolicies"));
        assert_eq!(path(&policies), new);
        assert!(policies.try_another_version());
        assert_eq!(
            (path(&policies), &*policies.object.api_version),
            (old.clone(), "policy.networking.k8s.io/v1alpha2")
        );
        assert!(!policies.try_another_version(), "both were tried");
        assert_eq!(path(&policies), new);
        // As when the definition is replaced by one of another version.
        assert!(policies.try_another_version());
        policies.is_served();
        assert!(policies.try_another_version());
        assert_eq!(path(&policies), new);
        assert!(!Collection::of(Resource::of(Kind::Tier)).try_another_version());
        assert!(!Collection::of_crds().try_another_version());
    }

    #[test]
    fn watches_do_not_end_on_all_nodes_at_once() {
        let lengths: Vec<_> = (0..100).map(|_| watch_seconds()).collect();
        assert!(lengths.iter().all(|it| (200..290).contains(it)));
        assert!(lengths.iter().any(|it| *it != lengths[0]));
    }
}
