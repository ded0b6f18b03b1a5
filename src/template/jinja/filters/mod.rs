//! Filters of Ansible and of Jinja2, where the engine's own are missing or differ.

mod data;
mod jinja;
mod lists;
mod regex;
mod text;

pub(super) use self::regex::{Flags, compile as compile_regex};
use minijinja::{Environment, Error, ErrorKind, Value};

/// The filters that there are, for hints.
pub(super) const NAMES: &[&str] = &[
    "abs",
    "attr",
    "b64decode",
    "b64encode",
    "basename",
    "batch",
    "bool",
    "capitalize",
    "center",
    "checksum",
    "combine",
    "comment",
    "concat",
    "count",
    "d",
    "default",
    "dict2items",
    "dictsort",
    "difference",
    "dirname",
    "e",
    "escape",
    "expanduser",
    "expandvars",
    "extract",
    "filesizeformat",
    "first",
    "flatten",
    "float",
    "forceescape",
    "format",
    "from_json",
    "from_yaml",
    "groupby",
    "hash",
    "human_readable",
    "human_to_bytes",
    "indent",
    "int",
    "intersect",
    "items",
    "items2dict",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "mandatory",
    "map",
    "max",
    "md5",
    "min",
    "pad",
    "path_join",
    "pow",
    "product",
    "quote",
    "realpath",
    "regex_escape",
    "regex_findall",
    "regex_replace",
    "regex_search",
    "reject",
    "rejectattr",
    "relpath",
    "replace",
    "reverse",
    "root",
    "round",
    "safe",
    "select",
    "selectattr",
    "sha1",
    "share",
    "slice",
    "sort",
    "split",
    "splitext",
    "string",
    "subelements",
    "sum",
    "symmetric_difference",
    "ternary",
    "title",
    "to_json",
    "to_nice_json",
    "to_nice_yaml",
    "to_uuid",
    "to_yaml",
    "tojson",
    "trim",
    "truncate",
    "type_debug",
    "union",
    "unique",
    "upper",
    "urlencode",
    "urlsplit",
    "wordcount",
    "zip",
    "zip_longest",
];

/// An error of a filter.
pub(super) fn bad(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// The error about a value that is not defined; the engine adds its name.
pub(super) fn undefined(value: &Value) -> Error {
    value.get_attr("x").err().unwrap_or_else(|| ErrorKind::UndefinedError.into())
}

/// The items of a list; a text is not one.
pub(super) fn items(value: &Value, of: &str) -> Result<Vec<Value>, Error> {
    if value.is_undefined() {
        return Err(undefined(value));
    }
    if value.as_str().is_some() || value.is_none() {
        return Err(bad(format!("`{of}` needs a list, not {}", value.kind())));
    }
    value.try_iter().map_err(|_| bad(format!("`{of}` needs a list, not {}", value.kind())))?.map(valid).collect()
}

/// A value, or the error that it stands for.
fn valid(value: Value) -> Result<Value, Error> {
    if value.kind() == minijinja::value::ValueKind::Invalid {
        return Err(value.try_iter().err().unwrap_or_else(|| ErrorKind::InvalidOperation.into()));
    }
    Ok(value)
}

/// Adds them all.
pub(super) fn add(env: &mut Environment<'static>) {
    text::add(env);
    lists::add(env);
    data::add(env);
    jinja::add(env);
    regex::add(env);
}
