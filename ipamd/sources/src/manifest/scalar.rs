//! The value of a plain scalar: YAML's core schema, as far as JSON can express it.

use serde_json::Number;

use super::tree::Tree;

/// Reads a scalar without quotes and without a tag.
pub(super) fn plain(word: &str) -> Tree {
    match word {
        "" | "~" | "null" | "Null" | "NULL" => Tree::Null,
        "true" | "True" | "TRUE" => Tree::Bool(true),
        "false" | "False" | "FALSE" => Tree::Bool(false),
        _ => number(word).map_or_else(|| Tree::Text(word.into()), Tree::Number),
    }
}

/// A number; `None` of what is none, and of infinities, which JSON does not know.
fn number(word: &str) -> Option<Number> {
    if let Some(digits) = word.strip_prefix("0x") {
        return radix(digits, 16);
    }
    if let Some(digits) = word.strip_prefix("0o") {
        return radix(digits, 8);
    }
    let unsigned = word.strip_prefix(['+', '-']).unwrap_or(word);
    if all(unsigned, |c| c.is_ascii_digit()) {
        let word = word.strip_prefix('+').unwrap_or(word);
        return word
            .parse::<i64>()
            .map(Number::from)
            .or_else(|_| word.parse::<u64>().map(Number::from))
            .ok()
            .or_else(|| Number::from_f64(word.parse().ok()?));
    }
    is_float(unsigned).then(|| Number::from_f64(word.parse().ok()?))?
}

/// A whole number in another base.
fn radix(digits: &str, base: u32) -> Option<Number> {
    all(digits, |c| c.is_digit(base)).then(|| u64::from_str_radix(digits, base).ok().map(Number::from))?
}

/// Whether it reads `[digits][.digits][e[sign]digits]` with a digit before the exponent.
fn is_float(word: &str) -> bool {
    let (mantissa, exponent) = match word.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))),
        None => (word, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    !(whole.is_empty() && fraction.is_empty())
        && (whole.chars().chain(fraction.chars())).all(|c| c.is_ascii_digit())
        && exponent.is_none_or(|it| all(it, |c| c.is_ascii_digit()))
}

/// Whether there is something and all of it is of a sort.
fn all(text: &str, sort: impl Fn(char) -> bool) -> bool {
    !text.is_empty() && text.chars().all(sort)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_words_have_the_types_of_the_core_schema() {
        let float = |it| Tree::Number(Number::from_f64(it).unwrap());
        for (word, tree) in [
            ("", Tree::Null),
            ("~", Tree::Null),
            ("null", Tree::Null),
            ("true", Tree::Bool(true)),
            ("False", Tree::Bool(false)),
            ("80", Tree::Number(80.into())),
            ("-1", Tree::Number((-1).into())),
            ("+7", Tree::Number(7.into())),
            ("18446744073709551615", Tree::Number(u64::MAX.into())),
            ("99999999999999999999", float(1e20)),
            ("0x1F", Tree::Number(31.into())),
            ("0o17", Tree::Number(15.into())),
            ("1.10", float(1.1)),
            (".5", float(0.5)),
            ("1e3", float(1000.0)),
            ("2.", float(2.0)),
        ] {
            assert_eq!(plain(word), tree, "{word}");
        }
        for word in [
            "yes",
            "on",
            "tRUE",
            "0x",
            "0xg",
            "0o8",
            "1.2.3",
            "10.0.0.0/8",
            ".",
            "+",
            "-",
            "e3",
            "1e",
            ".inf",
            "1_000",
            "0x-1",
        ] {
            assert_eq!(plain(word), Tree::Text(word.into()), "{word}");
        }
    }
}
