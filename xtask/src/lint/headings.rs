//! Each file starts by saying what it is for, in a `//!`.

use syn::{AttrStyle, Attribute};

use super::sources::Source;

pub fn complaint(source: &Source) -> Option<String> {
    let starts = source.syntax.attrs.iter().any(is_heading);
    (!starts).then(|| format!("{}: has no `//!` that says what it is for", source.path))
}

fn is_heading(attribute: &Attribute) -> bool {
    matches!(attribute.style, AttrStyle::Inner(_)) && attribute.path().is_ident("doc")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<String> {
        complaint(&Source::parse("a.rs", text.to_owned()).unwrap())
    }

    #[test]
    fn a_comment_or_an_items_documentation_is_no_heading() {
        assert!(of("// not it\nfn a() {}").is_some());
        assert!(of("/// a's\nfn a() {}").is_some());
        assert!(of("#![no_std]\n").is_some());
        assert_eq!(of("//! This is.\nfn a() {}"), None);
        assert_eq!(of("#![no_std]\n//! This is.\n"), None);
    }
}
