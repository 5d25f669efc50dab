//! An error and its causes as one line.

/// The error's sentence, and behind it those of its causes that it does not contain already.
pub fn sentence(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn nothing_is_said_twice() {
        let error = anyhow!("no such file").context("cannot read f: no such file").context("cannot start");
        assert_eq!(sentence(&error), "cannot start: cannot read f: no such file");
    }
}
