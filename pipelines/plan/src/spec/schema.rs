//! The JSON Schema of a pipeline file, for editors: the grammar's table in another spelling.

use serde_json::{Map, Value, json};

use super::{
    grammar::{Shape, Standing, Table},
    keys::WORKFLOW,
};
use crate::{event::EventKind, uses};

/// JSON Schema, draft 2020-12.
pub fn schema() -> Value {
    let mut definitions = Map::new();
    let root = of_table(&WORKFLOW, &mut definitions);
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mergeyard pipeline",
        "required": ["steps"],
    });
    if let (Value::Object(schema), Value::Object(root)) = (&mut schema, root) {
        schema.extend(root);
        describe_actions(&mut definitions);
        relate_keys(&mut definitions);
        schema.insert("$defs".into(), Value::Object(definitions));
        // A file whose steps all come from an included one.
        schema.remove("required");
        let some = json!({"not": {"enum": [[], {}, null]}});
        let own = json!({"required": ["steps"], "properties": {"steps": some}});
        schema.insert("anyOf".into(), json!([own, {"required": ["include"]}]));
    }
    schema["properties"]["matrix"]["anyOf"][0] = matrix();
    schema
}

/// Axes, which are lists, or points that are written out.
fn matrix() -> Value {
    let value = json!({"type": ["string", "number", "boolean", "null"]});
    let point = json!({"type": "object", "additionalProperties": value});
    json!({
        "type": "object",
        "properties": {"include": {"anyOf": [point, {"type": "array", "items": point}, {"type": "null"}]}},
        "additionalProperties": {"type": "array", "items": value, "minItems": 1},
    })
}

/// What keys have to do with each other, which the table of each does not say.
fn relate_keys(definitions: &mut Map<String, Value>) {
    let one_of = |keys: [&str; 2]| json!(keys.map(|key| json!({"required": [key]})));
    for (name, rule, value) in [
        ("step", "oneOf", one_of(["image", "uses"])),
        ("ready", "oneOf", one_of(["command", "port"])),
        ("service", "required", json!(["image"])),
        ("service", "not", json!({"required": ["uses"]})),
        ("clone", "not", json!({"required": ["uses"]})),
    ] {
        if let Some(Value::Object(definition)) = definitions.get_mut(name) {
            definition.insert(rule.to_owned(), value);
        }
    }
}

/// What `with` takes depends on what `uses` says.
fn describe_actions(definitions: &mut Map<String, Value>) {
    let Some(Value::Object(step)) = definitions.get_mut("step") else { return };
    let action = |(name, keys): (&str, &[(&str, &str)])| {
        let keys: Map<String, Value> =
            keys.iter().map(|(key, about)| ((*key).to_owned(), json!({"description": about}))).collect();
        json!({
            "if": {"required": ["uses"], "properties": {"uses": {"const": name}}},
            "then": {"properties": {"with": {"properties": keys, "additionalProperties": false}}},
        })
    };
    step.insert("allOf".to_owned(), uses::described().map(action).collect());
    let names: Vec<&str> = uses::described().map(|(name, _)| name).collect();
    if let Some(Value::Object(uses)) = step.get_mut("properties").and_then(|all| all.get_mut("uses")) {
        uses.insert("examples".to_owned(), json!(names));
    }
}

fn of_table(table: &Table, definitions: &mut Map<String, Value>) -> Value {
    let mut properties = Map::new();
    for key in table.keys {
        // A key without a value is as good as absent.
        let mut property =
            json!({"description": key.about, "anyOf": [of(&key.shape, definitions), {"type": "null"}]});
        if key.standing != Standing::Current {
            property["deprecated"] = Value::Bool(true);
        }
        properties.insert(key.name.to_owned(), property);
    }
    let mut object = json!({"type": "object", "description": table.about, "properties": properties});
    if !table.open {
        object["additionalProperties"] = Value::Bool(false);
        // Keys for anchors and for other programs.
        object["patternProperties"] = json!({"^([_.]|x-)": true});
    }
    object
}

fn of(shape: &Shape, definitions: &mut Map<String, Value>) -> Value {
    match shape {
        Shape::Any | Shape::Json => Value::Bool(true),
        Shape::Text | Shape::Glob => json!({"type": ["string", "number", "boolean"]}),
        Shape::Gate => json!({"type": ["string", "number", "boolean"], "pattern": "\\S"}),
        Shape::Flag => json!({"type": "boolean"}),
        Shape::Number { least, most } => json!({"type": "integer", "minimum": least, "maximum": most}),
        Shape::Duration => json!({"type": "string", "pattern": "^[0-9]*[1-9][0-9]*[smh]$"}),
        Shape::Event => json!({"enum": EventKind::ALL.map(EventKind::as_str)}),
        Shape::Variable => json!({"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$"}),
        Shape::Word(words) => json!({"enum": words}),
        Shape::OneOrMore(item) => {
            let item = of(item, definitions);
            json!({"anyOf": [item, {"type": "array", "items": item}]})
        }
        Shape::Map(value) => {
            json!({"type": "object", "additionalProperties": {"anyOf": [of(value, definitions), {"type": "null"}]}})
        }
        Shape::Keys(table) => reference(table, definitions),
        Shape::Steps(table) => {
            let step = reference(table, definitions);
            json!({"anyOf": [{"type": "object", "additionalProperties": step}, {"type": "array", "items": step}]})
        }
        Shape::Either(shapes) => {
            let all: Vec<_> = shapes.iter().map(|shape| of(shape, definitions)).collect();
            json!({"anyOf": all})
        }
    }
}

fn reference(table: &Table, definitions: &mut Map<String, Value>) -> Value {
    if !definitions.contains_key(table.name) {
        definitions.insert(table.name.to_owned(), Value::Null);
        let object = of_table(table, definitions);
        definitions.insert(table.name.to_owned(), object);
    }
    json!({"$ref": format!("#/$defs/{}", table.name)})
}
