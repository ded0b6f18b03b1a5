//! Backslashes in the texts of expressions. In a playbook Ansible doubles them, so that `'\1'` and `'\d'` are what they look like.
//! In `{% %}`, in conditions and in template files it does not.

use std::borrow::Cow;

/// Doubles each backslash in a text inside of `{{ }}`.
pub(super) fn backslashes(source: &str) -> Cow<'_, str> {
    if !source.contains('\\') {
        return Cow::Borrowed(source);
    }
    let mut out = String::with_capacity(source.len() + 16);
    let mut rest = source;
    while let Some(open) = rest.find("{{") {
        out.push_str(&rest[..open + 2]);
        rest = &rest[open + 2..];
        let mut quote = None;
        let mut chars = rest.char_indices();
        let mut end = rest.len();
        while let Some((i, c)) = chars.next() {
            match (quote, c) {
                (None, _) if rest[i..].starts_with("}}") => {
                    end = i;
                    break;
                }
                (None, '\'' | '"') => quote = Some(c),
                (Some(q), c) if q == c => quote = None,
                (Some(_), '\\') => {
                    out.push_str("\\\\");
                    // What follows is not the end of the text, whatever it is.
                    if let Some((_, next)) = chars.next() {
                        if next == '\\' {
                            out.push_str("\\\\");
                        } else {
                            out.push(next);
                            if quote == Some(next) {
                                quote = None;
                            }
                        }
                    }
                    continue;
                }
                _ => {}
            }
            out.push(c);
        }
        rest = &rest[end..];
    }
    out.push_str(rest);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_texts_in_expressions() {
        assert_eq!(backslashes(r"a\b {{ x | f('\1\d') }} \c"), r"a\b {{ x | f('\\1\\d') }} \c");
        let block = r#"{% if "\n" == x %}\n{% endif %}"#;
        assert_eq!(backslashes(block), block);
    }
}
