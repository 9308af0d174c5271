//! The OpenRPC document of a method table.
//!
//! <https://spec.open-rpc.org>, version 1.4.1. Schemas are JSON Schema draft 7, as OpenRPC asks, with
//! shared definitions under `#/components/schemas` and errors under `#/components/errors`.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::error::ErrorKind;
use crate::method::{Access, Method};
use crate::params::field_names;

/// The version of the specification that the document follows.
const OPENRPC_VERSION: &str = "1.4.1";
/// The method that serves the document.
pub(crate) const DISCOVER: &str = "rpc.discover";

/// What any call can be answered.
const COMMON_ERRORS: &[ErrorKind] = &[
    ErrorKind::InvalidParams,
    ErrorKind::TooLarge,
    ErrorKind::RateLimited,
    ErrorKind::ShuttingDown,
    ErrorKind::Internal,
];

/// What a service says of itself in its OpenRPC document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceInfo {
    /// The name, such as `Horus supervisor`.
    pub title: String,
    /// The version of its API.
    pub version: String,
    /// A paragraph for people, in Markdown.
    pub description: String,
}

/// Writes the entry of one method; its schemas' definitions gather in the generator.
pub(crate) type Describe = fn(&mut SchemaGenerator) -> Value;

/// The document of these methods.
pub(crate) fn document(info: &ServiceInfo, methods: impl Iterator<Item = Describe>) -> Value {
    let settings = SchemaSettings::draft07().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let mut entries: Vec<Value> = methods.map(|describe| describe(&mut generator)).collect();
    entries.push(discover_entry());
    let by_name = |entry: &Value| entry["name"].as_str().unwrap_or_default().to_owned();
    entries.sort_by_key(by_name);
    let schemas = generator.take_definitions(true);
    let errors: Map<String, Value> = ErrorKind::ALL
        .iter()
        .filter(|kind| **kind != ErrorKind::Other)
        .map(|kind| (kind.as_str().to_owned(), error_object(*kind)))
        .collect();
    json!({
        "openrpc": OPENRPC_VERSION,
        "info": {
            "title": info.title,
            "version": info.version,
            "description": info.description,
            "license": { "name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0" },
        },
        "methods": entries,
        "components": { "schemas": schemas, "errors": errors },
    })
}

/// The entry of `M`.
pub(crate) fn describe<M: Method>(generator: &mut SchemaGenerator) -> Value {
    let params = content_descriptors::<M::Params>(generator);
    // OpenRPC: parameters that are required come first if they may be given by position.
    let required = |param: &Value| param["required"] == json!(true);
    let ordered = params.iter().skip_while(|p| required(p)).all(|p| !required(p));
    let access = format!("May be called by {}.", M::ACCESS);
    let mut description = String::new();
    if !M::DESCRIPTION.is_empty() {
        description.push_str(M::DESCRIPTION);
        description.push_str("\n\n");
    }
    description.push_str(&access);
    if M::ACCESS.needs_signature() {
        description.push_str(" The call is signed: `Authorization: Horus <base64url of a call+json envelope>`.");
    }
    json!({
        "name": M::NAME,
        "summary": M::SUMMARY,
        "description": description,
        "paramStructure": if ordered { "either" } else { "by-name" },
        "result": {
            "name": format!("{}_result", M::NAME),
            "schema": schema_of::<M::Result>(generator),
            "required": true,
        },
        "errors": errors_of::<M>(),
        "examples": M::examples().into_iter().map(|example| {
            // In the order of the descriptors, as callers by position would give them.
            let given = |p: &Value| {
                let name = p["name"].as_str()?;
                Some(json!({ "name": name, "value": example.params.get(name)? }))
            };
            json!({
                "name": example.name,
                "params": params.iter().filter_map(given).collect::<Vec<_>>(),
                "result": { "name": format!("{}_result", M::NAME), "value": example.result },
            })
        }).collect::<Vec<_>>(),
        "params": params,
    })
}

/// One content descriptor for each field of `P`, in the order of their declaration.
fn content_descriptors<P: JsonSchema + serde::de::DeserializeOwned>(generator: &mut SchemaGenerator) -> Vec<Value> {
    let schema = transformed(generator, P::json_schema);
    let Some(Value::Object(properties)) = schema.get("properties") else { return Vec::new() };
    let required: Vec<&str> = match schema.get("required") {
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    // The map of properties is sorted by name; the struct knows the order that positions follow.
    let declared = field_names::<P>().unwrap_or_default();
    let position = |name: &str| declared.iter().position(|field| *field == name);
    let mut names: Vec<&String> = properties.keys().collect();
    names.sort_by_key(|name| position(name).unwrap_or(usize::MAX));
    let descriptor = |name: &String| {
        let mut schema = properties[name].clone();
        let mut description = Value::Null;
        if let Some(members) = schema.as_object_mut() {
            description = members.remove("description").unwrap_or_default();
            unwrap_lone_reference(members);
        }
        let mut descriptor = json!({
            "name": name,
            "required": required.contains(&name.as_str()),
            "schema": schema,
        });
        if !description.is_null() {
            descriptor["summary"] = description.clone();
            descriptor["description"] = description;
        }
        descriptor
    };
    names.into_iter().map(descriptor).collect()
}

/// `{"allOf": [{"$ref": X}]}` as `{"$ref": X}`: draft 7 needed the former only for a description
/// beside the reference.
fn unwrap_lone_reference(schema: &mut Map<String, Value>) {
    if schema.len() != 1 {
        return;
    }
    if let Some(Value::Array(all)) = schema.get("allOf")
        && let [Value::Object(only)] = all.as_slice()
    {
        *schema = only.clone();
    }
}

fn schema_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    transformed(generator, SchemaGenerator::subschema_for::<T>)
}

/// The generator applies its transforms (to draft 7) to root schemas only.
fn transformed(generator: &mut SchemaGenerator, make: impl FnOnce(&mut SchemaGenerator) -> Schema) -> Schema {
    let mut schema = make(generator);
    for transform in generator.transforms_mut() {
        transform.transform(&mut schema);
    }
    schema
}

fn errors_of<M: Method>() -> Vec<Value> {
    let of_access: &[ErrorKind] = match M::ACCESS {
        Access::Open => &[],
        Access::Envelope => &[
            ErrorKind::InvalidEnvelope,
            ErrorKind::BadSignature,
            ErrorKind::UntrustedSigner,
            ErrorKind::NotAllowed,
            ErrorKind::Expired,
        ],
        Access::Roles(_) => &[ErrorKind::Unauthenticated, ErrorKind::UntrustedSigner, ErrorKind::NotAllowed],
    };
    let mut kinds: Vec<ErrorKind> = M::ERRORS.iter().chain(of_access).chain(COMMON_ERRORS).copied().collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds.iter().map(|kind| json!({ "$ref": format!("#/components/errors/{kind}") })).collect()
}

fn error_object(kind: ErrorKind) -> Value {
    json!({
        "code": kind.code(),
        "message": kind.meaning(),
        "data": { "kind": kind.as_str() },
    })
}

fn discover_entry() -> Value {
    json!({
        "name": DISCOVER,
        "summary": "Returns this document",
        "description": "Service discovery as OpenRPC defines it.\n\nMay be called by everybody.",
        "paramStructure": "either",
        "params": [],
        "result": {
            "name": "OpenRPC document",
            "schema": { "type": "object", "description": "An OpenRPC 1.4 document" },
            "required": true,
        },
        "errors": [],
        "examples": [],
    })
}
