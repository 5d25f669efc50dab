//! Behind other plugins.

use ipamd_api::{MacAddr, wire::Chained};

use super::*;

fn made(addresses: &[&str]) -> Chained {
    Chained {
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        container_mac: MacAddr([2, 0, 0, 0, 0, 1]),
        host_mac: MacAddr([2, 0, 0, 0, 0, 2]),
        mtu: 1400,
    }
}

fn behind(id: &str, addresses: &[&str]) -> Reserve {
    Reserve { chained: Some(made(addresses)), ..request(id) }
}

impl Bench {
    /// The plugin's part of an ADD behind another plugin.
    async fn take_over(&self, id: &str, addresses: &[&str]) -> Reservation {
        let reservation = self.node().reserve(&behind(id, addresses)).unwrap();
        let ifindex = self.link(id);
        self.kernel.lock().second_names.insert(key(id).host_ifname());
        let commit = Commit { key: key(id), host_ifindex: ifindex, netns_cookie: None };
        self.node().commit(&commit).await.unwrap();
        reservation
    }
}

#[tokio::test]
async fn an_interface_of_another_plugin_is_taken_over_and_left_to_it() {
    let mut bench = Bench::chained();
    let reservation = bench.take_over("a", &["10.9.0.5", "fd00:9::5"]).await;
    assert!(reservation.chained && !reservation.committed);
    assert_eq!((reservation.container_mac, reservation.mtu), (made(&[]).container_mac, 1400));
    let entries = bench.kernel.lock().endpoints.clone();
    assert_eq!(entries.len(), 2);
    assert!(entries.values().all(|entry| entry.chained && entry.host_mac == made(&[]).host_mac));
    // The same again, and after a restart, is the same.
    assert!(bench.node().reserve(&behind("a", &["10.9.0.5", "fd00:9::5"])).unwrap().committed);
    bench.restart();
    assert!(bench.node().reserve(&behind("a", &["10.9.0.5", "fd00:9::5"])).unwrap().committed);

    bench.node().release(&key("a")).await.unwrap();
    bench.node().release(&key("a")).await.unwrap();
    let fake = bench.kernel.lock();
    assert!(fake.endpoints.is_empty() && fake.links.len() == 1, "it is the other plugin's: {fake:?}");
    assert!(fake.unpinned.is_empty(), "its programs drop what comes until it is gone");
}

#[tokio::test]
async fn another_interface_in_the_place_of_one_is_another_attachment() {
    let bench = Bench::chained();
    bench.take_over("a", &["10.9.0.5"]).await;
    let second = bench.node().reserve(&behind("a", &["10.9.0.6"])).unwrap();
    assert!(!second.committed);
    assert!(bench.kernel.lock().endpoints.is_empty());
}

#[tokio::test]
async fn an_address_goes_to_who_has_it_now() {
    let bench = Bench::chained();
    bench.take_over("a", &["10.9.0.5"]).await;
    assert_eq!(kind(bench.node().reserve(&behind("bb", &["10.9.0.5"]))), ErrorKind::InUse);
    bench.kernel.lock().links.clear();
    bench.take_over("bb", &["10.9.0.5"]).await;
    let holders: Vec<_> = bench.node().endpoints().into_iter().map(|it| it.key).collect();
    assert_eq!(holders, [key("bb")]);
}

#[tokio::test]
async fn who_stands_elsewhere_in_the_chain_is_refused() {
    assert_eq!(kind(Bench::new().node().reserve(&behind("a", &["10.9.0.5"]))), ErrorKind::WrongPlace);
    let bench = Bench::chained();
    assert_eq!(kind(bench.node().reserve(&request("a"))), ErrorKind::WrongPlace);
    for addresses in [&[][..], &["127.0.0.1"], &["fe80::1"], &["224.0.0.1"], &["0.0.0.0"]] {
        assert_eq!(
            kind(bench.node().reserve(&behind("a", addresses))),
            ErrorKind::InvalidRequest,
            "{addresses:?}"
        );
    }
    let with_mtu = Reserve { mtu: Some(1500), ..behind("a", &["10.9.0.5"]) };
    assert_eq!(kind(bench.node().reserve(&with_mtu)), ErrorKind::InvalidRequest);
    assert!(bench.node().endpoints().is_empty());
}
