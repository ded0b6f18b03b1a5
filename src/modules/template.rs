//! `template`: a rendered file.

use std::path::Path;

use super::{Arguments, Context, Prepared, copy};
use crate::error::Result;

/// Prepares it.
pub fn prepare(a: &mut Arguments<'_>, c: &Context<'_>) -> Result<Prepared> {
    let src = a.need(&["src"])?;
    let dest = copy::destination(a, Some(src.trim_end_matches(".j2")))?;
    let found = c.project.find("templates", Path::new(&src), None).map_err(|e| a.error(e.message).hint(e.hint.unwrap_or_default()))?;
    let text = c.renderer.text(&found.path.display().to_string(), found.text()?)?;
    copy::with_bytes(a, dest, text.into_bytes())
}
