//! The CustomResourceDefinitions: what an API server would refuse of them, and what it would take out of a policy.

use std::fs;

use anyhow::{Context, Result, ensure};
use integration::manifests::{folder, read};
use serde_json::Value;

const FILES: [&str; 2] = ["crds/calico.yaml", "crds/cluster-network-policy.yaml"];

/// What a structural schema cannot have.
const FORBIDDEN: [&str; 12] = [
    "$ref",
    "$schema",
    "definitions",
    "dependencies",
    "deprecated",
    "discriminator",
    "id",
    "patternProperties",
    "readOnly",
    "uniqueItems",
    "writeOnly",
    "xml",
];

fn all() -> Result<Vec<Value>> {
    Ok(FILES.into_iter().map(read).collect::<Result<Vec<_>>>()?.concat())
}

fn text<'v>(value: &'v Value, pointer: &str) -> Result<&'v str> {
    value.pointer(pointer).and_then(Value::as_str).with_context(|| format!("{pointer} of {value:#}"))
}

fn is_label(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty()
        && text.len() <= 63
        && text.bytes().all(allowed)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[test]
fn names_are_as_the_api_wants_them() -> Result<()> {
    for definition in all()? {
        let (group, plural) = (text(&definition, "/spec/group")?, text(&definition, "/spec/names/plural")?);
        let (kind, list) =
            (text(&definition, "/spec/names/kind")?, text(&definition, "/spec/names/listKind")?);
        ensure!(text(&definition, "/metadata/name")? == format!("{plural}.{group}"));
        ensure!(group.contains('.') && group.split('.').all(is_label), "{group}");
        ensure!(
            is_label(plural) && text(&definition, "/spec/names/singular")? == kind.to_lowercase(),
            "{plural}"
        );
        ensure!(list == format!("{kind}List") && is_label(&kind.to_lowercase()), "{kind}");
        ensure!(["Namespaced", "Cluster"].contains(&text(&definition, "/spec/scope")?), "{kind}");
        let approval = definition["metadata"]["annotations"]["api-approved.kubernetes.io"].as_str();
        let is_protected = [".k8s.io", ".kubernetes.io"].iter().any(|it| group.ends_with(it));
        let approved = approval.is_some_and(|it| it.starts_with("https://") || it.starts_with("unapproved"));
        ensure!(approved == is_protected, "{group}: {approval:?}");
    }
    Ok(())
}

#[test]
fn schemas_are_structural() -> Result<()> {
    for definition in all()? {
        let name = text(&definition, "/metadata/name")?;
        let versions = definition["spec"]["versions"].as_array().context("versions")?;
        ensure!(versions.iter().filter(|it| it["storage"] == true).count() == 1, "{name}");
        for version in versions {
            let schema = &version["schema"]["openAPIV3Schema"];
            ensure!(schema["type"] == "object", "{name}: the root is no object");
            let metadata = schema["properties"]["metadata"].as_object().context("metadata")?;
            ensure!(metadata.keys().all(|key| key == "type"), "{name}: metadata is the API's own");
            let mut wrong = Vec::new();
            judge(schema, name, &mut wrong);
            ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
            for column in version["additionalPrinterColumns"].as_array().into_iter().flatten() {
                let types = ["integer", "number", "string", "boolean", "date"];
                ensure!(types.contains(&text(column, "/type")?), "{name}: {column}");
                let names = text(column, "/jsonPath")?.strip_prefix('.').context("a path")?;
                let there = names.split('.').try_fold(schema, |schema, name| schema["properties"].get(name));
                ensure!(there.is_some(), "{name}: {column}");
            }
        }
    }
    Ok(())
}

#[test]
fn kubectl_explains_each_kind_and_its_fields() -> Result<()> {
    for definition in all()? {
        let name = text(&definition, "/metadata/name")?;
        let schema = definition.pointer("/spec/versions/0/schema/openAPIV3Schema").context("a schema")?;
        text(schema, "/description").with_context(|| name.to_owned())?;
        let fields = schema.pointer("/properties/spec/properties").and_then(Value::as_object);
        for (field, schema) in fields.into_iter().flatten() {
            text(schema, "/description").with_context(|| format!("{field} of {name}"))?;
        }
    }
    Ok(())
}

/// Notes what makes a schema one that is not structural.
fn judge(schema: &Value, path: &str, wrong: &mut Vec<String>) {
    let mut note = |what: String| wrong.push(format!("{path}: {what}"));
    let keeps = schema.get("x-kubernetes-preserve-unknown-fields");
    let is_either = schema["x-kubernetes-int-or-string"] == true;
    match schema["type"].as_str() {
        None if !is_either && keeps.is_none() => note("it has no type".into()),
        Some(kind) if is_either => note(format!("it is {kind} and either of two")),
        Some("array") if !schema["items"].is_object() => {
            note("it does not say of what it is an array".into());
        }
        Some(kind) if kind != "object" && keeps.is_some() => note(format!("{kind} has no fields to keep")),
        _ => {}
    }
    if keeps.is_some_and(|it| *it != true) {
        note("x-kubernetes-preserve-unknown-fields is true or not there".into());
    }
    for key in FORBIDDEN.iter().filter(|key| schema.get(**key).is_some()) {
        note(format!("{key} is forbidden"));
    }
    if schema.get("properties").is_some() && schema.get("additionalProperties").is_some() {
        note("properties exclude additionalProperties".into());
    }
    for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if schema["properties"].get(required).is_none() {
            note(format!("{required} is required, but not described"));
        }
    }
    for value in schema["enum"].as_array().into_iter().flatten() {
        if !is_of_type(value, schema) {
            note(format!("{value} cannot be, by the type"));
        }
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        judge(property, &format!("{path}.{name}"), wrong);
    }
    if schema["items"].is_object() {
        judge(&schema["items"], &format!("{path}[]"), wrong);
    }
}

fn is_of_type(value: &Value, schema: &Value) -> bool {
    if value.is_null() {
        return schema["nullable"] == true;
    }
    match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64(),
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        _ if schema["x-kubernetes-int-or-string"] == true => value.is_i64() || value.is_string(),
        _ => true,
    }
}

#[test]
fn policies_are_stored_whole() -> Result<()> {
    let definitions = all()?;
    let mut judged = 0;
    for entry in fs::read_dir(folder().join("../policies"))? {
        let path = entry?.path();
        if path.extension().is_none_or(|it| it != "yaml") {
            continue;
        }
        for object in read(&path.display().to_string())? {
            let Some((group, version)) = object["apiVersion"].as_str().and_then(|it| it.split_once('/'))
            else {
                continue;
            };
            let of_it =
                |it: &&Value| it["spec"]["group"] == group && it["spec"]["names"]["kind"] == object["kind"];
            let Some(definition) = definitions.iter().find(of_it) else { continue };
            let versions = definition["spec"]["versions"].as_array().context("versions")?;
            let version = versions.iter().find(|it| it["name"] == version).context("its version")?;
            let mut wrong = Vec::new();
            admit(&object, &version["schema"]["openAPIV3Schema"], "", &mut wrong);
            ensure!(wrong.is_empty(), "{}:\n{}", path.display(), wrong.join("\n"));
            judged += 1;
        }
    }
    ensure!(judged >= 4, "only {judged} of the examples are policies of such kinds");
    Ok(())
}

/// Notes what the API would refuse or take out.
fn admit(value: &Value, schema: &Value, path: &str, wrong: &mut Vec<String>) {
    if !is_of_type(value, schema) {
        wrong.push(format!("{path}: {value} is of another type"));
    }
    if schema["enum"].as_array().is_some_and(|values| !values.contains(value)) {
        wrong.push(format!("{path}: {value} is none of {}", schema["enum"]));
    }
    for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if value.get(required).is_none() {
            wrong.push(format!("{path}: {required} is missing"));
        }
    }
    for (name, field) in value.as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        match schema["properties"].get(name) {
            Some(_) if path == ".metadata" => {}
            Some(schema) => admit(field, schema, &path, wrong),
            None if schema["x-kubernetes-preserve-unknown-fields"] == true => {}
            None => wrong.push(format!("{path}: taken out")),
        }
    }
    for (at, item) in value.as_array().into_iter().flatten().enumerate() {
        admit(item, &schema["items"], &format!("{path}[{at}]"), wrong);
    }
}
