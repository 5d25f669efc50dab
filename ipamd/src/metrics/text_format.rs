//! Prometheus' older text format (0.0.4), made from OpenMetrics: there a family has the name that its samples have, there are no
//! units apart from names, and no end is marked.

use std::fmt::Write as _;

/// The same metrics in the older format.
pub(super) fn of(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    // A family's help comes before its type, on which its name depends.
    let mut help = None;
    for line in open_metrics.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(name), Some(said)) => help = Some((name, said)),
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                let (ending, kind) = match kind {
                    "counter" => ("_total", kind),
                    "info" => ("_info", "gauge"),
                    "unknown" => ("", "untyped"),
                    _ => ("", kind),
                };
                // Writing to a String does not fail.
                if let Some((_, said)) = help.take().filter(|(of, _)| *of == name) {
                    // The crate that writes OpenMetrics adds a full stop.
                    let _ = writeln!(text, "# HELP {name}{ending} {}", said.trim_end_matches('.'));
                }
                let _ = writeln!(text, "# TYPE {name}{ending} {kind}");
            }
            (Some("#"), ..) => {}
            _ => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_have_the_names_of_their_samples() {
        let open_metrics = "\
# HELP cambric_build Version of the daemon.
# TYPE cambric_build info
cambric_build_info{version=\"0.1.0\"} 1
# HELP cambric_drops Packets dropped.
# TYPE cambric_drops counter
cambric_drops_total{reason=\"hops\"} 3
# HELP cambric_requests_seconds Time.
# TYPE cambric_requests_seconds histogram
# UNIT cambric_requests_seconds seconds
cambric_requests_seconds_sum 1.5
cambric_requests_seconds_count 1
# EOF
";
        let text = "\
# HELP cambric_build_info Version of the daemon
# TYPE cambric_build_info gauge
cambric_build_info{version=\"0.1.0\"} 1
# HELP cambric_drops_total Packets dropped
# TYPE cambric_drops_total counter
cambric_drops_total{reason=\"hops\"} 3
# HELP cambric_requests_seconds Time
# TYPE cambric_requests_seconds histogram
cambric_requests_seconds_sum 1.5
cambric_requests_seconds_count 1
";
        assert_eq!(of(open_metrics), text);
    }
}
