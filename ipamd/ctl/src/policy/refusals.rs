//! What is refused, as a line.

use ipamd_api::policy::RefusedObject;

use crate::output::clean;

/// A refusal on a line: `FILE:LINE: OBJECT: FIELD: REASON`, as far as each is known.
pub(super) fn refusal_line(refused: &RefusedObject) -> String {
    let stays = if refused.in_force { "; what is in force of that name stays" } else { "" };
    format!("{}{}{stays}\n", place(refused), complaint(refused))
}

/// `FILE:LINE: `, as far as each is known.
pub(super) fn place(refused: &RefusedObject) -> String {
    let Some(file) = &refused.file else { return String::new() };
    let file = clean(&file.to_string_lossy());
    refused.line.map_or_else(|| format!("{file}: "), |line| format!("{file}:{line}: "))
}

/// `OBJECT: FIELD: REASON`.
pub(super) fn complaint(refused: &RefusedObject) -> String {
    let object = refused.object.as_ref().map(ToString::to_string).unwrap_or_default();
    let parts = [&object, &refused.field, &refused.reason].into_iter().filter(|part| !part.is_empty());
    parts.map(|part| clean(part)).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use ipamd_api::policy::ObjectName;

    use super::*;

    #[test]
    fn a_refusal_is_a_line_of_what_is_known() {
        let guard =
            ObjectName { kind: "NetworkPolicy".into(), namespace: Some("shop".into()), name: "guard".into() };
        let refused = RefusedObject {
            file: Some("a.yaml".into()),
            line: Some(9),
            object: Some(guard),
            field: "spec.ingres".into(),
            reason: "is not known".into(),
            in_force: false,
        };
        assert_eq!(refusal_line(&refused), "a.yaml:9: NetworkPolicy shop/guard: spec.ingres: is not known\n");
        let earlier = RefusedObject { in_force: true, ..refused.clone() };
        assert!(refusal_line(&earlier).ends_with("is not known; what is in force of that name stays\n"));
        let bare = RefusedObject {
            object: None,
            field: String::new(),
            file: Some("\u{1b}c".into()),
            reason: "odd\nline".into(),
            ..refused
        };
        assert_eq!(refusal_line(&bare), "\\u{1b}c:9: odd\\nline\n");
        let from_the_api = RefusedObject { line: None, ..bare.clone() };
        assert_eq!(refusal_line(&from_the_api), "\\u{1b}c: odd\\nline\n");
        let nowhere = RefusedObject { file: None, line: None, ..bare };
        assert_eq!(refusal_line(&nowhere), "odd\\nline\n");
    }
}
