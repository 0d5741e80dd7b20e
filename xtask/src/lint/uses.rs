//! Which modules of ours a source names: in `use`, in paths and in what it gives to macros.

use std::collections::BTreeSet;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Ident, ItemMod, ItemUse, Macro, Path, UseTree, Visibility};

use super::sources::Source;

/// Our crates by the names that others use, and where they are.
const CRATES: [(&str, &str); 2] = [
    ("proxy_common", "proxy-common/src"),
    ("truepeer", "proxy-userspace/src"),
];
const ROOTS: [&str; 2] = ["lib.rs", "main.rs"];

/// A file that is named, and the line where.
pub struct Use {
    pub file: String,
    pub line: usize,
}

/// `files` are the paths of all sources.
pub fn find(source: &Source, files: &BTreeSet<&str>) -> Vec<Use> {
    let Some((root, module)) = module(&source.path) else {
        return Vec::new();
    };
    let found = Vec::new();
    let mut finder = Finder {
        files,
        root,
        module,
        found,
    };
    finder.visit_file(&source.syntax);
    finder.found
}

/// The directory of its crate's root, and what its module is called below that.
fn module(path: &str) -> Option<(&str, Vec<String>)> {
    let end = path.find("/src/")? + "/src".len();
    let (root, below) = (&path[..end], &path[end + 1..]);
    let mut names: Vec<_> = below.strip_suffix(".rs")?.split('/').collect();
    if ROOTS.contains(&below) || names.last() == Some(&"mod") {
        names.pop();
    }
    Some((root, names.into_iter().map(str::to_owned).collect()))
}

struct Finder<'a> {
    files: &'a BTreeSet<&'a str>,
    root: &'a str,
    /// Where the visit is, in modules within the file too.
    module: Vec<String>,
    found: Vec<Use>,
}

impl Finder<'_> {
    fn add(&mut self, path: &[&Ident]) {
        let names: Vec<_> = path.iter().map(ToString::to_string).collect();
        if let (Some(first), Some(file)) = (path.first(), self.resolve(&names)) {
            let line = first.span().start().line;
            self.found.push(Use { file, line });
        }
    }

    /// The file of the module that a path leads to or through.
    fn resolve(&self, path: &[String]) -> Option<String> {
        let (first, rest) = path.split_first()?;
        let other = CRATES.iter().find(|(name, _)| name == first);
        match (first.as_str(), other) {
            (_, Some((_, root))) => self.file(root, rest),
            ("crate", _) => self.file(self.root, rest),
            ("self", _) => self.file(self.root, &[&self.module, rest].concat()),
            ("super", _) => self.above(path),
            // A child's name, without `self`.
            _ => {
                let child = [self.module.as_slice(), path].concat();
                let depth = self.module.len() + 1;
                self.is_file(self.root, &child[..depth])?;
                self.file(self.root, &child)
            }
        }
    }

    fn above(&self, path: &[String]) -> Option<String> {
        let up = path.iter().take_while(|name| *name == "super").count();
        let module = &self.module[..self.module.len().checked_sub(up)?];
        self.file(self.root, &[module, &path[up..]].concat())
    }

    /// Whatever is no module in `path` is in the one before it.
    fn file(&self, root: &str, path: &[String]) -> Option<String> {
        let modules = (0..=path.len()).rev().map(|depth| &path[..depth]);
        modules
            .filter_map(|module| self.is_file(root, module))
            .next()
    }

    fn is_file(&self, root: &str, module: &[String]) -> Option<String> {
        let path = [&[root.to_owned()], module].concat().join("/");
        let candidates = match module {
            [] => ROOTS.map(|name| format!("{root}/{name}")),
            _ => [format!("{path}.rs"), format!("{path}/mod.rs")],
        };
        candidates
            .into_iter()
            .find(|file| self.files.contains(file.as_str()))
    }

    fn tree<'ast>(&mut self, tree: &'ast UseTree, before: &[&'ast Ident]) {
        let with = |ident| [before, &[ident]].concat();
        match tree {
            UseTree::Path(path) => self.tree(&path.tree, &with(&path.ident)),
            UseTree::Name(name) => self.add(&with(&name.ident)),
            UseTree::Rename(rename) => self.add(&with(&rename.ident)),
            UseTree::Glob(_) => self.add(before),
            UseTree::Group(group) => group.items.iter().for_each(|item| self.tree(item, before)),
        }
    }

    /// What a macro makes of its tokens nobody knows, but its paths are paths.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<Ident> = Vec::new();
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => path.push(ident),
                TokenTree::Punct(colon) if colon.as_char() == ':' => {}
                other => {
                    self.add(&path.iter().collect::<Vec<_>>());
                    path.clear();
                    if let TokenTree::Group(group) = other {
                        self.tokens(group.stream());
                    }
                }
            }
        }
        self.add(&path.iter().collect::<Vec<_>>());
    }
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        self.module.push(module.ident.to_string());
        visit::visit_item_mod(self, module);
        self.module.pop();
    }

    fn visit_item_use(&mut self, used: &'ast ItemUse) {
        self.tree(&used.tree, &[]);
    }

    fn visit_path(&mut self, path: &'ast Path) {
        let names: Vec<_> = path.segments.iter().map(|segment| &segment.ident).collect();
        self.add(&names);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, called: &'ast Macro) {
        self.tokens(called.tokens.clone());
        visit::visit_macro(self, called);
    }

    /// `pub(crate)` uses nothing of the crate.
    fn visit_visibility(&mut self, _: &'ast Visibility) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: [&str; 6] = [
        "proxy-common/src/lib.rs",
        "proxy-userspace/src/lib.rs",
        "proxy-userspace/src/app/mod.rs",
        "proxy-userspace/src/app/listen.rs",
        "proxy-userspace/src/relay/mod.rs",
        "proxy-userspace/src/sys.rs",
    ];

    /// Without the directory.
    fn used(text: &str) -> Vec<String> {
        let source = Source::parse("proxy-userspace/src/app/mod.rs", text.to_owned()).unwrap();
        let found = find(&source, &FILES.into_iter().collect()).into_iter();
        let short = |file: &str| file.replace("proxy-userspace/src/", "");
        found.map(|used| short(&used.file)).collect()
    }

    #[test]
    fn imports_lead_to_files() {
        let tree = "use crate::{relay::{Report, list::Entry}, sys};\nuse super::relay::*;";
        let relay = "relay/mod.rs";
        assert_eq!(used(tree), [relay, relay, "sys.rs", relay]);
        assert_eq!(used("use proxy_common::Flags;"), [FILES[0]]);
        assert_eq!(used("use std::fs; use tokio::net;"), [""; 0]);
    }

    #[test]
    fn paths_are_found_wherever_they_are() {
        assert_eq!(used("fn a(b: crate::sys::Fd) {}"), ["sys.rs"]);
        assert_eq!(
            used("fn a() { println!(\"{}\", crate::sys::X); }"),
            ["sys.rs"]
        );
        assert_eq!(used("fn a() { listen::open(); }"), ["app/listen.rs"]);
        assert_eq!(used("pub(crate) fn a() {}"), [""; 0]);
    }

    #[test]
    fn a_module_within_the_file_is_one_deeper() {
        assert_eq!(used("mod tests { use super::*; }"), ["app/mod.rs"]);
        assert_eq!(used("mod tests { use super::super::sys; }"), ["sys.rs"]);
    }
}
