//! Manifests: files of YAML or JSON with Kubernetes objects, as for `kubectl apply`. Parsing is pure. An object that
//! cannot be parsed is refused with its line; the rest of the file is read.

mod bounded_chars;
mod documents;
#[cfg(test)]
mod fuzz;
mod kinds;
mod scalar;
#[cfg(test)]
mod tests;
mod tree;

use std::{collections::HashMap, path::Path, sync::Arc};

use serde_json::Value;

use self::{
    documents::{Documents, Fault, Step},
    kinds::Concern,
    tree::{Node, Tree},
};
use super::{
    field::{Field, shown},
    v1,
};
use crate::policies::{calico, cluster_policy, kubernetes};
use ipamd_model::{
    field::FieldError,
    objects::{Kind, Object, ObjectId, Origin, Refusal},
};

/// Largest file that is read.
pub const LARGEST_FILE: u64 = 32 << 20;
/// How many refusals a file may have one by one.
const MOST_REFUSALS: usize = 1000;

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Manifest {
    /// Its objects, each id once.
    pub objects: Vec<Located>,
    /// What of it cannot be understood.
    pub refusals: Vec<Refusal>,
    /// Whether all objects of the file are known by their ids, be they understood or not. If not, nothing may be taken
    /// to be gone because it is not among them.
    pub complete: bool,
    /// Whether nothing of the file is known, because it cannot be read or is not YAML throughout.
    pub unread: bool,
}

/// An object and where it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Located {
    /// The line that it begins on.
    pub line: u32,
    /// The object.
    pub object: Object,
}

impl Manifest {
    /// A file of which nothing can be read.
    pub fn unread(file: &Path, line: u32, reason: impl Into<String>) -> Self {
        let refusal =
            Refusal { file: file.into(), line, object: None, field: String::new(), reason: reason.into() };
        Self { objects: Vec::new(), refusals: vec![refusal], complete: false, unread: true }
    }
}

/// Reads a file. Of one that is not YAML throughout nothing is taken: it may be half written.
pub fn read(file: &Path, text: &str) -> Manifest {
    let mut reading = Reading {
        file: file.into(),
        manifest: Manifest { complete: true, ..Manifest::default() },
        lines: HashMap::new(),
    };
    for step in Documents::of(text) {
        match step {
            Step::Document(root) => reading.document(&root),
            Step::Malformed(fault) => reading.fault(fault),
            Step::Syntax(Fault { line, reason }) => return Manifest::unread(file, line, reason),
        }
    }
    reading.manifest
}

/// A file that is being read.
struct Reading {
    file: Arc<Path>,
    manifest: Manifest,
    /// The lines of the objects.
    lines: HashMap<ObjectId, u32>,
}

impl Reading {
    /// Reads a document, and if it is a list, what it lists.
    fn document(&mut self, root: &Node) {
        let mut rest = vec![(root, None)];
        while let Some((node, list)) = rest.pop() {
            if node.tree == Tree::Null {
                if list.is_some() {
                    let reason = "this item of a list is null".into();
                    self.refuse(node, None, FieldError { field: String::new(), reason }, false);
                }
                continue;
            }
            match listed(node) {
                Ok(Some(items)) => rest.extend(items.iter().rev().map(|item| (item, Some(node)))),
                Ok(None) => self.object(node, list),
                Err(error) => self.refuse(node, None, error, false),
            }
        }
    }

    fn object(&mut self, node: &Node, list: Option<&Node>) {
        let (api_version, kind) = match type_of(node, list) {
            Ok(it) => it,
            Err(error) => return self.refuse(node, None, error, false),
        };
        let error = |field: &str, reason| FieldError { field: field.into(), reason };
        match kinds::concern(api_version, kind) {
            Concern::None => {}
            Concern::Read(kind) => self.known(node, kind),
            Concern::Version(kind, supported) => {
                let document = node.value();
                let id = v1::id(kind, &Field::root(&document)).ok();
                let complete = id.is_some();
                let reason = format!("{} is not understood, {supported} is", shown(api_version));
                self.refuse(node, id, error("apiVersion", reason), complete);
            }
            Concern::Foreign(instead) => {
                let mut reason = format!("{} of {} is not understood", shown(kind), shown(api_version));
                if let Some(instead) = instead {
                    reason = format!("{reason}: {instead}");
                }
                self.refuse(node, None, error("kind", reason), true);
            }
            Concern::Unknown => {
                let reason = format!("there is no {} in {}", shown(kind), shown(api_version));
                self.refuse(node, None, error("kind", reason), false);
            }
        }
    }

    fn known(&mut self, node: &Node, kind: Kind) {
        let document = node.value();
        let id = match v1::id(kind, &Field::root(&document)) {
            Ok(id) => id,
            Err(error) => return self.refuse(node, None, error, false),
        };
        let origin = Origin { file: Arc::clone(&self.file), line: node.line };
        match typed(kind, &document, origin) {
            Ok(object) => {
                let id = object.id();
                if let Some(first) = self.lines.get(&id) {
                    let reason = format!("this object is on line {first} already");
                    return self.refuse(node, Some(id), FieldError { field: String::new(), reason }, true);
                }
                self.lines.insert(id, node.line);
                self.manifest.objects.push(Located { line: node.line, object });
            }
            Err(error) => self.refuse(node, Some(id), error, true),
        }
    }

    fn refuse(&mut self, node: &Node, object: Option<ObjectId>, error: FieldError, complete: bool) {
        self.push(Refusal {
            file: self.file.to_path_buf(),
            line: node.line_of(&error.field),
            object,
            field: error.field,
            reason: error.reason,
        });
        self.manifest.complete &= complete;
    }

    fn fault(&mut self, Fault { line, reason }: Fault) {
        self.push(Refusal {
            file: self.file.to_path_buf(),
            line,
            object: None,
            field: String::new(),
            reason,
        });
        self.manifest.complete = false;
    }

    /// Notes a refusal. Where there are too many, those that name an object are kept: their objects stay in force.
    fn push(&mut self, refusal: Refusal) {
        if self.manifest.refusals.len() < MOST_REFUSALS || refusal.object.is_some() {
            self.manifest.refusals.push(refusal);
        }
    }
}

/// What a list lists; `None` if it is none. One that does not say what it lists is not taken for an empty one: whatever wrote it may
/// have failed on the way, and all that the file had before would be gone.
fn listed(node: &Node) -> Result<Option<&[Node]>, FieldError> {
    let text = |key| node.field(key).and_then(Node::text);
    let Some(of) = text("kind").and_then(|kind| kind.strip_suffix("List")) else { return Ok(None) };
    let error = |reason: &str| Err(FieldError { field: "items".into(), reason: reason.into() });
    match node.field("items").map(|items| &items.tree) {
        Some(Tree::List(items)) => Ok(Some(items)),
        // Some other kind whose name ends so.
        _ if !of.is_empty()
            && kinds::concern(text("apiVersion").unwrap_or_default(), of) == Concern::None =>
        {
            Ok(None)
        }
        Some(Tree::Null) | None => error("this list has no items; an empty one has \"items: []\""),
        Some(_) => error("is not a list"),
    }
}

/// `apiVersion` and `kind`; the items of a `PodList` need not repeat that they are Pods.
fn type_of<'a>(node: &'a Node, list: Option<&'a Node>) -> Result<(&'a str, &'a str), FieldError> {
    let error = |field: &str, reason: &str| Err(FieldError { field: field.into(), reason: reason.into() });
    let field = |node: &'a Node, key| node.field(key).and_then(Node::text).filter(|text| !text.is_empty());
    let of_list = |key| list.and_then(|list| field(list, key));
    if !matches!(node.tree, Tree::Fields(_)) {
        return error("", "this is no object: it is not a mapping");
    }
    let listed = of_list("kind").and_then(|kind| kind.strip_suffix("List")).filter(|kind| !kind.is_empty());
    let Some(kind) = field(node, "kind").or(listed) else {
        return error("kind", "this is no object: it has no kind");
    };
    let Some(api_version) = field(node, "apiVersion").or_else(|| listed.and_then(|_| of_list("apiVersion")))
    else {
        return error("apiVersion", "this is no object: it has no apiVersion");
    };
    Ok((api_version, kind))
}

/// Reads an object of a kind.
///
/// # Errors
/// The field that cannot be understood.
pub(super) fn typed(kind: Kind, document: &Value, origin: Origin) -> Result<Object, FieldError> {
    let mut object = match kind {
        Kind::NetworkPolicy => kubernetes::read(document, Some(origin)),
        Kind::NetworkSet
        | Kind::GlobalNetworkSet
        | Kind::HostEndpoint
        | Kind::Tier
        | Kind::CalicoNetworkPolicy
        | Kind::GlobalNetworkPolicy
        | Kind::StagedNetworkPolicy
        | Kind::StagedGlobalNetworkPolicy
        | Kind::StagedKubernetesNetworkPolicy => calico::read(kind, document, Some(origin)),
        Kind::ClusterNetworkPolicy => cluster_policy::read(document, Some(origin)),
        Kind::Namespace
        | Kind::Pod
        | Kind::ServiceAccount
        | Kind::Node
        | Kind::Service
        | Kind::EndpointSlice => v1::read(kind, document),
    }?;
    if let Object::Policy(policy) = &mut object {
        // Nobody else has it yet.
        Arc::make_mut(policy).shrink_to_fit();
    }
    Ok(object)
}
