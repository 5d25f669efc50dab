//! Selectors of labels, in the language of `kubectl -l`. A key may begin with the source of the label and a colon: `k8s:app=web`,
//! `reserved:world`. Without one it means labels of any source.

/// How many requirements one selector may have.
const REQUIREMENTS: usize = 64;

/// What labels must be like.
#[derive(Debug, PartialEq, Eq)]
pub struct LabelSelector(Vec<Requirement>);

#[derive(Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
}

#[derive(Debug, PartialEq, Eq)]
enum Operator {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
}

impl Requirement {
    /// The value of its key. Labels are SOURCE:KEY=VALUE.
    fn value<'a>(&self, labels: &'a [String]) -> Option<&'a str> {
        labels.iter().find_map(|label| {
            let (full, value) = label.split_once('=').unwrap_or((label, ""));
            let key = full.split_once(':').map_or(full, |(_, key)| key);
            (self.key == full || self.key == key).then_some(value)
        })
    }

    fn matches(&self, labels: &[String]) -> bool {
        let value = self.value(labels);
        let is_one_of = |values: &[String]| value.is_some_and(|value| values.iter().any(|it| it == value));
        match &self.operator {
            Operator::In(values) => is_one_of(values),
            Operator::NotIn(values) => !is_one_of(values),
            Operator::Exists => value.is_some(),
            Operator::Absent => value.is_none(),
        }
    }
}

impl LabelSelector {
    /// Reads one.
    pub fn read(text: &str) -> Result<Self, String> {
        let requirements = split(text).into_iter().map(str::trim).filter(|it| !it.is_empty());
        let read = requirements.map(requirement).collect::<Option<Vec<_>>>();
        match read {
            Some(requirements) if requirements.len() <= REQUIREMENTS => Ok(Self(requirements)),
            Some(_) => Err(format!("label: a selector has at most {REQUIREMENTS} requirements")),
            None => Err(format!("label: {text:?} is no selector (app=web,tier!=db,!canary,zone in (a,b))")),
        }
    }

    /// Whether the labels are so.
    pub fn matches(&self, labels: &[String]) -> bool {
        self.0.iter().all(|requirement| requirement.matches(labels))
    }
}

/// The parts between commas that are in no parentheses.
fn split(text: &str) -> Vec<&str> {
    let mut depth = 0_u32;
    text.split(|character| {
        match character {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        character == ',' && depth == 0
    })
    .collect()
}

fn requirement(text: &str) -> Option<Requirement> {
    let of = |key: &str, operator| {
        let key = key.trim();
        is_key(key).then(|| Requirement { key: key.to_owned(), operator })
    };
    let one = |value: &str| {
        let value = value.trim();
        is_value(value).then(|| vec![value.to_owned()])
    };
    if let Some(key) = text.strip_prefix('!') {
        return of(key, Operator::Absent);
    }
    if let Some((key, value)) = text.split_once("!=") {
        return of(key, Operator::NotIn(one(value)?));
    }
    if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return of(key, Operator::In(one(value)?));
    }
    let Some((words, values)) = text.split_once('(') else { return of(text, Operator::Exists) };
    let values = values.trim_end().strip_suffix(')')?.split(',');
    let values = values.map(|it| one(it)?.pop()).collect::<Option<Vec<_>>>()?;
    let mut words = words.split_whitespace();
    let (key, operator, None) = (words.next()?, words.next()?, words.next()) else { return None };
    match operator {
        "in" => of(key, Operator::In(values)),
        "notin" => of(key, Operator::NotIn(values)),
        _ => None,
    }
}

fn is_key(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|it| it.is_ascii_alphanumeric() || "-_./:".contains(it))
}

fn is_value(text: &str) -> bool {
    text.chars().all(|it| it.is_ascii_alphanumeric() || "-_.:/".contains(it))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_those_of_kubectl() {
        let labels = ["k8s:app=web", "k8s:tier=front", "k8s:example.com/zone=a", "reserved:world"];
        let labels = labels.map(str::to_owned);
        for (selector, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web", true),
            ("k8s:app=web", true),
            ("other:app=web", false),
            ("app=db", false),
            ("app!=db", true),
            ("app!=web", false),
            ("missing!=x", true),
            ("app", true),
            ("!app", false),
            ("!canary", true),
            ("app in (db, web)", true),
            ("app in (db)", false),
            ("app notin (db,cache)", true),
            ("app=web,tier=front", true),
            ("app=web,tier=back", false),
            ("example.com/zone=a", true),
            ("reserved:world", true),
            ("world", true),
            ("app in (web,db),tier notin (back)", true),
        ] {
            assert_eq!(LabelSelector::read(selector).unwrap().matches(&labels), expected, "{selector}");
        }
        for wrong in [
            "=web",
            "app in web",
            "app within (web)",
            "a b",
            "app in (web",
            "app=we b",
            "x y in (z)",
            "app=(a)",
        ] {
            assert!(LabelSelector::read(wrong).is_err(), "{wrong}");
        }
    }
}
