//! Requests about services. They run on a blocking thread, because they may wait for a change under way.

use std::{io, mem, sync::Arc};

use ipamd_api::{
    Reply,
    services::{
        BackendPage, PortDetail, ServiceBackend, ServiceDetail, ServiceLine, ServicePage, ServicePort,
        ServiceQuery, ServiceSummary,
    },
};

use super::{
    node_service::{Answered, NodeService, aside},
    pages::{self, PAGE, Shorten, fitting, names, text},
};
use crate::server::Replies;

impl NodeService {
    /// Sends the list of services.
    pub(super) async fn services(&self, replies: &mut Replies<'_>) -> io::Result<Answered> {
        let listing = Arc::clone(&self.services);
        let services = match aside(move || listing.services()).await {
            Ok(services) => services,
            Err(error) => return Ok(Err(error)),
        };
        for services in pages::cut(services) {
            replies.send(&Reply::Services(ServicePage { services, last: false })).await?;
        }
        Ok(Ok(Some(Reply::Services(ServicePage { services: Vec::new(), last: true }))))
    }

    /// Sends a service in full, if there is such.
    pub(super) async fn service(
        &self,
        ServiceQuery { namespace, name }: ServiceQuery,
        replies: &mut Replies<'_>,
    ) -> io::Result<Answered> {
        let listing = Arc::clone(&self.services);
        let detail = match aside(move || listing.service(&namespace, &name)).await {
            Ok(detail) => detail,
            Err(error) => return Ok(Err(error)),
        };
        for reply in detail.into_iter().flat_map(parts) {
            replies.send(&reply).await?;
        }
        Ok(Ok(Some(Reply::Done)))
    }
}

/// A service in replies that fit their frames: itself, then its backends, of which there may be thousands.
fn parts(mut detail: ServiceDetail) -> impl Iterator<Item = Reply> {
    let backends: Vec<_> = detail.ports.iter_mut().map(|port| mem::take(&mut port.backends)).collect();
    let of_port = |(port, backends): (usize, Vec<ServiceBackend>)| {
        let pages = pages::cut(backends).into_iter().filter(|page| !page.is_empty());
        pages.map(move |backends| Reply::ServiceBackends(BackendPage { port, backends }))
    };
    let shown = detail.fitting();
    let backends = backends.into_iter().take(shown.ports.len()).enumerate();
    std::iter::once(Reply::Service(Box::new(shown))).chain(backends.flat_map(of_port))
}

fn summary(summary: &mut ServiceSummary) {
    text(&mut summary.namespace);
    text(&mut summary.name);
    names(&mut summary.cluster_ips);
    names(&mut summary.external_ips);
    names(&mut summary.load_balancer_ips);
}

fn port(port: &mut ServicePort) {
    text(&mut port.name);
    text(&mut port.protocol);
}

impl Shorten for ServiceLine {
    /// What is left out is to be seen by asking for the service itself.
    fn shorten(&mut self) {
        summary(&mut self.summary);
        names(&mut self.ports);
        self.ports.iter_mut().for_each(port);
    }
}

impl Shorten for ServiceBackend {
    fn shorten(&mut self) {
        self.node.iter_mut().for_each(text);
        for hints in [&mut self.zone_hints, &mut self.node_hints] {
            names(hints);
            hints.iter_mut().for_each(text);
        }
    }
}

impl Shorten for ServiceDetail {
    /// What a frame has no room for is left out, which is a problem of its own then.
    fn shorten(&mut self) {
        let mut left_out = Vec::new();
        let mut cut = |what: &str, all: usize, fit: usize| {
            if fit < all {
                left_out.push(format!("{} {what} more than are shown", all - fit));
            }
        };
        self.problems.iter_mut().for_each(text);
        self.source_ranges.iter_mut().for_each(text);
        let fit = fitting(&self.problems, PAGE / 8);
        cut("problems", self.problems.len(), fit);
        self.problems.truncate(fit);
        let fit = fitting(&self.source_ranges, PAGE / 8);
        cut("source ranges", self.source_ranges.len(), fit);
        self.source_ranges.truncate(fit);

        text(&mut self.summary.namespace);
        text(&mut self.summary.name);
        for (what, addresses) in [
            ("cluster IPs", &mut self.summary.cluster_ips),
            ("external IPs", &mut self.summary.external_ips),
            ("load balancer IPs", &mut self.summary.load_balancer_ips),
        ] {
            let fit = fitting(addresses, PAGE / 8);
            cut(what, addresses.len(), fit);
            addresses.truncate(fit);
        }

        let mut frontends = 0;
        for PortDetail { port: of, frontends: at, .. } in &mut self.ports {
            port(of);
            // Each port has its share, so that no port hides the others.
            let fit = fitting(at, PAGE / 1_024);
            frontends += at.len() - fit;
            at.truncate(fit);
        }
        cut("frontends", frontends, 0);
        let fit = fitting(&self.ports, PAGE);
        cut("ports", self.ports.len(), fit);
        self.ports.truncate(fit);
        self.problems.extend(left_out.into_iter().map(|what| format!("the service has {what}")));
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use ipamd_api::services::{BackendState, BackendUse, FrontendScope, ServiceFrontend, TrafficPolicy};

    use super::*;

    fn fits(reply: &Reply) -> bool {
        ipamd_api::frame::encode(&serde_json::to_vec(reply).unwrap()).is_ok()
    }

    fn line(at: u32) -> ServiceLine {
        ServiceLine {
            summary: ServiceSummary {
                namespace: format!("namespace-{}", at % 7),
                name: format!("{}{at}", "service-".repeat(7)),
                cluster_ips: vec![
                    Ipv4Addr::from(at).into(),
                    Ipv6Addr::from(u128::MAX - u128::from(at)).into(),
                ],
                hits: u64::MAX,
                ..ServiceSummary::default()
            },
            ports: (0..4)
                .map(|number| ServicePort {
                    name: format!("port-{number}"),
                    protocol: "TCP".into(),
                    port: 65_000 + number,
                    node_port: Some(32_000),
                })
                .collect(),
        }
    }

    fn backend(at: u32) -> ServiceBackend {
        ServiceBackend {
            address: Ipv4Addr::from(at).into(),
            port: 8080,
            node: Some(format!("node-{at}")),
            local: false,
            zone_hints: vec!["a".into()],
            node_hints: Vec::new(),
            state: BackendState::Ready,
            used: BackendUse::Cluster,
            hits: 1,
        }
    }

    fn frontend(at: u32) -> ServiceFrontend {
        ServiceFrontend {
            address: Ipv4Addr::from(at).into(),
            port: 80,
            scope: FrontendScope::ExternalIp,
            internal: TrafficPolicy::Cluster,
            external: TrafficPolicy::Cluster,
        }
    }

    #[test]
    fn ten_thousand_services_come_in_pages_that_fit() {
        let lines: Vec<_> = (0..10_000).map(line).collect();
        let pages = pages::cut(lines.clone());
        assert!(pages.len() >= 10, "{}", pages.len());
        let page =
            |services: &Vec<_>| Reply::Services(ServicePage { services: services.clone(), last: false });
        assert!(pages.iter().all(|services| fits(&page(services))));
        assert_eq!(pages.concat(), lines);
    }

    #[test]
    fn a_line_that_is_too_large_is_shortened() {
        let mut large = line(1);
        large.summary.external_ips = vec![IpAddr::V6(Ipv6Addr::LOCALHOST); 100_000];
        large.ports = vec![ServicePort { name: "\u{1}".repeat(2_000), ..large.ports[0].clone() }; 2_000];
        let pages = pages::cut(vec![large, line(2)]);
        assert_eq!(pages.concat()[1], line(2));
        for services in pages {
            assert!(fits(&Reply::Services(ServicePage { services, last: false })));
        }
    }

    #[test]
    fn a_service_comes_whole_with_all_of_its_backends() {
        let port = |backends| PortDetail { backends, frontends: vec![frontend(1)], ..PortDetail::default() };
        let detail = ServiceDetail {
            ports: vec![port((0..10_000).map(backend).collect()), port(Vec::new()), port(vec![backend(7)])],
            ..ServiceDetail::default()
        };
        let replies: Vec<_> = parts(detail.clone()).collect();
        assert!(replies.iter().all(fits));
        let mut replies = replies.into_iter();
        let Some(Reply::Service(mut put_together)) = replies.next() else { panic!("no service first") };
        assert!(put_together.ports.iter().all(|port| port.backends.is_empty()));
        let mut pages = 0;
        for reply in replies {
            let Reply::ServiceBackends(BackendPage { port, backends }) = reply else { panic!("{reply:?}") };
            assert!(!backends.is_empty());
            put_together.ports[port].backends.extend(backends);
            pages += 1;
        }
        assert!(pages > 3);
        assert_eq!(*put_together, detail);
    }

    #[test]
    fn what_a_frame_has_no_room_for_is_a_problem() {
        let ports = (0..2_000).map(|_| PortDetail {
            frontends: (0..100).map(frontend).collect(),
            backends: vec![backend(1)],
            ..PortDetail::default()
        });
        let detail = ServiceDetail {
            ports: ports.collect(),
            source_ranges: vec!["192.0.2.0/24".into(); 10_000],
            problems: vec!["ö".repeat(10_000); 500],
            ..ServiceDetail::default()
        };
        let replies: Vec<_> = parts(detail).collect();
        assert!(replies.iter().all(fits));
        let Reply::Service(shown) = &replies[0] else { panic!("no service first") };
        assert!(shown.ports.len() > 100 && shown.ports.len() < 2_000, "{}", shown.ports.len());
        assert_eq!(replies.len(), 1 + shown.ports.len(), "backends only of ports that are shown");
        let left_out = 2_000 - shown.ports.len();
        let said =
            |said: &str| assert!(shown.problems.iter().any(|it| it.contains(said)), "{:?}", shown.problems);
        said(&format!("the service has {left_out} ports more than are shown"));
        said("source ranges more than are shown");
        said("frontends more than are shown");
        said("problems more than are shown");
    }
}
