use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use super::{
    watched::{NEVER, Watched},
    *,
};

pub(super) fn wide(name: &str) -> String {
    let ports = (0..300).map(|n| format!("{{ port: {} }}", 1000 + 2 * n)).collect::<Vec<_>>().join(", ");
    guard(name, "80").replace("{ port: 80 }", &ports)
}

#[test]
fn what_does_not_fit_is_left_out_as_a_whole_and_the_rest_is_taken() {
    let bench = Bench::started(ROOM, &[local(1, "guarded")], &(guard("g", "80") + &remote(1, "friend")));
    let both = wide("wide") + &guard("h", "81");
    bench.apply(&both);
    assert!(bench.passes("n/r1", "n/p1", 80));
    assert!(bench.passes("n/r1", "n/p1", 81));
    assert!(!bench.passes("n/r1", "n/p1", 1000));
    let (policies, refused) = bench.enforcer.policies();
    assert_eq!((policies.len(), refused.len()), (2, 1));
    assert!(refused[0].reason.starts_with("it needs "), "{refused:?}");
    assert!(
        refused[0]
            .reason
            .ends_with(" entries in one policy map (--policy-entries), and there is room for 200")
    );
    assert!(bench.enforcer.problems()[0].starts_with("NetworkPolicy n/wide is not enforced: it needs "));
    // What is there already stays as it is when its next version does not fit.
    bench.apply(&wide("g"));
    assert!(bench.passes("n/r1", "n/p1", 80));
    assert!(!bench.passes("n/r1", "n/p1", 1000));
    // And a version that fits takes its place.
    bench.apply(&guard("g", "82"));
    assert!(bench.passes("n/r1", "n/p1", 82));
    assert!(!bench.passes("n/r1", "n/p1", 80));
    bench.remove(Kind::NetworkPolicy, "wide");
    assert!(bench.enforcer.problems().is_empty());
}

#[test]
fn at_start_what_does_not_fit_is_left_out_too() {
    let cluster = wide("wide") + &guard("g", "80") + &remote(1, "friend");
    let bench = Bench::started(ROOM, &[local(1, "guarded")], &cluster);
    assert!(bench.passes("n/r1", "n/p1", 80));
    assert!(!bench.passes("n/r1", "n/p1", 1000));
    assert_eq!(bench.enforcer.counts().unfit, 1);
}

#[test]
fn what_did_not_fit_is_tried_again_once_there_is_room() {
    let few = Limits { addresses: 3, ..ROOM };
    let bench = Bench::started(few, &[local(1, "guarded")], &guard("g", "80"));
    // The node's own address is one of them.
    for last in 1..=3 {
        bench.apply(&remote(last, "friend"));
    }
    assert!(bench.passes("10.0.1.2", "n/p1", 80));
    assert!(!bench.passes("10.0.1.3", "n/p1", 80));
    assert_eq!(bench.enforcer.counts().unfit, 1);
    bench.enforcer.retry();
    assert_eq!(bench.enforcer.counts().unfit, 1);
    bench.remove(Kind::Pod, "r1");
    bench.enforcer.retry();
    assert!(bench.passes("10.0.1.3", "n/p1", 80));
    assert!(bench.enforcer.problems().is_empty());
}

#[test]
fn a_removal_that_makes_others_too_large_is_not_forgotten() {
    let block = "---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: { name: block }\n\
                 spec: { order: 1, selector: app == 'guarded', ingress: [ { action: Deny } ] }\n";
    let bench = Bench::started(ROOM, &[local(1, "guarded")], &remote(1, "friend"));
    bench.apply(block);
    // Nothing of it can be seen, so that it takes no room.
    bench.apply(&wide("wide"));
    assert!(bench.enforcer.problems().is_empty(), "{:?}", bench.enforcer.problems());
    for together in [false, true] {
        let gone = ObjectId::global(Kind::GlobalNetworkPolicy, "block");
        let mut changes = vec![Change::Remove(gone)];
        if together {
            changes.extend(puts(&remote(2, "stranger")));
        }
        bench.enforcer.apply(Batch { changes, refusals: None });
        assert!(!bench.passes("n/r1", "n/p1", 1000));
        let problems = bench.enforcer.problems();
        assert!(
            problems[0].starts_with(
                "GlobalNetworkPolicy block is enforced as it was: it is gone, and what is left does not fit: it needs "
            ),
            "{problems:?}"
        );
        bench.enforcer.retry();
        assert_eq!(bench.enforcer.counts().unfit, 1);
    }
    assert!(bench.enforcer.policies().1[0].in_force);
    bench.remove(Kind::NetworkPolicy, "wide");
    bench.apply(&guard("g", "80"));
    assert!(!bench.passes("n/r1", "n/p1", 80));
    bench.enforcer.retry();
    assert!(bench.passes("n/r1", "n/p1", 80));
    assert!(bench.enforcer.problems().is_empty(), "{:?}", bench.enforcer.problems());
}

#[test]
fn rules_that_are_not_in_use_make_room_for_others() {
    let few = Limits { rules: 8, ..ROOM };
    let bench = Bench::started(few, &[local(1, "guarded")], &remote(1, "friend"));
    for round in 0..50 {
        bench.apply(&guard(&format!("g{round}"), "80"));
        assert!(bench.enforcer.problems().is_empty(), "{round}: {:?}", bench.enforcer.problems());
        assert!(bench.passes("n/r1", "n/p1", 80));
        bench.remove(Kind::NetworkPolicy, &format!("g{round}"));
    }
    let many = (0..8).map(|n| guard(&format!("g{n}"), "80")).collect::<String>();
    bench.apply(&many);
    assert!(bench.enforcer.counts().unfit > 0);
    for n in 0..8 {
        bench.remove(Kind::NetworkPolicy, &format!("g{n}"));
    }
    bench.apply(&guard("g", "80"));
    assert!(bench.enforcer.problems().is_empty(), "{:?}", bench.enforcer.problems());
}

#[test]
fn endpoints_beyond_the_slots_are_refused() {
    let few = Limits { slots: 1, ..ROOM };
    let bench = Bench::started(few, &[local(1, "a")], "");
    let error = bench.enforcer.admit(local(2, "a")).unwrap_err();
    assert_eq!(error.to_string(), "there are 1 endpoints, and there is no room for more");
    bench.enforcer.dismiss(&local(1, "a").key);
    bench.enforcer.admit(local(2, "a")).unwrap();
}

#[test]
fn an_endpoint_whose_rules_do_not_fit_is_refused_and_leaves_nothing() {
    let bench = Bench::started(ROOM, &[], &(wide("wide") + &remote(1, "friend")));
    let error = bench.enforcer.admit(local(1, "guarded")).unwrap_err();
    assert!(error.to_string().starts_with("its policy does not fit: it needs "), "{error}");
    assert!(bench.tables.postures().is_empty() && bench.tables.maps().is_empty());
    bench.enforcer.admit(local(2, "free")).unwrap();
}

#[test]
fn an_endpoint_that_was_not_waited_for_is_told_of_and_tried_again() {
    let bench = Bench::started(ROOM, &[], &(wide("wide") + &remote(1, "friend")));
    let admission = bench.enforcer.queue(local(1, "guarded")).unwrap();
    // Its ADD goes on.
    let slot = admission.go_on().unwrap();
    bench.enforcer.take();
    let problems = bench.enforcer.problems();
    assert!(
        problems[0].starts_with("test/container-1/eth0 is cut off: its policy does not fit: it needs "),
        "{problems:?}"
    );
    assert!(bench.tables.postures().is_empty());
    bench.remove(Kind::NetworkPolicy, "wide");
    bench.enforcer.retry();
    assert!(bench.enforcer.problems().is_empty(), "{:?}", bench.enforcer.problems());
    assert!(bench.tables.postures().contains_key(&slot));
    bench.enforcer.dismiss(&local(1, "guarded").key);
    assert_eq!(bench.enforcer.admit(local(2, "guarded")).unwrap(), Slot(2));
    assert_eq!(bench.enforcer.admit(local(1, "guarded")).unwrap(), Slot(3), "a place rests");
}

#[test]
fn who_goes_on_hears_what_has_just_come_of_it() {
    let bench = Bench::started(ROOM, &[], &(wide("wide") + &remote(1, "friend")));
    let admission = bench.enforcer.queue(local(1, "guarded")).unwrap();
    bench.enforcer.take();
    let error = admission.go_on().unwrap_err();
    assert!(error.to_string().starts_with("its policy does not fit: it needs "), "{error}");
    // So nobody is served with a place that is free again.
    assert!(bench.enforcer.problems().is_empty(), "{:?}", bench.enforcer.problems());
}

#[test]
fn one_that_comes_again_is_not_judged_as_the_one_before() {
    let bench = Bench::started(ROOM, &[local(1, "free")], &guard("g", "80"));
    let before = *bench.tables.postures().keys().next().unwrap();
    bench.enforcer.dismiss_later(&local(1, "free").key);
    let slot = bench.enforcer.queue(local(1, "guarded")).unwrap().go_on().unwrap();
    assert!(!bench.tables.postures().contains_key(&slot), "nothing passes before its own policy is there");
    bench.enforcer.take();
    let postures = bench.tables.postures();
    assert!(postures[&slot].ingress && !postures.contains_key(&before), "{postures:?}");
    // Nor if nobody has said that the one before went.
    let again = bench.enforcer.queue(local(1, "free")).unwrap().go_on().unwrap();
    assert!(!bench.tables.postures().contains_key(&again));
    bench.enforcer.take();
    let postures = bench.tables.postures();
    assert!(!postures[&again].ingress && !postures.contains_key(&slot), "{postures:?}");
}

#[test]
fn others_have_the_state_while_it_is_searched_what_fits() {
    let tables = Memory::new(ROOM);
    let watched = Watched::new(&tables);
    let look = Arc::clone(&watched.look);
    let enforcer = Arc::new(Enforcer::new(Box::new(watched)));
    let cluster = guard("g", "80") + &remote(1, "friend");
    enforcer.start([(local(1, "guarded"), None)], BTreeSet::new(), batch(&cluster)).unwrap();
    let (ended, asked) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Option<JoinHandle<bool>>>>::default());
    let admission = enforcer.queue(local(2, "guarded")).unwrap();
    *look.lock().unwrap() = Some(Box::new({
        let (enforcer, ended, asked) = (Arc::clone(&enforcer), Arc::clone(&ended), Arc::clone(&asked));
        move |_: &Memory| {
            let mut asked = asked.lock().unwrap();
            if asked.is_some() {
                return;
            }
            // Within a turn somebody asks, who has the state before the next one.
            let (asking, ended) = (Arc::clone(&enforcer), Arc::clone(&ended));
            *asked = Some(std::thread::spawn(move || {
                asking.policies();
                ended.load(Ordering::Relaxed)
            }));
            while !enforcer.state.is_awaited() {
                std::thread::yield_now();
            }
        }
    }));
    let search = ["a", "b", "c", "d"].map(wide).concat() + &guard("h", "81");
    enforcer.apply(batch(&search));
    ended.store(true, Ordering::Relaxed);
    let answered_late = asked.lock().unwrap().take().expect("something was written").join().unwrap();
    assert!(!answered_late, "who asked waited for the whole search");
    *look.lock().unwrap() = None;
    // Who came meanwhile was taken in by one of the turns.
    assert!(tables.postures().contains_key(&admission.go_on().unwrap()));
    assert_eq!((enforcer.counts().policies, enforcer.counts().unfit), (2, 4));
}

#[test]
fn a_search_that_fails_at_any_write_forgets_none_of_the_changes() {
    let cluster = guard("g", "80") + &guard("gone", "82") + &remote(1, "friend");
    let mut failed = 0;
    for (after, half_done) in (0..60).flat_map(|after| [(after, false), (after, true)]) {
        let tables = Memory::new(ROOM);
        let watched = Watched { half_done, ..Watched::new(&tables) };
        let fails_after = Arc::clone(&watched.fails_after);
        let bench = Bench { tables, enforcer: Enforcer::new(Box::new(watched)) };
        bench.start(&[local(1, "guarded")], &cluster);
        let mut changes = puts(&(guard("h", "81") + &wide("wide") + &guard("i", "83")));
        changes.push(Change::Remove(ObjectId::namespaced(Kind::NetworkPolicy, "n", "gone")));
        fails_after.store(after, Ordering::Relaxed);
        bench.enforcer.apply(Batch { changes, refusals: None });
        fails_after.store(NEVER, Ordering::Relaxed);
        failed += usize::from(bench.enforcer.problems().len() > 1);
        bench.enforcer.retry();
        let passes = [80, 81, 82, 83, 1000].map(|port| bench.passes("n/r1", "n/p1", port));
        assert_eq!(passes, [true, true, false, true, false], "after {after} writes, half done: {half_done}");
        assert_eq!(bench.enforcer.problems().len(), 1, "{:?}", bench.enforcer.problems());
    }
    assert!(failed > 5, "{failed}");
}

/// A new set of policies that do not all fit is made in pieces. If that fails, what was not tried yet is not gone.
#[test]
fn a_rebuild_in_pieces_that_fails_at_any_write_opens_nothing() {
    let cluster = guard("g", "80") + &guard("h", "81") + &remote(1, "friend");
    let mut failed = 0;
    for (after, half_done) in (0..60).flat_map(|after| [(after, false), (after, true)]) {
        let tables = Memory::new(ROOM);
        let watched = Watched { half_done, ..Watched::new(&tables) };
        let fails_after = Arc::clone(&watched.fails_after);
        let bench = Bench { tables, enforcer: Enforcer::new(Box::new(watched)) };
        bench.start(&[local(1, "guarded")], &cluster);
        // After a write that failed everything is made anew.
        fails_after.store(0, Ordering::Relaxed);
        bench.apply(&guard("i", "82"));
        assert!(bench.enforcer.lock().failure.is_some());
        fails_after.store(after, Ordering::Relaxed);
        bench.apply(&wide("wide"));
        fails_after.store(NEVER, Ordering::Relaxed);
        failed += usize::from(bench.enforcer.lock().failure.is_some());
        bench.enforcer.retry();
        bench.enforcer.admit(local(2, "guarded")).unwrap();
        for pod in ["n/p1", "n/p2"] {
            let passes = [80, 81, 82, 83, 1000].map(|port| bench.passes("n/r1", pod, port));
            assert_eq!(
                passes,
                [true, true, true, false, false],
                "after {after} writes, half done: {half_done}"
            );
        }
        assert_eq!(bench.enforcer.problems().len(), 1, "{:?}", bench.enforcer.problems());
    }
    assert!(failed > 5, "{failed}");
}
