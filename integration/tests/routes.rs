//! Established flows follow the node's routes.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use integration::{
    needs_root,
    testbed::{FAR4, Machine, Node},
};

#[test]
fn an_established_flow_notices_that_its_route_is_withdrawn_and_that_it_is_back() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let pod = node.add_pod("a")?;
    let pings = thread::scope(|scope| {
        // One identifier, so one flow, for three seconds.
        let pings = scope.spawn(|| pod.ping(FAR4, &["-c60", "-i0.05", "-W1"]));
        thread::sleep(Duration::from_secs(1));
        node.netns().ip(&format!("route add unreachable {FAR4}/32"))?;
        thread::sleep(Duration::from_secs(1));
        node.netns().ip(&format!("route delete unreachable {FAR4}/32"))?;
        pings.join().expect("ping does not panic")
    })?;
    ensure!((10..=50).contains(&pings.received), "{} of 60 were answered", pings.received);
    ensure!(pod.ping(FAR4, &["-c1", "-W1"])?.received == 1, "nothing is answered afterwards");
    Ok(())
}
