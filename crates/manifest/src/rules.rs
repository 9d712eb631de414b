//! `x-kubernetes-validations`: rules in the Common Expression Language, with the parts of Kubernetes' CEL libraries
//! that the vendored CRDs use. A rule that cannot be evaluated is an error of the object, never passed.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock, OnceLock};

use cel::extractors::This;
use cel::objects::{Key, Map, OptionalValue};
use cel::{Context, Env, ExecutionError, Program};
use serde::Deserialize;
use serde_json::Value;

use crate::names::{is_dns_subdomain, is_qualified_name};
use crate::object::FieldError;
use crate::schema::{Kind, ListType, Schema, child, element, same_key};

/// One entry of `x-kubernetes-validations`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Rule {
    pub(crate) rule: String,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    message_expression: Option<String>,
    /// A word for machines.
    #[serde(default, rename = "reason")]
    _reason: Option<String>,
    #[serde(default)]
    field_path: Option<String>,
    #[serde(skip)]
    compiled: OnceLock<Result<Compiled, String>>,
}

pub(crate) struct Compiled {
    rule: Program,
    message: Option<Program>,
    /// Speaks of `oldSelf`: only judged on updates.
    is_transition: bool,
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rule)
    }
}

/// The standard environment and the strings library, as Kubernetes has them.
static ENVIRONMENT: LazyLock<Result<Arc<Env>, String>> = LazyLock::new(|| {
    let mut env = Env::stdlib();
    env.add_extension(cel::extensions::strings).map_err(|error| error.to_string())?;
    Ok(Arc::new(env))
});

/// Every rule that `value` breaks, with those below it. `old`: what it replaces, where that can be told.
pub(crate) fn broken_rules(
    schema: &Schema,
    value: &Value,
    old: Option<&Value>,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    if !schema.rules.is_empty() {
        let this = to_cel(schema, value);
        let old = old.map(|old| to_cel(schema, old));
        for rule in &schema.rules {
            if let Err(message) = rule.check(&this, old.as_ref()) {
                let field = rule
                    .field_path
                    .as_ref()
                    .map_or_else(|| path.to_owned(), |below| format!("{path}{below}"));
                errors.push(FieldError::new(field, message));
            }
        }
    }
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if let Some(schema) = schema.field(name) {
                    let old = old.and_then(|old| old.get(name));
                    broken_rules(schema, value, old, &child(path, name), errors);
                }
            }
        }
        Value::Array(items) => {
            let Some(item_schema) = &schema.items else { return };
            for (place, item) in items.iter().enumerate() {
                let old = old_item(schema, item, old);
                broken_rules(item_schema, item, old, &element(path, place), errors);
            }
        }
        _ => {}
    }
}

/// Items of map lists are followed by their keys; of other lists nobody can say which was which.
fn old_item<'v>(schema: &Schema, item: &Value, old: Option<&'v Value>) -> Option<&'v Value> {
    if schema.list_type != Some(ListType::Map) {
        return None;
    }
    old?.as_array()?.iter().find(|other| same_key(schema, other, item))
}

impl Rule {
    fn check(&self, this: &cel::Value, old: Option<&cel::Value>) -> Result<(), String> {
        let unusable = |error: &str| format!("Weft cannot evaluate the rule {:?}: {error}", self.rule);
        let compiled = self.compiled().map_err(&unusable)?;
        if compiled.is_transition && old.is_none() {
            return Ok(());
        }
        let mut context = context().map_err(|error| unusable(&error))?;
        context.add_variable_from_value("self", this.clone());
        if let Some(old) = old {
            context.add_variable_from_value("oldSelf", old.clone());
        }
        match compiled.rule.execute(&context) {
            Ok(cel::Value::Bool(true)) => Ok(()),
            Ok(cel::Value::Bool(false)) => Err(self.words(compiled, &context)),
            Ok(other) => Err(unusable(&format!("it gives {other:?} and not a boolean"))),
            Err(error) => Err(unusable(&error.to_string())),
        }
    }

    /// `messageExpression` if it gives a text, else `message`, else the rule itself.
    fn words(&self, compiled: &Compiled, context: &Context<'_, '_>) -> String {
        let expressed = compiled.message.as_ref().and_then(|message| match message.execute(context) {
            Ok(cel::Value::String(text)) if !text.is_empty() => Some(text.to_string()),
            _ => None,
        });
        expressed.or_else(|| self.message.clone()).unwrap_or_else(|| format!("failed rule: {}", self.rule))
    }

    pub(crate) fn compiled(&self) -> Result<&Compiled, &str> {
        self.compiled.get_or_init(|| self.compile()).as_ref().map_err(String::as_str)
    }

    fn compile(&self) -> Result<Compiled, String> {
        let env = ENVIRONMENT.as_ref().map_err(Clone::clone)?;
        let compile = |source: &str| env.compile(source).map_err(|error| error.to_string());
        let rule = compile(&self.rule)?;
        let is_transition = rule.references().has_variable("oldSelf");
        let message = self.message_expression.as_deref().map(compile).transpose()?;
        Ok(Compiled { rule, message, is_transition })
    }
}

/// Kubernetes' own functions, as far as the vendored rules call them.
fn context() -> Result<Context<'static, 'static>, String> {
    let env = ENVIRONMENT.as_ref().map_err(Clone::clone)?;
    let mut context = Context::with_env(Arc::clone(env));
    let added = context
        .add_function("isIP", |text: Arc<String>| text.parse::<IpAddr>().is_ok())
        .and_then(|()| context.add_function("format.dns1123Subdomain", || "dns1123Subdomain".to_owned()))
        .and_then(|()| context.add_function("format.qualifiedName", || "qualifiedName".to_owned()))
        .and_then(|()| context.add_function("validate", named_format));
    added.map(|()| context).map_err(|error| error.to_string())
}

/// `format.<name>().validate(text)`: the problems of a text, or none.
fn named_format(This(format): This<Arc<String>>, text: Arc<String>) -> Result<cel::Value, ExecutionError> {
    let problem = match format.as_str() {
        "dns1123Subdomain" if is_dns_subdomain(&text) => None,
        "dns1123Subdomain" => Some("must be a lower-case RFC 1123 subdomain"),
        "qualifiedName" if is_qualified_name(&text) => None,
        "qualifiedName" => Some("must be a qualified name: an optional DNS subdomain and /, then a name"),
        other => {
            return Err(ExecutionError::function_error(
                "validate",
                format!("format {other} is not supported"),
            ));
        }
    };
    let result = match problem {
        None => OptionalValue::none(),
        Some(problem) => OptionalValue::of(cel::Value::List(Arc::new(vec![problem.into()]))),
    };
    Ok(cel::Value::Opaque(Arc::new(result)))
}

/// A value as rules see it: only fields the schema has, their names escaped, numbers typed by the schema.
fn to_cel(schema: &Schema, value: &Value) -> cel::Value {
    match value {
        Value::Null => cel::Value::Null,
        Value::Bool(value) => cel::Value::Bool(*value),
        Value::Number(number) => match number.as_i64().filter(|_| schema.kind != Some(Kind::Number)) {
            Some(integer) => cel::Value::Int(integer),
            None => cel::Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => {
            let item = |item| schema.items.as_ref().map_or(cel::Value::Null, |schema| to_cel(schema, item));
            cel::Value::List(Arc::new(items.iter().map(item).collect()))
        }
        Value::Object(fields) => {
            let map: HashMap<Key, cel::Value> = fields
                .iter()
                .filter_map(|(name, value)| {
                    let value = to_cel(schema.field(name)?, value);
                    let is_property = schema.properties.contains_key(name);
                    let key = if is_property { escaped(name) } else { name.clone() };
                    Some((Key::String(Arc::new(key)), value))
                })
                .collect();
            cel::Value::Map(Map { map: Arc::new(map) })
        }
    }
}

/// Field names that are no CEL identifiers, as Kubernetes escapes them.
fn escaped(name: &str) -> String {
    const RESERVED: [&str; 18] = [
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
    ];
    if RESERVED.contains(&name) {
        return format!("__{name}__");
    }
    let name = name.replace("__", "__underscores__");
    name.replace('.', "__dot__").replace('-', "__dash__").replace('/', "__slash__")
}
