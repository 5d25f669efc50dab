//! What the API server does to its clients.

use std::time::Duration;

use anyhow::Result;
use integration::{apiserver::Behaviour, testbed::Machine};

use crate::{
    harms::{Fault, NOTHING},
    scene::Scene,
};

/// A server that misbehaves until it is told not to.
const BAD: Fault = Fault {
    api: true,
    mend: |scene| {
        scene.server()?.behave(|server| *server = Behaviour::default());
        Ok(())
    },
    ..NOTHING
};

pub const FAULTS: &[Fault] = &[
    Fault {
        name: "the API server is gone",
        strike: |scene, _| {
            scene.server()?.stop();
            Ok(())
        },
        mend: |scene| scene.server()?.resume(scene.node.neighbour.netns()),
        says: "API server",
        ..BAD
    },
    Fault {
        name: "the API server hangs",
        strike: |scene, _| bad(scene, |server| server.hangs = true),
        says: "API server",
        ..BAD
    },
    Fault {
        name: "the API server is slow",
        strike: |scene, _| bad(scene, |server| server.delay = Duration::from_secs(2)),
        ..BAD
    },
    Fault {
        name: "the API server lies: its lists and events are cut and no JSON",
        strike: |scene, turn| {
            bad(scene, |server| {
                server.cuts = turn % 2 == 0;
                server.garbage = Some("<html>an ingress answers</html>");
            })
        },
        says: "API server",
        ..BAD
    },
    Fault {
        name: "the API server forbids policies and pods (403)",
        strike: |scene, _| {
            bad(scene, |server| {
                server.refuses.insert("networkpolicies", 403);
                server.refuses.insert("pods", 403);
            })
        },
        says: "403",
        ..BAD
    },
];

/// Has the server behave so to whoever watches, too.
fn bad(scene: &Scene<'_>, behave: impl FnOnce(&mut Behaviour)) -> Result<()> {
    let server = scene.server()?;
    server.behave(behave);
    server.end_watches();
    Ok(())
}
