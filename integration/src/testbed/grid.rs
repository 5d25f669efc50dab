//! Nine pods in three namespaces, as in the upstream tests of NetworkPolicy.

use std::fmt::Write as _;

use anyhow::Result;

use super::{
    listeners::Listeners,
    machine::Machine,
    node::Node,
    pod::Pod,
    probe::{Addressed, Case, case, cases, hold},
    service::Service,
};

/// Namespaces `x`, `y` and `z`, labelled `ns=x` and so on, each with pods `a`, `b` and `c`, labelled `pod=a` and so on.
#[derive(Debug)]
pub struct Grid<'n> {
    node: &'n Node,
    services: Vec<Service>,
    cells: Vec<Cell<'n>>,
}

#[derive(Debug)]
struct Cell<'n> {
    /// `x/a`.
    name: String,
    pod: Pod<'n>,
    _listeners: Listeners,
}

impl<'n> Grid<'n> {
    /// The grid on a node; every pod listens on every service.
    pub fn new(node: &'n Node, services: &[Service]) -> Result<Self> {
        let mut namespaces = String::new();
        for ns in ["x", "y", "z"] {
            writeln!(
                namespaces,
                "---\napiVersion: v1\nkind: Namespace\nmetadata: {{ name: {ns}, labels: {{ ns: {ns} }} }}"
            )?;
        }
        node.apply("namespaces.yaml", &namespaces)?;
        let mut grid = Self { node, services: services.to_vec(), cells: Vec::new() };
        for ns in ["x", "y", "z"] {
            for pod in ["a", "b", "c"] {
                let name = format!("{ns}/{pod}");
                let pod = node.add_pod_of(&name, &[("pod", pod)])?;
                let listeners = pod.serve(pod.addresses(), services)?;
                grid.cells.push(Cell { name, pod, _listeners: listeners });
            }
        }
        Ok(grid)
    }

    /// A pod, by `namespace/name`.
    ///
    /// # Panics
    /// If there is none.
    pub fn pod(&self, name: &str) -> &Pod<'n> {
        &self.cells.iter().find(|cell| cell.name == name).expect("a pod of the grid").pod
    }

    /// Tries every pair, family and service: `allowed` says of `from`, `to` and the service whether it should arrive. What
    /// a pod sends to itself and what the node sends to its pods must arrive whatever it says.
    pub fn holds(&self, allowed: impl Fn(&str, &str, Service) -> bool) -> Result<()> {
        let mut table: Vec<Case<'_>> = Vec::new();
        for to in &self.cells {
            for &service in &self.services {
                table.extend(cases(self.node, &to.pod, service, true));
                for from in &self.cells {
                    let expected = from.name == to.name || allowed(&from.name, &to.name, service);
                    table.extend(cases(&from.pod, &to.pod, service, expected));
                }
            }
        }
        hold(table)
    }

    /// The same for what the pods send to other machines: every address of `to`, on which it must listen.
    pub fn holds_towards(
        &self,
        to: &impl Addressed,
        allowed: impl Fn(&str, std::net::IpAddr, Service) -> bool,
    ) -> Result<()> {
        let mut table: Vec<Case<'_>> = Vec::new();
        for from in &self.cells {
            for &service in &self.services {
                for address in to.known_by() {
                    let expected = allowed(&from.name, address, service);
                    table.push(case(&from.pod, address, service, expected, &to.called()));
                }
            }
        }
        hold(table)
    }

    /// The same for what another machine sends to the pods.
    pub fn holds_from(
        &self,
        from: &impl Addressed,
        allowed: impl Fn(&str, std::net::IpAddr, Service) -> bool,
    ) -> Result<()> {
        let mut table: Vec<Case<'_>> = Vec::new();
        for to in &self.cells {
            for &service in &self.services {
                for address in to.pod.known_by() {
                    table.push(case(from, address, service, allowed(&to.name, address, service), &to.name));
                }
            }
        }
        hold(table)
    }
}
