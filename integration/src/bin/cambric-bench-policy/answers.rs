//! What the daemon's answers are waited for while it puts very many policies in force, and while it searches what of too many fits.

use anyhow::Result;
use integration::bench::answers::{Answers, Work};

/// Pods of the node before the policies come.
const PODS: usize = 12;

/// Prints how long each question is waited for.
pub fn measure() -> Result<()> {
    for (name, work) in [
        ("10,000 policies come into force", Work::Rebuild(10_000)),
        ("it is searched what of 20,000 policies fits", Work::Search(20_000)),
    ] {
        let node = work.node()?;
        for number in 0..PODS {
            node.add_pod_of(&format!("shop/p{number}"), &[("app", work.app())])?;
        }
        let (mut answers, _) = Answers::during(work, &node, 0)?;
        // The end, in the midst of it: what was there has begun to go.
        node.remove_manifest("many.yaml")?;
        while work.is_done(&node) {}
        answers.time("SIGTERM", || node.stop_daemon())?;
        println!("| while {name}, {:.1} s | asked | ms, p50 | p99 | max |", answers.work.as_secs_f64());
        println!("| --- | ---: | ---: | ---: | ---: |");
        println!("{answers}");
        println!(
            "A change has had policy for {:.1} ms without a break, at the longest.\n",
            answers.longest_hold.as_secs_f64() * 1e3
        );
    }
    Ok(())
}
