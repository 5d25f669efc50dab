//! Requests about policy. They run on a blocking thread, because they may wait for a change under way.

use std::{io, sync::Arc};

use ipamd_api::{
    ApiError, ErrorKind, Reply,
    policy::{DiffPage, ManifestText, PolicyPage, PolicyQuery, RefusedObject, TraceQuery},
    wire::ConntrackFilter,
};

use super::{
    node_service::{Answered, NodeService, aside},
    pages::{self, Shorten as _},
    session::Files,
};
use crate::{
    monitor::{Monitor, flow_of},
    node::Node,
    server::Replies,
};
use ipamd_model::objects::{Change, Object};
use ipamd_policy::enforce::SeenFlow;
use ipamd_sources::directory::read_once::Once;

/// How many of the connections that are tracked a diff looks at.
const CONNECTIONS: u64 = 100_000;

impl NodeService {
    /// Sends the list of policies.
    pub(super) async fn policies(&self, replies: &mut Replies<'_>) -> io::Result<Answered> {
        let node = Arc::clone(&self.node);
        let listed = aside(move || (node.policy().policies(), node.policy().staged_policies()));
        let ((policies, mut refused), (staged, left_out)) = match listed.await {
            Ok(listed) => listed,
            Err(error) => return Ok(Err(error)),
        };
        refused.extend(left_out);
        for policies in pages::cut(policies) {
            replies.send(&Reply::Policies(PolicyPage { policies, ..PolicyPage::default() })).await?;
        }
        for staged in pages::cut(staged) {
            replies.send(&Reply::Policies(PolicyPage { staged, ..PolicyPage::default() })).await?;
        }
        for refused in pages::cut(refused) {
            replies.send(&Reply::Policies(PolicyPage { refused, ..PolicyPage::default() })).await?;
        }
        Ok(Ok(Some(Reply::Policies(PolicyPage { last: true, ..PolicyPage::default() }))))
    }

    /// Sends the policies that are meant.
    pub(super) async fn policy(&self, query: PolicyQuery, replies: &mut Replies<'_>) -> io::Result<Answered> {
        let node = Arc::clone(&self.node);
        let shown = aside(move || {
            let mut details = node.policy().policy(&query);
            details.extend(node.policy().staged_policy(&query));
            details
        });
        let details = match shown.await {
            Ok(details) => details,
            Err(error) => return Ok(Err(error)),
        };
        for detail in details {
            replies.send(&Reply::Policy(Box::new(detail.fitting()))).await?;
        }
        Ok(Ok(Some(Reply::Done)))
    }

    /// What would become of a flow.
    pub(super) async fn policy_trace(&self, query: TraceQuery) -> Result<Reply, ApiError> {
        let node = Arc::clone(&self.node);
        let services = Arc::clone(&self.services);
        let led = move |flow: &SeenFlow, inside: bool| {
            let to = (flow.destination, flow.destination_port).into();
            services.resolve(flow.protocol, flow.source, to, inside)
        };
        let traced = aside(move || node.policy().trace(&query, led, |flow| names(&node, flow))).await?;
        let trace = traced.map_err(|reason| ApiError::new(ErrorKind::InvalidRequest, reason))?;
        Ok(Reply::Trace(Box::new(trace.fitting())))
    }

    /// Sends what the files would change.
    pub(super) async fn policy_diff(
        &self,
        (files, memory): Files,
        staged: bool,
        replies: &mut Replies<'_>,
    ) -> io::Result<Answered> {
        let Ok(_alone) = self.diffs.acquire().await else {
            return Ok(Err(ApiError::new(ErrorKind::TryAgainLater, "the daemon stops")));
        };
        let (node, monitor) = (Arc::clone(&self.node), Arc::clone(&self.monitor));
        let compared = aside(move || {
            let flows = flows(&node, &monitor)?;
            let page = match objects_of(files) {
                Ok(objects) => node.policy().diff(objects, staged, &flows, |flow| names(&node, flow)),
                Err(refused) => DiffPage { refused, examined: flows.len() as u64, ..DiffPage::default() },
            };
            drop(memory);
            Ok(page)
        });
        let DiffPage { changes, changed, refused, examined, .. } = match compared.await.flatten() {
            Ok(compared) => compared,
            Err(error) => return Ok(Err(error)),
        };
        for changes in pages::cut(changes) {
            replies.send(&Reply::PolicyDiff(DiffPage { changes, ..DiffPage::default() })).await?;
        }
        for refused in pages::cut(refused) {
            replies.send(&Reply::PolicyDiff(DiffPage { refused, ..DiffPage::default() })).await?;
        }
        Ok(Ok(Some(Reply::PolicyDiff(DiffPage { changed, examined, last: true, ..DiffPage::default() }))))
    }
}

/// The DNS names that the opener of a flow was told for its destination. What cannot be read is none: then a flow counts as denied.
fn names(node: &Node, flow: &SeenFlow) -> Vec<String> {
    node.kernel().dns_names_of(flow.source, flow.destination).unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot read the DNS names of {}", flow.destination);
        Vec::new()
    })
}

/// The objects of the files, or what of them is refused.
fn objects_of(files: Vec<ManifestText>) -> Result<Vec<Object>, Vec<RefusedObject>> {
    let mut together = Once::default();
    for ManifestText { file, text } in files {
        together.put(&file, &text);
    }
    let batch = together.finish();
    let refused: Vec<_> = batch.refusals.iter().flatten().map(RefusedObject::from).collect();
    if !refused.is_empty() {
        return Err(refused);
    }
    let objects = batch.changes.into_iter().filter_map(|change| match change {
        Change::Put(object) => Some(object),
        Change::Remove(_) => None,
    });
    Ok(objects.collect())
}

/// The flows that were seen lately: those that are tracked, and those that policies refused.
fn flows(node: &Node, monitor: &Monitor) -> Result<Vec<SeenFlow>, ApiError> {
    let mut flows = monitor.recent();
    let all = ConntrackFilter { limit: Some(CONNECTIONS), ..ConntrackFilter::default() };
    let walked = node.kernel().conntrack(&all, &mut |connections| {
        flows.extend(connections.iter().map(flow_of));
        true
    });
    walked.map_err(|error| ApiError::new(ErrorKind::Internal, error.to_string()))?;
    Ok(flows)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn files_are_tried_whole_or_not_at_all() {
        let file = |port: &str| ManifestText {
            file: "new.yaml".into(),
            text: format!(
                "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{ name: g, namespace: n }}\nspec: {{ podSelector: \
                 {{}}, ingress: [{{ ports: [{{ port: {port} }}] }}] }}\n"
            ),
        };
        assert_eq!(objects_of(vec![file("80")]).unwrap().len(), 1);
        let named = |name: &str, port| ManifestText { file: Path::new(name).into(), ..file(port) };
        let refused = objects_of(vec![file("80"), named("zero.yaml", "0")]).unwrap_err();
        assert_eq!(refused.len(), 1);
        assert_eq!(refused[0].field, "spec.ingress[0].ports[0].port");
        // An object that two files have is refused, as a directory and `policy check` do it.
        let refused = objects_of(vec![named("b.yaml", "80"), named("a.yaml", "81")]).unwrap_err();
        assert_eq!(
            refused.iter().filter_map(|it| it.file.as_deref()).collect::<Vec<_>>(),
            [Path::new("b.yaml")]
        );
    }
}
