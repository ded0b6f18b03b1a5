//! `template`: a rendered file.

use std::path::Path;

use serde_json::Value;

use super::{Arguments, Context, Prepared, copy};
use crate::{
    error::Result,
    template::{self, Whitespace},
};

/// Settings of the language that are Ansible's and not supported.
const LEFT_OUT: &[&str] = &[
    "block_start_string",
    "block_end_string",
    "variable_start_string",
    "variable_end_string",
    "comment_start_string",
    "comment_end_string",
    "output_encoding",
];

/// Prepares it.
pub fn prepare(a: &mut Arguments<'_>, c: &Context<'_>) -> Result<Prepared> {
    let src = a.need(&["src"])?;
    let dest = a.need(&["dest"])?;
    let whitespace =
        Whitespace { trim_blocks: a.boolean("trim_blocks")?.unwrap_or(true), lstrip_blocks: a.boolean("lstrip_blocks")?.unwrap_or(false) };
    a.only("newline_sequence", &Value::String("\n".into()), "every line end is a line feed")?;
    for key in LEFT_OUT {
        a.only(key, &Value::Null, "the language is written as usual, in UTF-8")?;
    }
    let found = c.project.find_from(c.dirs, "templates", Path::new(&src), None);
    let found = found.map_err(|e| a.error(e.message).hint(e.hint.unwrap_or_default()))?;
    let (text, whitespace) = template::header(found.text()?, whitespace)?;
    let mut renderer = c.renderer.clone();
    let full = std::path::absolute(&found.path).unwrap_or_else(|_| found.path.clone());
    let own = [
        ("ansible_managed", "Ansible managed"),
        ("template_path", &src),
        ("template_fullpath", &full.to_string_lossy()),
        ("template_destpath", &dest),
    ];
    for (name, value) in own {
        // A variable of the user's wins.
        if renderer.expression(name).is_err() || name != "ansible_managed" {
            renderer.set(name, &value.into());
        }
    }
    let text = renderer.file(&found.path.display().to_string(), text, whitespace)?;
    copy::with_bytes(a, dest, text.into_bytes(), copy::file_name(&src))
}
