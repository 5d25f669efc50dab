//! What cannot be served, in sentences.

use std::{collections::BTreeMap, sync::Arc};

use super::{owner::Owner, state::State};

/// At most this many namespaces are named in problems about missing space.
const MOST_PROBLEMS: usize = 20;
impl State {
    /// The problems of host ports, and of services for which there is no space, a sentence each.
    pub fn all_problems(&self) -> Vec<String> {
        let of_containers =
            self.ledger.programmed.iter().filter(|(owner, _)| matches!(owner, Owner::HostPorts(_)));
        let of_containers = of_containers.flat_map(|(owner, ports)| {
            let of_port = ports.iter().flat_map(|port| port.plan.problems.iter().chain(&port.problems));
            of_port.map(move |problem| format!("a port of {owner}: {problem}"))
        });
        // One service of each namespace stands for all of it.
        let mut without_room: BTreeMap<&Arc<str>, (&Owner, usize)> = BTreeMap::new();
        for owner in &self.ledger.unsatisfied {
            if let Some(namespace) = owner.namespace() {
                without_room.entry(namespace).or_insert((owner, 0)).1 += 1;
            }
        }
        let of_services = without_room.into_values().filter_map(|(owner, count)| {
            let problem = self.ledger.programmed.get(owner)?.iter().find_map(|port| port.problems.first())?;
            let more = match count {
                1 => String::new(),
                several => format!(
                    " (and {} more services of its namespace, see cambricctl service list)",
                    several - 1
                ),
            };
            Some(format!("the service {owner} is not served as a whole: {problem}{more}"))
        });
        of_containers.chain(of_services.take(MOST_PROBLEMS)).collect()
    }
}
