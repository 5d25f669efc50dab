//! Which of the flows in the ring a request is answered with.

use prost_types::Timestamp;

use crate::{
    filter::Filters,
    proto::observer::GetFlowsRequest,
    ring::{Entry, micros},
};

/// What a request asks for, beside its filters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// How many; `None`: all.
    pub number: Option<usize>,
    /// The first of them instead of the last.
    pub first: bool,
    /// And those that come.
    pub follow: bool,
    /// None that are older, in microseconds since the Unix epoch.
    pub since: Option<u64>,
    /// None that are younger.
    pub until: Option<u64>,
}

impl Query {
    /// Reads it.
    ///
    /// # Errors
    /// What of it does not go together.
    pub fn read(request: &GetFlowsRequest) -> Result<Self, String> {
        let GetFlowsRequest { first, follow, .. } = *request;
        if first && follow {
            return Err("first and follow do not go together: what comes has no first".into());
        }
        let number = usize::try_from(request.number).unwrap_or(usize::MAX);
        Ok(Self {
            number: (number > 0).then_some(number),
            first,
            follow,
            since: request.since.as_ref().map(since_epoch),
            until: request.until.as_ref().map(since_epoch),
        })
    }

    /// Whether a time is within what is asked for.
    pub fn spans(&self, time: u64) -> bool {
        self.since.is_none_or(|since| since <= time) && self.until.is_none_or(|until| time <= until)
    }

    /// Of what is in the ring, what is answered: the places, in order.
    pub fn past(&self, entries: &[Entry], filters: &Filters) -> Vec<usize> {
        let is_of_now_only = self.follow && self.number.is_none() && self.since.is_none();
        if is_of_now_only {
            return Vec::new();
        }
        let number = self.number.unwrap_or(usize::MAX);
        let wanted = |entry: &(usize, &Entry)| match entry.1 {
            Entry::Flow(flow) => self.spans(micros(flow)) && filters.admits(flow),
            Entry::Lost { time, .. } => self.spans(*time),
        };
        // Losses count for nothing: they are told where they lie between flows that are.
        let mut flows = 0;
        let taken = |entry: &(usize, &Entry)| {
            flows += usize::from(matches!(entry.1, Entry::Flow(_)));
            flows <= number
        };
        let all = entries.iter().enumerate();
        let mut past: Vec<(usize, &Entry)> = if self.first {
            all.filter(wanted).take_while(taken).collect()
        } else {
            all.rev().filter(wanted).take_while(taken).collect()
        };
        // Those beyond the last flow are of flows that are not asked for.
        while self.number.is_some()
            && past.last().is_some_and(|(_, entry)| matches!(entry, Entry::Lost { .. }))
        {
            past.pop();
        }
        if !self.first {
            past.reverse();
        }
        past.into_iter().map(|(place, _)| place).collect()
    }
}

fn since_epoch(time: &Timestamp) -> u64 {
    let seconds = u64::try_from(time.seconds).unwrap_or_default();
    let micros = u64::try_from(time.nanos / 1_000).unwrap_or_default();
    seconds.saturating_mul(1_000_000).saturating_add(micros)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        flow::timestamp,
        proto::flow::{Flow, FlowFilter},
    };

    fn ring() -> Vec<Entry> {
        let flow = |time: u64| {
            let uuid = if time.is_multiple_of(2) { "even" } else { "odd" }.to_owned();
            Entry::Flow(Arc::new(Flow { time: Some(timestamp(time)), uuid, ..Flow::default() }))
        };
        vec![
            Entry::Lost { events: 1, time: 0 },
            flow(1),
            flow(2),
            Entry::Lost { events: 1, time: 2 },
            flow(3),
            flow(4),
            Entry::Lost { events: 1, time: 5 },
        ]
    }

    fn times(query: Query, filters: &Filters) -> Vec<i64> {
        let ring = ring();
        query
            .past(&ring, filters)
            .into_iter()
            .map(|place| match &ring[place] {
                Entry::Flow(flow) => i64::try_from(micros(flow)).unwrap(),
                Entry::Lost { .. } => -1,
            })
            .collect()
    }

    #[test]
    fn the_first_and_the_last_are_of_those_that_match() {
        let all = Filters::read(&[], &[]).unwrap();
        let even = FlowFilter { uuid: vec!["even".into()], ..FlowFilter::default() };
        let even = Filters::read(&[even], &[]).unwrap();
        let query = Query::default();
        let (two, one) = (Some(2), Some(1));
        for (query, filters, expected) in [
            (query, &all, vec![-1, 1, 2, -1, 3, 4, -1]),
            (Query { number: two, ..query }, &all, vec![3, 4, -1]),
            (Query { number: two, first: true, ..query }, &all, vec![-1, 1, 2]),
            (Query { number: one, ..query }, &even, vec![4, -1]),
            (Query { number: two, ..query }, &even, vec![2, -1, 4, -1]),
            (Query { number: one, first: true, ..query }, &even, vec![-1, 2]),
            (Query { since: Some(3), ..query }, &all, vec![3, 4, -1]),
            (Query { until: Some(1), ..query }, &all, vec![-1, 1]),
            (Query { since: Some(2), until: Some(3), ..query }, &all, vec![2, -1, 3]),
            (Query { follow: true, ..query }, &all, vec![]),
            (Query { follow: true, number: one, ..query }, &all, vec![4, -1]),
            (Query { follow: true, since: Some(4), ..query }, &all, vec![4, -1]),
        ] {
            assert_eq!(times(query, filters), expected, "{query:?}");
        }
    }

    #[test]
    fn a_request_is_read_or_refused() {
        let request = GetFlowsRequest { number: 5, since: Some(timestamp(2_000_001)), ..Default::default() };
        let expected = Query { number: Some(5), since: Some(2_000_001), ..Query::default() };
        assert_eq!(Query::read(&request), Ok(expected));
        let both = GetFlowsRequest { first: true, follow: true, ..request };
        assert!(Query::read(&both).is_err());
    }
}
