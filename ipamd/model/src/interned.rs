//! Interned strings: a text that many objects share is stored once.

use std::{
    collections::HashSet,
    hash::{BuildHasher, Hash},
    sync::Arc,
};

use crate::{
    labels::Labels,
    objects::{NamedPort, Object},
    services::Hints,
};

/// How many texts, and how many sets of labels, are remembered. Beyond, remembering starts anew: what is shared already
/// stays shared.
const MOST: usize = 16_384;

/// What has been seen.
#[derive(Debug, Default)]
pub struct Interned {
    texts: HashSet<Arc<str>>,
    labels: HashSet<Labels>,
    hints: HashSet<Arc<Hints>>,
    ports: HashSet<Arc<[NamedPort]>>,
}

impl Interned {
    /// Makes an object share what others have.
    pub fn share(&mut self, object: &mut Object) {
        match object {
            Object::Pod(pod) => {
                self.text(&mut pod.namespace);
                self.text(&mut pod.service_account);
                if let Some(labels) = &mut pod.labels {
                    self.labels(labels);
                }
                pod.ports = shared(&mut self.ports, &pod.ports);
            }
            Object::ServiceAccount(account) => {
                self.text(&mut account.namespace);
                self.text(&mut account.name);
                self.labels(&mut account.labels);
            }
            Object::Namespace(namespace) => {
                self.text(&mut namespace.name);
                self.labels(&mut namespace.labels);
            }
            Object::Service(service) => {
                // Nobody else has it yet.
                let service = Arc::make_mut(service);
                self.text(&mut service.namespace);
                for port in &mut service.ports {
                    self.text(&mut port.name);
                }
            }
            Object::EndpointSlice(slice) => {
                let slice = Arc::make_mut(slice);
                self.text(&mut slice.namespace);
                for port in &mut slice.ports {
                    self.text(&mut port.name);
                }
                for endpoint in &mut slice.endpoints {
                    if let Some(node) = &mut endpoint.node {
                        self.text(node);
                    }
                    if let Some(hints) = &mut endpoint.hints {
                        *hints = shared(&mut self.hints, hints);
                    }
                }
            }
            _ => {}
        }
    }

    fn text(&mut self, text: &mut Arc<str>) {
        *text = shared(&mut self.texts, text);
    }

    fn labels(&mut self, labels: &mut Labels) {
        *labels = shared(&mut self.labels, labels);
    }
}

/// A value that equals this one and was seen before, or else this one, which is remembered. What is remembered has a bound.
pub fn shared<T: Clone + Eq + Hash, S: BuildHasher>(seen: &mut HashSet<T, S>, value: &T) -> T {
    if let Some(same) = seen.get(value) {
        return same.clone();
    }
    if seen.len() == MOST {
        seen.clear();
    }
    seen.insert(value.clone());
    value.clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::{Namespace, Pod};

    #[test]
    fn equal_texts_are_held_once() {
        let pod = |name: &str| Pod {
            namespace: "ns".into(),
            name: name.into(),
            labels: Some([("a", "b")].into_iter().collect()),
            service_account: "default".into(),
            addresses: vec![],
            ports: [NamedPort { name: "web".into(), protocol: 6, port: 80 }].into(),
        };
        let mut interned = Interned::default();
        let mut objects = [
            Object::Namespace(Namespace { name: "ns".into(), labels: Labels::default(), denied: Ok(None) }),
            Object::Pod(pod("a")),
            Object::Pod(pod("b")),
        ];
        for object in &mut objects {
            interned.share(object);
        }
        let [Object::Namespace(ns), Object::Pod(a), Object::Pod(b)] = &objects else { panic!("other kinds") };
        assert!(Arc::ptr_eq(&ns.name, &a.namespace) && Arc::ptr_eq(&a.namespace, &b.namespace));
        assert!(Arc::ptr_eq(&a.service_account, &b.service_account));
        assert_eq!(a.labels, b.labels);
        assert!(Arc::ptr_eq(&a.ports, &b.ports));
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let mut interned = Interned::default();
        for at in 0..=2 * MOST {
            interned.text(&mut at.to_string().into());
        }
        assert!(interned.texts.len() <= MOST);
    }
}
