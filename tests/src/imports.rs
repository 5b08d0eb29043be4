//! Which file of a crate takes what from which other: by `use` or by a path in its code, also inside macros. `mod` lines and re-exports are no taking; what
//! is taken through a re-export is taken from the file that defines it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::Visit;
use syn::{Item, UseTree, Visibility};

/// A module's full name, from the crate's root.
type Name = Vec<String>;

/// What a name in a module stands for.
enum Meaning {
    /// Something that the module itself defines, not a module.
    Defined,
    /// A module below it.
    Module,
    /// What another path means.
    Imported(Vec<String>),
}

/// A module, which is a file or a part of one.
struct Module {
    file: PathBuf,
    names: BTreeMap<String, Meaning>,
    globs: Vec<Vec<String>>,
    /// Paths that its code holds.
    paths: Vec<Vec<String>>,
}

/// The circles of files of a crate whose root is `src/lib.rs` or `src/main.rs` in `room`: each a list of files that reach each other.
///
/// # Panics
/// A file that cannot be read or is no Rust.
pub fn circles(room: &Path) -> Vec<BTreeSet<PathBuf>> {
    circles_of(&taken(&modules_of(room)))
}

fn modules_of(room: &Path) -> BTreeMap<Name, Module> {
    let source = room.join("src");
    let root = ["lib.rs", "main.rs"].map(|name| source.join(name)).into_iter().find(|file| file.exists());
    let mut modules = BTreeMap::new();
    read(&root.unwrap_or_else(|| panic!("{} has no root", source.display())), Vec::new(), &source, &mut modules);
    modules
}

/// The files of a crate that name something below a path of another crate, by `use`, re-export or in code.
///
/// # Panics
/// A file that cannot be read or is no Rust.
pub fn files_that_name(room: &Path, path: &[&str]) -> BTreeSet<PathBuf> {
    let names = |module: &Module| {
        let imported = module.names.values().filter_map(|meaning| match meaning {
            Meaning::Imported(path) => Some(path),
            Meaning::Defined | Meaning::Module => None,
        });
        imported.chain(&module.globs).chain(&module.paths).any(|found| found.iter().take(path.len()).eq(path))
    };
    modules_of(room).into_values().filter(names).map(|module| module.file).collect()
}

/// Each file with those it takes something from.
fn taken(modules: &BTreeMap<Name, Module>) -> BTreeMap<&Path, BTreeSet<&Path>> {
    let mut edges: BTreeMap<&Path, BTreeSet<&Path>> = BTreeMap::new();
    for (name, module) in modules {
        let from = edges.entry(&module.file).or_default();
        for path in &module.paths {
            from.extend(resolve(modules, name, path, 0).filter(|file| *file != module.file));
        }
    }
    edges
}

/// The file that defines what a path in a module means; none outside the crate.
fn resolve<'m>(modules: &'m BTreeMap<Name, Module>, from: &[String], path: &[String], depth: usize) -> Option<&'m Path> {
    let mut at = from.to_vec();
    for (place, segment) in path.iter().enumerate() {
        match segment.as_str() {
            "crate" if place == 0 => at.clear(),
            "self" => {}
            "super" => drop(at.pop()?),
            name => {
                let module = &modules[&at];
                match module.names.get(name) {
                    Some(Meaning::Defined) => return Some(&module.file),
                    Some(Meaning::Module) => at.push(name.to_owned()),
                    Some(Meaning::Imported(target)) if depth < 16 => {
                        let whole: Vec<String> = target.iter().chain(&path[place + 1..]).cloned().collect();
                        return resolve(modules, &at, &whole, depth + 1);
                    }
                    Some(Meaning::Imported(_)) => return None,
                    None => {
                        let through = |glob: &Vec<String>| {
                            let whole: Vec<String> = glob.iter().chain(&path[place..]).cloned().collect();
                            resolve(modules, &at, &whole, depth + 1)
                        };
                        return module.globs.iter().filter(|_| depth < 16).find_map(through);
                    }
                }
            }
        }
    }
    modules.get(&at).map(|module| module.file.as_path())
}

/// Reads a file and those of its modules; `folder` is where its child modules lie.
fn read(file: &Path, name: Name, folder: &Path, modules: &mut BTreeMap<Name, Module>) {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    read_items(&parsed.items, file, name, folder, modules);
}

fn read_items(items: &[Item], file: &Path, name: Name, folder: &Path, modules: &mut BTreeMap<Name, Module>) {
    let mut module = Module { file: file.to_owned(), names: BTreeMap::new(), globs: Vec::new(), paths: Vec::new() };
    for item in items {
        match item {
            Item::Mod(inner) => {
                let own = inner.ident.to_string();
                let below: Name = name.iter().cloned().chain([own.clone()]).collect();
                let folder_below = folder.join(&own);
                match &inner.content {
                    Some((_, items)) => read_items(items, file, below, &folder_below, modules),
                    None => {
                        let candidates = [folder.join(format!("{own}.rs")), folder_below.join("mod.rs")];
                        let found = candidates.iter().find(|file| file.exists());
                        read(
                            found.unwrap_or_else(|| panic!("no file for {own} in {}", folder.display())),
                            below,
                            &folder_below,
                            modules,
                        );
                    }
                }
                module.names.insert(own, Meaning::Module);
            }
            Item::Use(item) => {
                let exported = !matches!(item.vis, Visibility::Inherited);
                flatten(&item.tree, &mut Vec::new(), &mut |alias, path| {
                    if !exported {
                        module.paths.push(path.clone());
                    }
                    match alias {
                        Some(alias) => drop(module.names.insert(alias, Meaning::Imported(path))),
                        None => module.globs.push(path),
                    }
                });
            }
            other => {
                if let Some(defined) = defined(other) {
                    module.names.insert(defined, Meaning::Defined);
                }
                Paths(&mut module.paths).visit_item(other);
            }
        }
    }
    modules.insert(name, module);
}

fn defined(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        _ => return None,
    };
    Some(ident.to_string())
}

/// Each leaf of a `use` with its alias; a glob has none.
fn flatten(tree: &UseTree, before: &mut Vec<String>, leaf: &mut impl FnMut(Option<String>, Vec<String>)) {
    match tree {
        UseTree::Path(path) => {
            before.push(path.ident.to_string());
            flatten(&path.tree, before, leaf);
            before.pop();
        }
        UseTree::Name(name) if name.ident == "self" => leaf(before.last().cloned(), before.clone()),
        UseTree::Name(name) => leaf(Some(name.ident.to_string()), with(before, &name.ident)),
        UseTree::Rename(name) => leaf(Some(name.rename.to_string()), with(before, &name.ident)),
        UseTree::Glob(_) => leaf(None, before.clone()),
        UseTree::Group(group) => group.items.iter().for_each(|tree| flatten(tree, before, leaf)),
    }
}

fn with(before: &[String], last: &syn::Ident) -> Vec<String> {
    before.iter().cloned().chain([last.to_string()]).collect()
}

/// Collects the paths of code.
struct Paths<'p>(&'p mut Vec<Vec<String>>);

impl<'ast> Visit<'ast> for Paths<'_> {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.leading_colon.is_none() {
            self.0.push(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        }
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, called: &'ast syn::Macro) {
        syn::visit::visit_macro(self, called);
        self.scan(called.tokens.clone());
    }

    fn visit_attribute(&mut self, _: &'ast syn::Attribute) {}

    fn visit_visibility(&mut self, _: &'ast Visibility) {}
}

impl Paths<'_> {
    /// Words with `::` between them.
    fn scan(&mut self, tokens: TokenStream) {
        let (mut path, mut colons) = (Vec::new(), 0);
        for token in tokens {
            match token {
                TokenTree::Ident(word) if colons == 2 => path.push(word.to_string()),
                TokenTree::Ident(word) => self.next(&mut path, Some(word.to_string())),
                TokenTree::Punct(punct) if punct.as_char() == ':' && !path.is_empty() => {
                    colons += 1;
                    continue;
                }
                TokenTree::Group(group) => {
                    self.next(&mut path, None);
                    self.scan(group.stream());
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => self.next(&mut path, None),
            }
            colons = 0;
        }
        self.next(&mut path, None);
    }

    fn next(&mut self, path: &mut Vec<String>, word: Option<String>) {
        let whole = std::mem::replace(path, word.into_iter().collect());
        // A word alone may be anything: a variable, a key, a tag.
        if whole.len() > 1 {
            self.0.push(whole);
        }
    }
}

/// Groups of files of which each reaches each other.
fn circles_of(edges: &BTreeMap<&Path, BTreeSet<&Path>>) -> Vec<BTreeSet<PathBuf>> {
    let reaches: BTreeMap<&Path, BTreeSet<&Path>> = edges.keys().map(|file| (*file, reached(edges, file))).collect();
    let mut circles: Vec<BTreeSet<PathBuf>> = Vec::new();
    for (file, others) in reaches.iter().filter(|(file, others)| others.contains(*file)) {
        if circles.iter().any(|circle| circle.contains(*file)) {
            continue;
        }
        let members = others.iter().filter(|other| reaches[*other].contains(file));
        circles.push(members.map(|member| member.to_path_buf()).collect());
    }
    circles
}

/// The files that a file takes from, directly or through others.
fn reached<'m>(edges: &BTreeMap<&'m Path, BTreeSet<&'m Path>>, from: &'m Path) -> BTreeSet<&'m Path> {
    let (mut seen, mut waiting) = (BTreeSet::new(), vec![from]);
    while let Some(file) = waiting.pop() {
        waiting.extend(edges.get(file).into_iter().flatten().copied().filter(|file| seen.insert(*file)));
    }
    seen
}
