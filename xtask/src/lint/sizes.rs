//! No function is longer than 60 lines, no file longer than 400, or it is an exception.

use proc_macro2::Span;
use syn::visit::{self, Visit};
use syn::{Block, ImplItemFn, ItemFn, Signature, TraitItemFn};

use super::exceptions::Exceptions;
use super::sources::Source;

const FUNCTION: usize = 60;
const FILE: usize = 400;

pub fn complaints(source: &Source, exceptions: &Exceptions<'_>) -> Vec<String> {
    let mut complaints = Vec::new();
    let lines = source.text.lines().count();
    if lines > FILE && !exceptions.lines(&source.path, lines) {
        let path = &source.path;
        complaints.push(format!(
            "{path}: {lines} lines, more than {FILE}: split it by job"
        ));
    }
    let mut functions = Functions(Vec::new());
    functions.visit_file(&source.syntax);
    for Function { name, line, lines } in functions.0 {
        let path = &source.path;
        if lines > FUNCTION && !exceptions.lines(&format!("{path}::{name}"), lines) {
            complaints.push(format!(
                "{path}:{line}: {name} has {lines} lines, more than {FUNCTION}"
            ));
        }
    }
    complaints
}

struct Function {
    name: String,
    line: usize,
    lines: usize,
}

struct Functions(Vec<Function>);

impl Functions {
    /// From `fn` to the last brace.
    fn add(&mut self, signature: &Signature, block: &Block) {
        let line = signature.fn_token.span.start().line;
        let end: Span = block.brace_token.span.close();
        let name = signature.ident.to_string();
        let lines = end.end().line - line + 1;
        self.0.push(Function { name, line, lines });
    }
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_fn(&mut self, function: &'ast ItemFn) {
        self.add(&function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast ImplItemFn) {
        self.add(&function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast TraitItemFn) {
        if let Some(block) = &function.default {
            self.add(&function.sig, block);
        }
        visit::visit_trait_item_fn(self, function);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: &str = "<!-- exceptions --><!-- /exceptions -->";

    fn complaints_about(text: String, exceptions: &str) -> Vec<String> {
        let source = Source::parse("a.rs", text).unwrap();
        complaints(&source, &Exceptions::read(exceptions).unwrap())
    }

    fn function(lines: usize) -> String {
        format!(
            "impl X {{\n    fn long() {{\n{}    }}\n}}",
            "\n".repeat(lines - 2)
        )
    }

    #[test]
    fn a_function_of_61_lines_is_too_long() {
        assert_eq!(complaints_about(function(60), NONE).len(), 0);
        let complaints = complaints_about(function(61), NONE);
        assert_eq!(complaints, ["a.rs:2: long has 61 lines, more than 60"]);
    }

    #[test]
    fn a_file_of_401_lines_is_too_long_unless_excused() {
        let text = "//\n".repeat(401);
        assert_eq!(complaints_about(text.clone(), NONE).len(), 1);
        let excused = "<!-- exceptions -->\n| where | what | why |\n|---|---|---|
| `a.rs` | 401 lines | a table |\n<!-- /exceptions -->";
        assert_eq!(complaints_about(text, excused).len(), 0);
    }
}
