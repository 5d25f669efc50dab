//! Names of the DNS in policies.

/// Whether one of the names is meant by one of the patterns: by the same name, whatever the size of its letters and with or without a dot
/// at the end; or, where the pattern begins with `*.`, as a name below.
pub fn any_is_meant<'a>(patterns: impl IntoIterator<Item = &'a String>, names: &[String]) -> bool {
    patterns.into_iter().any(|pattern| names.iter().any(|name| is_meant(pattern, name)))
}

fn is_meant(pattern: &str, name: &str) -> bool {
    let labels = |text: &str| {
        let text = text.to_lowercase();
        text.split('.').filter(|label| !label.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    };
    let (pattern, name) = (labels(pattern), labels(name));
    match pattern.split_first() {
        Some((first, rest)) if first == "*" => name.len() > rest.len() && name.ends_with(rest),
        _ => pattern == name,
    }
}
