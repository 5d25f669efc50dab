//! Every way in which a server misbehaves, and every version of it.

use std::time::Duration;

use anyhow::{Result, ensure};
use integration::{
    apiserver::{Behaviour, Streaming},
    needs_root,
    testbed::{Machine, eventually, throughout, time_passes},
};
use serde_json::json;

use super::scene::{PATIENCE, Scene, guard};

/// A daemon that starts beside such a server, and follows it.
fn follows(behave: impl FnOnce(&mut Behaviour)) -> Result<Scene> {
    let scene = Scene::new()?;
    scene.server.behave(behave);
    scene.server.put(guard("first"));
    scene.node.start_daemon()?;
    scene.wait_for_policies(&["first"])?;
    scene.server.put(guard("second"));
    scene.wait_for_policies(&["first", "second"])?;
    scene.server.delete("networkpolicies.networking.k8s.io", "shop/first");
    scene.wait_for_policies(&["second"])?;
    Ok(scene)
}

#[test]
fn a_list_is_streamed_where_the_server_can() -> Result<()> {
    needs_root!();
    let scene = follows(|_| {})?;
    let mut requests = scene.server.requests();
    // What is not installed is looked for both ways.
    let optional = ["/projectcalico.org/", "/policy.networking.k8s.io/"];
    requests.retain(|it| !optional.iter().any(|group| it.contains(group)));
    ensure!(requests.iter().all(|it| !it.contains("limit=")), "{requests:?}");
    // Once for each resource and no more: bookmarks and resumption spare the rest.
    let of_pods = requests.iter().filter(|it| it.contains("/pods?")).count();
    ensure!(of_pods == 1, "{requests:?}");
    Ok(())
}

#[test]
fn a_list_comes_in_pages_where_the_server_refuses_to_stream() -> Result<()> {
    needs_root!();
    let scene = Scene::new()?;
    scene.server.behave(|server| server.streaming = Streaming::Refused);
    for number in 0..1100 {
        let name = format!("s{number}");
        scene.server.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
    }
    scene.server.put(guard("first"));
    scene.node.start_daemon()?;
    scene.wait_for_policies(&["first"])?;
    let pages = scene
        .server
        .requests()
        .iter()
        .filter(|it| it.contains("/namespaces?") && it.contains("limit=500"))
        .count();
    ensure!(pages == 3, "{:?}", scene.server.requests());
    scene.server.put(guard("second"));
    scene.wait_for_policies(&["first", "second"])
}

#[test]
fn a_slow_server_is_waited_for() -> Result<()> {
    needs_root!();
    follows(|server| server.delay = Duration::from_secs(2)).map(drop)
}

#[test]
fn a_history_that_is_gone_is_listed_again() -> Result<()> {
    needs_root!();
    let scene = follows(|_| {})?;
    // Those who watch are told in the stream, those who come back by the answer.
    for ends in [false, true] {
        scene.server.behave(|server| server.silent = true);
        scene.server.put(guard("third"));
        scene.server.delete("networkpolicies.networking.k8s.io", "shop/second");
        scene.server.compact();
        if ends {
            scene.server.stop();
            scene.server.resume(scene.node.neighbour.netns())?;
        }
        scene.server.behave(|server| server.silent = false);
        scene.server.put(guard("fourth"));
        scene.wait_for_policies(&["fourth", "third"])?;
        scene.server.delete("networkpolicies.networking.k8s.io", "shop/third");
        scene.server.delete("networkpolicies.networking.k8s.io", "shop/fourth");
        scene.server.put(guard("second"));
        scene.wait_for_policies(&["second"])?;
    }
    Ok(())
}

#[test]
fn streams_that_end_break_or_lie_are_taken_up_again() -> Result<()> {
    needs_root!();
    let scene = follows(|_| {})?;
    scene.server.end_watches();
    scene.server.put(guard("third"));
    scene.wait_for_policies(&["second", "third"])?;

    scene.server.behave(|server| server.cuts = true);
    let asked = scene.server.requests().len();
    scene.server.put(guard("fourth"));
    let asks_again = || scene.server.requests().len() > asked + 1;
    ensure!(eventually(PATIENCE, asks_again), "nothing was cut: {:?}", scene.server.requests());
    scene.server.behave(|server| server.cuts = false);
    scene.wait_for_policies(&["fourth", "second", "third"])?;

    for garbage in ["{", "null", "[]", "{\"type\": \"NOVEL\", \"object\": {}}", "\u{7f}ELF"] {
        scene.server.behave(|server| server.garbage = Some(garbage));
        scene.server.put(guard("fifth"));
        scene.wait_for_policies(&["fifth", "fourth", "second", "third"])?;
        scene.server.delete("networkpolicies.networking.k8s.io", "shop/fifth");
        scene.wait_for_policies(&["fourth", "second", "third"])?;
    }
    Ok(())
}

#[test]
fn an_object_that_makes_no_sense_is_refused_by_its_field_and_spoils_nothing() -> Result<()> {
    needs_root!();
    let scene = follows(|_| {})?;
    let mut broken = guard("second");
    broken["spec"]["podSelector"] = json!({"matchLabels": {"app": 7}});
    scene.server.put(broken);
    scene
        .server
        .put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "odd", "namespace": "shop"},
        "status": {"podIPs": [{"ip": "nonsense"}]}}));
    scene.server.put(guard("third"));
    scene.wait_for_policies(&["second", "third"])?;
    let listing = scene.node.ctl(&["policy", "list"])?.to_string();
    ensure!(listing.contains("matchLabels") && listing.contains("the API server"), "{listing}");
    Ok(())
}

#[test]
fn kinds_that_are_not_installed_are_noticed_when_they_appear() -> Result<()> {
    needs_root!();
    let scene = follows(|_| {})?;
    let policies = "globalnetworkpolicies.projectcalico.org";
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": policies},
    });
    let policy = json!({
        "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "metadata": {"name": "calico"},
        "spec": {"selector": "all()", "types": ["Ingress"], "ingress": [{"action": "Allow"}]},
    });
    let asked = || scene.server.requests().iter().filter(|it| it.contains("/globalnetworkpolicies?")).count();
    let before = asked();
    scene.server.put(definition.clone());
    // As with a real server, the definition is there before its resource is.
    ensure!(eventually(PATIENCE, || asked() > before), "{:?}", scene.server.requests());
    scene.server.serve(policies, true);
    scene.server.put(policy.clone());
    scene.wait_for_policies(&["calico", "second"])?;
    scene.server.serve(policies, false);
    scene.server.delete("customresourcedefinitions.apiextensions.k8s.io", policies);
    scene.server.end_watches();
    scene.wait_for_policies(&["second"])?;
    scene.server.serve(policies, true);
    scene.server.put(policy);
    scene.server.put(definition);
    scene.wait_for_policies(&["calico", "second"])
}

#[test]
fn policies_that_may_not_be_seen_for_a_while_stay_in_force() -> Result<()> {
    needs_root!();
    let scene = Scene::new()?;
    let policies = "globalnetworkpolicies.projectcalico.org";
    scene.server.put(json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": policies},
    }));
    scene.server.serve(policies, true);
    let policy = json!({
        "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "metadata": {"name": "calico"},
        "spec": {"selector": "all()", "types": ["Ingress"], "ingress": [{"action": "Allow"}]},
    });
    scene.server.put(policy.clone());
    scene.node.start_daemon()?;
    scene.wait_for_policies(&["calico"])?;
    let stays = || -> Result<()> {
        let is_there = || scene.wait_for_policies(&["calico"]).is_ok();
        ensure!(throughout(Duration::from_secs(2), is_there), "it does not stay");
        Ok(())
    };
    // The role is replaced, or a server starts that does not know of roles yet.
    for code in [403, 404] {
        scene.server.behave(|server| server.refuses = [("globalnetworkpolicies", code)].into());
        scene.server.end_watches();
        scene.wait_until_live(false)?;
        stays()?;
        scene.server.behave(|server| server.refuses.clear());
        scene.wait_until_live(true)?;
        stays()?;
    }
    // A daemon that starts meanwhile knows of them by the copy.
    time_passes(Duration::from_secs(3), "what is on disk may be some seconds old");
    scene.server.behave(|server| server.refuses = [("globalnetworkpolicies", 403)].into());
    scene.node.kill_daemon();
    scene.node.start_daemon()?;
    stays()?;
    ensure!(scene.cluster()?["live"] == false, "{}", scene.cluster()?);
    scene.server.behave(|server| server.refuses.clear());
    // What is forbidden is asked for ever more rarely.
    let is_live = || scene.cluster().is_ok_and(|it| it["live"] == true);
    ensure!(eventually(PATIENCE * 3, is_live), "{}", scene.cluster()?);
    // What is uninstalled is gone.
    scene.server.serve(policies, false);
    scene.server.delete("customresourcedefinitions.apiextensions.k8s.io", policies);
    scene.server.end_watches();
    scene.wait_for_policies(&[])?;
    scene.wait_until_live(true)?;
    // Nobody has told of any since, and the copy on disk knows. Whether there are some now nobody says.
    time_passes(Duration::from_secs(4), "what is on disk may be some seconds old");
    scene.server.behave(|server| server.refuses = [("globalnetworkpolicies", 403)].into());
    scene.node.kill_daemon();
    scene.node.start_daemon()?;
    scene.wait_for_policies(&[])?;
    ensure!(scene.cluster()?["live"] == false, "{}", scene.cluster()?);
    Ok(())
}

#[test]
fn a_server_that_hangs_or_forbids_is_told_of() -> Result<()> {
    needs_root!();
    let scene = follows(|_| {})?;
    scene.server.behave(|server| {
        server.refuses.insert("networkpolicies", 403);
    });
    scene.server.end_watches();
    scene.wait_until_live(false)?;
    let trouble = scene.cluster()?["trouble"].to_string();
    ensure!(trouble.contains("as the test wants it"), "{trouble}");
    scene.server.behave(|server| server.refuses.clear());
    scene.wait_until_live(true)?;
    ensure!(eventually(PATIENCE, || scene.wait_for_policies(&["second"]).is_ok()));
    Ok(())
}

/// Their definition is upgraded while the daemon runs: what was served in the former version is served in the next.
#[test]
fn cluster_policies_are_followed_from_one_version_of_their_definition_to_the_next() -> Result<()> {
    needs_root!();
    let scene = Scene::new()?;
    let policies = "clusternetworkpolicies.policy.networking.k8s.io";
    let policy = |version: &str, name: &str| {
        json!({
            "apiVersion": format!("policy.networking.k8s.io/{version}"), "kind": "ClusterNetworkPolicy",
            "metadata": {"name": name},
            "spec": {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}},
        })
    };
    scene.server.put(json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": policies},
    }));
    scene.server.serve(policies, true);
    scene.server.put(policy("v1alpha2", "old"));
    scene.node.start_daemon()?;
    scene.wait_for_policies(&["old"])?;
    scene.server.behave(|server| server.cluster_policies = "v1beta1");
    scene.server.put(policy("v1beta1", "old"));
    scene.server.end_watches();
    scene.server.put(policy("v1beta1", "new"));
    scene.wait_for_policies(&["new", "old"])?;
    scene.wait_until_live(true)
}
