//! LogLines in the daemon's log, for rules that log.

use std::time::{Duration, Instant};

use ipamd_api::policy::{Event, Party};

/// How many lines a second may have. The programs do not hold back what rules log, and a flood that a rule logs is one
/// line a packet.
const LINES: u32 = 100;

/// What may still be written.
#[derive(Debug)]
pub struct LogLines {
    second: Instant,
    left: u32,
    held_back: u64,
}

impl Default for LogLines {
    fn default() -> Self {
        Self { second: Instant::now(), left: LINES, held_back: 0 }
    }
}

impl LogLines {
    /// Whether one more line may be written now. Says how many were not, once that is over.
    pub fn admit(&mut self, now: Instant) -> bool {
        if now.duration_since(self.second) >= Duration::from_secs(1) {
            (self.second, self.left) = (now, LINES);
            let held_back = std::mem::take(&mut self.held_back);
            if held_back > 0 {
                tracing::warn!(held_back, "too many packets match rules that log; some were not logged");
            }
        }
        let admitted = self.left > 0;
        if admitted {
            self.left -= 1;
        } else {
            self.held_back += 1;
        }
        admitted
    }
}

/// Writes one.
pub fn write(event: &Event) {
    let side = |party: &Party| {
        let pod = party.pod.as_deref().unwrap_or_default();
        (party.address, party.port, pod.to_owned())
    };
    let (source, source_port, source_pod) = side(&event.source);
    let (destination, destination_port, destination_pod) = side(&event.destination);
    tracing::info!(
        protocol = event.protocol,
        %source,
        source_port,
        source_pod,
        %destination,
        destination_port,
        destination_pod,
        verdict = %event.verdict,
        rule = event.rule.as_ref().map(|rule| rule.text.as_str()).unwrap_or_default(),
        "a rule logs a packet"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_held_back_and_counted() {
        let mut lines = LogLines::default();
        let began = lines.second;
        assert_eq!((0..1_000).filter(|_| lines.admit(began)).count(), LINES as usize);
        assert_eq!(lines.held_back, 1_000 - u64::from(LINES));
        assert!(lines.admit(began + Duration::from_secs(1)));
        assert_eq!(lines.held_back, 0);
    }
}
