//! Whether kube-proxy's rules are there, which would translate services a second time.

use super::finding::Finding;
use crate::kube_proxy::{self, Leftovers};

/// What removes them.
const CLEANUP: &str = "cambricctl preflight --cleanup-kube-proxy";

pub(super) fn check() -> Finding {
    match kube_proxy::look() {
        // Nobody looks for the process on a machine without the rules.
        Ok(found) if found.is_empty() => judge(&found, None),
        Ok(found) => judge(&found, kube_proxy::process()),
        Err(error) => Finding::warning("kube-proxy", format!("its rules cannot be looked for: {error}"), ""),
    }
}

fn judge(found: &Leftovers, running: Option<u32>) -> Finding {
    if found.is_empty() {
        return Finding::ok("kube-proxy", "none of its rules are here");
    }
    let stop = running.map_or_else(
        || "once kube-proxy is stopped".to_owned(),
        |process| format!("stop kube-proxy (process {process}), then"),
    );
    Finding::warning("kube-proxy", format!("it has left {found}"), format!("{stop}: {CLEANUP}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::finding::Outcome;

    #[test]
    fn what_is_left_is_named_with_what_to_do() {
        assert_eq!(judge(&Leftovers::default(), Some(1)).outcome, Outcome::Ok);
        let found = Leftovers { tables: vec![true], ..Leftovers::default() };
        assert_eq!(
            judge(&found, None).to_string(),
            "kube-proxy: it has left the nftables table ip6 kube-proxy; once kube-proxy is stopped: cambricctl preflight \
             --cleanup-kube-proxy"
        );
        let running = judge(&found, Some(7));
        assert_eq!(running.outcome, Outcome::Warning);
        assert!(running.remedy.starts_with("stop kube-proxy (process 7), then: "), "{running}");
    }
}
