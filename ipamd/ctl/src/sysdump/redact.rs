//! Leaves secrets out of a text, line by line, before anything is cut off it: where a value stands behind a name of a secret,
//! keys in PEM, bearer tokens, JSON web tokens, and who logs in by a URL. In doubt it leaves out.

use std::borrow::Cow;

/// What stands where something was.
pub(super) const LEFT_OUT: &str = "[left out]";

/// Names with one of these in them, in small letters and without `-`, `_` and `.`, are names of secrets.
const NAMES: [&str; 11] = [
    "token",
    "password",
    "passwd",
    "passphrase",
    "secret",
    "credential",
    "privatekey",
    "clientkeydata",
    "clientcertificatedata",
    "authorization",
    "apikey",
];

/// Until which line everything is left out.
#[derive(Debug, Default)]
enum Within {
    /// Nothing is.
    #[default]
    Nothing,
    /// The end of a key in PEM.
    Pem,
    /// The end of a text between these quotes.
    Quotes(&'static str),
    /// The first line that is not indented by more than so many characters.
    Deeper(usize),
}

/// Leaves secrets out of a text whose lines come one after the other.
#[derive(Debug, Default)]
pub(super) struct Redactor {
    within: Within,
}

impl Redactor {
    /// The line without its secrets; `None`: nothing is left of it. It has no line end.
    pub fn line<'t>(&mut self, line: &'t str) -> Option<Cow<'t, str>> {
        match self.within {
            Within::Pem => {
                if line.contains("-----END") {
                    self.within = Within::Nothing;
                }
                return None;
            }
            Within::Quotes(quotes) => {
                if line.contains(quotes) {
                    self.within = Within::Nothing;
                }
                return None;
            }
            Within::Deeper(than) if line.trim().is_empty() || indentation(line) > than => return None,
            Within::Deeper(_) | Within::Nothing => self.within = Within::Nothing,
        }
        let line = self.without_keys(line.into());
        let line = self.without_named(line);
        Some(without_marked(without_logins(line)))
    }

    /// Without keys in PEM; certificates stay.
    fn without_keys<'t>(&mut self, line: Cow<'t, str>) -> Cow<'t, str> {
        let Some(begin) = line.find("-----BEGIN").filter(|begin| line[*begin..].contains("PRIVATE KEY"))
        else {
            return line;
        };
        let rest = &line[begin..];
        let end = rest.find("-----END").map(|end| {
            let tail = &rest[end + "-----END".len()..];
            begin + end + "-----END".len() + tail.find("-----").map_or(tail.len(), |dashes| dashes + 5)
        });
        if end.is_none() {
            self.within = Within::Pem;
        }
        format!("{}{LEFT_OUT}{}", &line[..begin], end.map_or("", |end| &line[end..])).into()
    }

    /// Without values that stand behind the names of secrets: `NAME: VALUE`, `NAME = VALUE`, `"NAME": "VALUE"`, `--NAME VALUE`.
    fn without_named<'t>(&mut self, line: Cow<'t, str>) -> Cow<'t, str> {
        let mut kept = String::new();
        let mut rest = &*line;
        while let Some((before, after)) = secret_name(rest) {
            kept.push_str(before);
            let value = after.trim_start();
            kept.push_str(&after[..after.len() - value.len()]);
            let (length, within) = value_length(value, before.ends_with('='), indentation(&line));
            if let Some(within) = within {
                self.within = within;
            }
            kept.push_str(&replaced(&value[..length]));
            rest = &value[length..];
        }
        if kept.is_empty() {
            return line;
        }
        kept.push_str(rest);
        kept.into()
    }
}

/// How far a line is indented.
fn indentation(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// Splits a line behind the first name of a secret and what separates it from its value.
fn secret_name(line: &str) -> Option<(&str, &str)> {
    let is_of_name = |it: char| it.is_ascii_alphanumeric() || ['-', '_', '.'].contains(&it);
    let mut from = 0;
    loop {
        let begin = from + line[from..].find(is_of_name)?;
        let length = line[begin..].find(|it| !is_of_name(it)).unwrap_or(line.len() - begin);
        let end = begin + length;
        let plain: String = line[begin..end]
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .map(|it| it.to_ascii_lowercase())
            .collect();
        if NAMES.iter().any(|name| plain.contains(name)) {
            let after = line[end..].trim_start_matches(['"', '\'', '\\']);
            let separated = after.trim_start();
            if separated.starts_with([':', '=']) {
                let at = line.len() - separated.len() + 1;
                return Some(line.split_at(at));
            }
            let is_flag = line[begin..].starts_with("--") && after.starts_with([' ', '\0']);
            if is_flag {
                return Some(line.split_at(line.len() - after.len() + 1));
            }
        }
        from = end;
    }
}

/// How long a value is that a text begins with, and what is left out after this line.
fn value_length(value: &str, is_word: bool, indented: usize) -> (usize, Option<Within>) {
    for quotes in ["\"\"\"", "'''"] {
        if let Some(inner) = value.strip_prefix(quotes) {
            return match inner.find(quotes) {
                Some(end) => (end + 2 * quotes.len(), None),
                None => (value.len(), Some(Within::Quotes(quotes))),
            };
        }
    }
    // A text in JSON in a text in JSON has a quote that is escaped.
    for quote in ["\\\"", "\"", "'"] {
        if let Some(inner) = value.strip_prefix(quote) {
            return (closing(inner, quote).map_or(value.len(), |end| end + 2 * quote.len()), None);
        }
    }
    let opens = value.chars().next();
    let closes = value.trim_end().trim_end_matches(',').ends_with([']', '}']);
    match opens {
        None => (0, Some(Within::Deeper(indented))),
        Some('|' | '>') => (value.len(), Some(Within::Deeper(indented))),
        Some('[' | '{') if !closes => (value.len(), Some(Within::Deeper(indented))),
        Some('[' | '{') => (value.len(), None),
        _ if is_word => (
            value.find(|it: char| it.is_whitespace() || it == ',' || it == '\0').unwrap_or(value.len()),
            None,
        ),
        // A name in JSON may have a number; what follows is told by the comma.
        _ => (value.len(), None),
    }
}

/// Where the quote is that ends a text.
fn closing(text: &str, quote: &str) -> Option<usize> {
    text.match_indices(quote).map(|(at, _)| at).find(|at| quote != "\"" || !text[..*at].ends_with('\\'))
}

/// What stands for a value, in its quotes.
fn replaced(value: &str) -> String {
    match value.chars().next() {
        None => String::new(),
        Some(quote @ ('"' | '\'')) => format!("{quote}{LEFT_OUT}{quote}"),
        Some('\\') => format!("\\\"{LEFT_OUT}\\\""),
        Some(_) => LEFT_OUT.to_owned(),
    }
}

/// Without who logs in by a URL: `https://USER:PASSWORD@HOST`.
fn without_logins(line: Cow<'_, str>) -> Cow<'_, str> {
    let mut kept = String::new();
    let mut rest = &*line;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        kept.push_str(before);
        let host = after.find(['/', ' ', '"', '\'', '\t']).unwrap_or(after.len());
        let login = after[..host].rfind('@');
        if login.is_some() {
            kept.push_str(LEFT_OUT);
        }
        rest = &after[login.unwrap_or(0)..];
    }
    if kept.is_empty() {
        return line;
    }
    kept.push_str(rest);
    kept.into()
}

/// Without tokens that are known by their form: JSON web tokens, and what follows the word Bearer.
fn without_marked(line: Cow<'_, str>) -> Cow<'_, str> {
    let is_of_token =
        |it: char| it.is_ascii_alphanumeric() || ['-', '_', '.', '=', '+', '/', '~'].contains(&it);
    let mut kept = String::new();
    let mut rest = &*line;
    loop {
        let web = rest.find("eyJ").map(|at| (at, at));
        let lower = rest.to_ascii_lowercase();
        let bearer = lower.find("bearer ").map(|at| (at, at + "bearer ".len()));
        let Some((at, from)) = web.into_iter().chain(bearer).min() else { break };
        let length = rest[from..].find(|it| !is_of_token(it)).unwrap_or(rest.len() - from);
        let is_web = from == at;
        // A word may begin so.
        let is_token =
            if is_web { length > 20 && rest[from..from + length].contains('.') } else { length > 0 };
        kept.push_str(&rest[..from]);
        kept.push_str(if is_token { LEFT_OUT } else { &rest[from..from + length] });
        rest = &rest[from + length..];
    }
    if kept.is_empty() {
        return line;
    }
    kept.push_str(rest);
    kept.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text without its secrets.
    fn redacted(text: &str) -> String {
        let mut redactor = Redactor::default();
        text.lines().filter_map(|line| redactor.line(line).map(|line| line.into_owned() + "\n")).collect()
    }

    #[test]
    fn values_behind_names_of_secrets_are_left_out() {
        for (line, left) in [
            ("token: hunter2", "token: [left out]"),
            ("  client-key-data: aHVudGVyMg==", "  client-key-data: [left out]"),
            ("password = \"hunter2\" # mine", "password = \"[left out]\" # mine"),
            ("{\"apiToken\": \"hunter2\", \"port\": 1}", "{\"apiToken\": \"[left out]\", \"port\": 1}"),
            ("{\"secret\":\"a \\\" hunter2\"}", "{\"secret\":\"[left out]\"}"),
            ("cambric-ipamd --api-key=hunter2 --pool=x", "cambric-ipamd --api-key=[left out] --pool=x"),
            ("cambric-ipamd --token hunter2", "cambric-ipamd --token [left out]"),
            ("Authorization: Basic aHVudGVyMg==", "Authorization: [left out]"),
            (
                "{\"line\": \"{\\\"token\\\": \\\"hunter2\\\"}\"}",
                "{\"line\": \"{\\\"token\\\": \\\"[left out]\\\"}\"}",
            ),
            ("secrets = [\"hunter2\", \"hunter3\"]", "secrets = [left out]"),
        ] {
            assert_eq!(redacted(line), format!("{left}\n"));
        }
    }

    #[test]
    fn what_goes_on_over_several_lines_is_left_out_to_its_end() {
        for (text, left) in [
            ("token: |\n  hunter2\n\n  hunter3\nport: 1\n", "token: [left out]\nport: 1\n"),
            ("token = \"\"\"\nhunter2\n\"\"\"\nport = 1\n", "token = \"[left out]\"\nport = 1\n"),
            ("  secrets:\n    a: hunter2\n  port: 1\n", "  secrets:\n  port: 1\n"),
            ("tokens = [\n  \"hunter2\",\n]\nport = 1\n", "tokens = [left out]\n]\nport = 1\n"),
            (
                "a\n-----BEGIN EC PRIVATE KEY-----\nhunter2\n-----END EC PRIVATE KEY-----\nb\n",
                "a\n[left out]\nb\n",
            ),
            (
                "\"k\": \"-----BEGIN PRIVATE KEY-----\\nhunter2\\n-----END PRIVATE KEY-----\\n\"\n",
                "\"k\": \"[left out]\\n\"\n",
            ),
        ] {
            assert_eq!(redacted(text), left);
        }
    }

    #[test]
    fn tokens_and_logins_are_known_by_their_form() {
        let token = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJodW50ZXIyIn0.c2ln";
        for (line, left) in [
            (format!("sent {token} to it"), "sent [left out] to it"),
            ("got header 'bearer abc.def' there".to_owned(), "got header 'bearer [left out]' there"),
            (
                "at https://me:hunter2@192.0.2.1:6443/api".to_owned(),
                "at https://[left out]@192.0.2.1:6443/api",
            ),
        ] {
            assert_eq!(redacted(&line), format!("{left}\n"));
        }
    }

    #[test]
    fn what_is_no_secret_stays() {
        for line in [
            "kube-api-server = \"https://192.0.2.1:6443\"",
            "cluster = \"kube:/etc/cambric/kubeconfig\"",
            "-----BEGIN CERTIFICATE-----",
            "the token was refused",
            "{\"key\":{\"network\":\"cambric\",\"container_id\":\"eyJ\"}}",
            "see https://github.com/@someone",
            "",
        ] {
            assert_eq!(redacted(line), if line.is_empty() { String::new() } else { format!("{line}\n") });
        }
    }
}
