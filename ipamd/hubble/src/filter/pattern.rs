//! Patterns of names: `*` stands for any characters, `?` for one.

/// How long a pattern may be: matching takes as many steps as pattern and name have characters together, multiplied.
const LONGEST: usize = 256;

/// A pattern. Names are compared without regard to case.
#[derive(Debug)]
pub struct Pattern(Vec<char>);

impl Pattern {
    /// Reads one, of that field.
    pub fn new(text: &str, field: &str) -> Result<Self, String> {
        if text.len() > LONGEST {
            return Err(format!("{field}: a pattern has at most {LONGEST} characters"));
        }
        Ok(Self(text.to_lowercase().chars().collect()))
    }

    /// Whether it matches the whole name.
    pub fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.to_lowercase().chars().collect();
        let (mut at, mut place) = (0, 0);
        // The last star, and where in the name what follows it is tried.
        let mut star: Option<(usize, usize)> = None;
        while let Some(character) = name.get(place) {
            match self.0.get(at) {
                Some('*') => {
                    star = Some((at, place));
                    at += 1;
                    continue;
                }
                Some(wanted) if *wanted == '?' || wanted == character => {
                    (at, place) = (at + 1, place + 1);
                    continue;
                }
                _ => {}
            }
            let Some((star_at, tried)) = star else { return false };
            star = Some((star_at, tried + 1));
            (at, place) = (star_at + 1, tried + 1);
        }
        self.0.get(at..).is_some_and(|rest| rest.iter().all(|it| *it == '*'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_number_of_characters() {
        for (pattern, name, expected) in [
            ("node-1", "node-1", true),
            ("node-1", "NODE-1", true),
            ("node-1", "node-10", false),
            ("node-*", "node-10", true),
            ("*.example.com", "a.b.example.com", true),
            ("*.example.com", "example.com", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("n?de", "node", true),
            ("n?de", "nde", false),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(Pattern::new(pattern, "f").unwrap().matches(name), expected, "{pattern} {name}");
        }
        assert!(Pattern::new(&"*".repeat(300), "f").is_err());
    }
}
