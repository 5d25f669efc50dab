//! The conditions of one filter: one for each of its fields that has values.

use crate::proto::flow::Flow;

/// How many values a field may have.
const VALUES: usize = 1_024;

type Condition = Box<dyn Fn(&Flow) -> bool + Send + Sync>;

/// What a flow has to be like. A field without values asks for nothing.
#[derive(Default)]
pub struct Conditions(Vec<Condition>);

impl Conditions {
    /// Whether a flow is so.
    pub fn matches(&self, flow: &Flow) -> bool {
        self.0.iter().all(|condition| condition(flow))
    }

    /// Adds what has to match one of these values, read one by one.
    pub fn any<V, R: Send + Sync + 'static>(
        &mut self,
        values: &[V],
        read: impl Fn(&V) -> Result<R, String>,
        matches: impl Fn(&R, &Flow) -> bool + Send + Sync + 'static,
    ) -> Result<(), String> {
        if values.len() > VALUES {
            return Err(format!("a filter has {} values; {VALUES} is the most", values.len()));
        }
        if !values.is_empty() {
            let values = values.iter().map(read).collect::<Result<Vec<_>, _>>()?;
            self.0.push(Box::new(move |flow| values.iter().any(|value| matches(value, flow))));
        }
        Ok(())
    }

    /// Likewise, of values that need no reading.
    pub fn one_of<V: Clone + Send + Sync + 'static>(
        &mut self,
        values: &[V],
        matches: impl Fn(&V, &Flow) -> bool + Send + Sync + 'static,
    ) -> Result<(), String> {
        self.any(values, |value| Ok(value.clone()), matches)
    }
}
