//! The paths that a module names outside of tests, as they are written: in `use`, in code, in types, in what macros are
//! given.

use std::collections::BTreeMap;

use syn::{
    Attribute, ImplItem, Item, ItemMod, ItemUse, Macro, Path, Token, UseTree, Visibility,
    ext::IdentExt,
    parse::{ParseStream, Parser},
    token::{Brace, Bracket, Paren},
    visit::{self, Visit},
};

/// A path, segment by segment.
pub type Names = Vec<String>;

/// A path that is named.
pub struct Named {
    /// As it is written.
    pub path: Names,
    /// How many of its segments may be modules: in code, the last is an item.
    pub modules: usize,
}

/// What a module says: other modules by `mod`, and paths.
#[derive(Default)]
pub struct Said {
    /// Modules in files of their own.
    pub declared: Vec<String>,
    /// Modules within the file.
    pub inner: Vec<(String, Said)>,
    /// What `use` brings, by the name that it has here.
    pub used: BTreeMap<String, Names>,
    /// All paths, those of `use` too.
    pub named: Vec<Named>,
}

/// What the items of a module say.
pub fn said(items: &[Item]) -> Said {
    let mut said = Said::default();
    for item in items {
        said.visit_item(item);
    }
    said
}

impl Said {
    fn add_code(&mut self, path: Names) {
        self.named.push(Named { modules: path.len() - 1, path });
    }

    fn add_use(&mut self, tree: &UseTree, before: &[String]) {
        let with = |name: String| before.iter().cloned().chain([name]).collect::<Names>();
        let (path, name) = match tree {
            UseTree::Path(it) => return self.add_use(&it.tree, &with(it.ident.to_string())),
            UseTree::Group(it) => return it.items.iter().for_each(|tree| self.add_use(tree, before)),
            UseTree::Glob(_) => (before.to_vec(), None),
            UseTree::Name(it) if it.ident == "self" => (before.to_vec(), before.last().cloned()),
            UseTree::Name(it) => (with(it.ident.to_string()), Some(it.ident.to_string())),
            UseTree::Rename(it) if it.ident == "self" => (before.to_vec(), Some(it.rename.to_string())),
            UseTree::Rename(it) => (with(it.ident.to_string()), Some(it.rename.to_string())),
        };
        self.used.extend(name.map(|name| (name, path.clone())));
        self.named.push(Named { modules: path.len(), path });
    }

    /// Paths among tokens that need not be Rust.
    fn add_tokens(&mut self, input: ParseStream) -> syn::Result<()> {
        while !input.is_empty() {
            let inside;
            if input.peek(Paren) {
                syn::parenthesized!(inside in input);
                self.add_tokens(&inside)?;
            } else if input.peek(Bracket) {
                syn::bracketed!(inside in input);
                self.add_tokens(&inside)?;
            } else if input.peek(Brace) {
                syn::braced!(inside in input);
                self.add_tokens(&inside)?;
            } else if input.peek(syn::Ident::peek_any) {
                let mut path = vec![input.call(syn::Ident::parse_any)?.to_string()];
                while input.peek(Token![::]) && input.peek3(syn::Ident::peek_any) {
                    input.parse::<Token![::]>()?;
                    path.push(input.call(syn::Ident::parse_any)?.to_string());
                }
                self.add_code(path);
            } else {
                input.step(|cursor| Ok(((), cursor.token_tree().expect("there is more").1)))?;
            }
        }
        Ok(())
    }
}

impl<'ast> Visit<'ast> for Said {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_of_tests(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        if !matches!(item, ImplItem::Fn(it) if is_of_tests(&it.attrs)) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        let name = module.ident.to_string();
        match &module.content {
            Some((_, items)) => self.inner.push((name, said(items))),
            None => self.declared.push(name),
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.add_use(&item.tree, &[]);
    }

    /// Who may name an item needs nothing of them.
    fn visit_visibility(&mut self, _: &'ast Visibility) {}

    fn visit_path(&mut self, path: &'ast Path) {
        self.add_code(path.segments.iter().map(|it| it.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, called: &'ast Macro) {
        self.visit_path(&called.path);
        let parser = |input: ParseStream| self.add_tokens(input);
        parser.parse2(called.tokens.clone()).expect("any token is taken");
    }
}

fn is_of_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|it| {
        it.path().is_ident("cfg") && it.parse_args::<Path>().is_ok_and(|path| path.is_ident("test"))
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(it) => &it.attrs,
        Item::Enum(it) => &it.attrs,
        Item::Fn(it) => &it.attrs,
        Item::Impl(it) => &it.attrs,
        Item::Macro(it) => &it.attrs,
        Item::Mod(it) => &it.attrs,
        Item::Static(it) => &it.attrs,
        Item::Struct(it) => &it.attrs,
        Item::Trait(it) => &it.attrs,
        Item::Type(it) => &it.attrs,
        Item::Use(it) => &it.attrs,
        _ => &[],
    }
}
