//! The objects of each file, and of all files together. No I/O here.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::manifest::{Located, Manifest};
use ipamd_model::interned::Interned;
use ipamd_model::objects::{Batch, Change, Object, ObjectId, Refusal};

/// The files of a directory.
#[derive(Debug)]
pub(super) struct Files {
    by_path: BTreeMap<Arc<Path>, Contents>,
    /// Which files have which object: the first of an object's files counts.
    claims: BTreeSet<(ObjectId, Arc<Path>)>,
    /// Objects that more than one file has.
    doubled: BTreeSet<ObjectId>,
    /// Files that hold something that cannot be understood.
    refusing: BTreeSet<Arc<Path>>,
    /// What is wrong with directories.
    troubles: BTreeMap<PathBuf, Refusal>,
    /// What the objects that may have changed were when changes were last taken.
    before: BTreeMap<ObjectId, Option<Object>>,
    /// Whether the refusals may have changed since they were last told.
    refusals_may_differ: bool,
    told: Vec<Refusal>,
    interned: Interned,
    /// Less than every path.
    least: Arc<Path>,
}

/// What a file says.
#[derive(Debug, Default)]
struct Contents {
    /// Ordered by id.
    objects: Box<[Located]>,
    refusals: Box<[Refusal]>,
    /// It was never read: which objects it has is not known.
    unread: bool,
}

impl Contents {
    fn get(&self, id: &ObjectId) -> Option<&Located> {
        let at = self.objects.binary_search_by(|it| it.object.id().cmp(id)).ok()?;
        self.objects.get(at)
    }
}

impl Default for Files {
    fn default() -> Self {
        Self {
            by_path: BTreeMap::new(),
            claims: BTreeSet::new(),
            doubled: BTreeSet::new(),
            refusing: BTreeSet::new(),
            troubles: BTreeMap::new(),
            before: BTreeMap::new(),
            refusals_may_differ: false,
            told: Vec::new(),
            interned: Interned::default(),
            least: Path::new("").into(),
        }
    }
}

impl Files {
    /// Takes what a file says now. If an object is still in the file but no longer valid, its old version stays. If it is not
    /// known which objects the file has, the old versions of all its objects stay.
    pub fn put(&mut self, path: &Path, manifest: Manifest) {
        let mut objects = BTreeMap::new();
        for mut located in manifest.objects {
            self.interned.share(&mut located.object);
            objects.entry(located.object.id()).or_insert(located);
        }
        let refused: BTreeSet<_> = manifest.refusals.iter().filter_map(|it| it.object.as_ref()).collect();
        let unread = manifest.unread && self.by_path.get(path).is_none_or(|contents| contents.unread);
        let known = self.by_path.get(path).map_or(&[][..], |contents| &contents.objects);
        for located in known {
            let id = located.object.id();
            if !manifest.complete || refused.contains(&id) {
                objects.entry(id).or_insert_with(|| located.clone());
            }
        }
        let contents =
            Contents { objects: objects.into_values().collect(), refusals: manifest.refusals.into(), unread };
        let path = self.by_path.get_key_value(path).map_or_else(|| path.into(), |(path, _)| Arc::clone(path));
        self.replace(path, Some(contents));
    }

    /// Forgets a file that is gone.
    pub fn remove(&mut self, path: &Path) {
        if let Some((path, _)) = self.by_path.get_key_value(path) {
            self.replace(Arc::clone(path), None);
        }
    }

    /// Whether a file has objects.
    pub fn has_objects(&self, path: &Path) -> bool {
        self.by_path.get(path).is_some_and(|contents| !contents.objects.is_empty())
    }

    /// The objects of a file.
    pub fn ids(&self, path: &Path) -> impl Iterator<Item = ObjectId> + use<'_> {
        let objects = self.by_path.get(path).map_or(&[][..], |contents| &contents.objects);
        objects.iter().map(|it| it.object.id())
    }

    /// Whether no file has objects.
    pub fn are_none(&self) -> bool {
        self.claims.is_empty()
    }

    /// Why there are files that were never read.
    pub fn unread(&self) -> impl Iterator<Item = &Refusal> {
        let refusing = self.refusing.iter().filter_map(|path| self.by_path.get(path));
        refusing.filter(|contents| contents.unread).filter_map(|contents| contents.refusals.first())
    }

    /// Whether a file is known.
    pub fn has(&self, path: &Path) -> bool {
        self.by_path.contains_key(path)
    }

    /// The known files at a path and below it.
    pub fn below(&self, path: &Path) -> Vec<Arc<Path>> {
        let from =
            self.by_path.range::<Path, _>((std::ops::Bound::Included(path), std::ops::Bound::Unbounded));
        from.map(|(file, _)| file).take_while(|file| file.starts_with(path)).cloned().collect()
    }

    /// Notes what is wrong with a directory, or that nothing is any more.
    pub fn set_trouble(&mut self, directory: &Path, reason: Option<String>) {
        let changed = match reason {
            Some(reason) => {
                let Manifest { mut refusals, .. } = Manifest::unread(directory, 1, reason);
                let refusal = refusals.pop();
                refusal.map(|it| self.troubles.insert(directory.into(), it)).is_some()
            }
            None => self.troubles.remove(directory).is_some(),
        };
        self.refusals_may_differ |= changed;
    }

    /// Forgets what was wrong with directories below a path.
    pub fn clear_troubles(&mut self, below: &Path) {
        let known = self.troubles.len();
        self.troubles.retain(|directory, _| !directory.starts_with(below));
        self.refusals_may_differ |= self.troubles.len() != known;
    }

    /// What has changed since this was last asked.
    pub fn take(&mut self) -> Batch {
        self.keep_what_moved_and_is_refused();
        let (mut removals, mut puts) = (Vec::new(), Vec::new());
        for (id, before) in mem::take(&mut self.before) {
            match self.in_force(&id) {
                Some(now) if before.as_ref() != Some(now) => puts.push(Change::Put(now.clone())),
                None if before.is_some() => removals.push(Change::Remove(id)),
                _ => {}
            }
        }
        // Addresses of what is gone are free for what is new.
        removals.append(&mut puts);
        Batch { changes: removals, refusals: self.changed_refusals() }
    }

    fn changed_refusals(&mut self) -> Option<Vec<Refusal>> {
        if !mem::take(&mut self.refusals_may_differ) {
            return None;
        }
        let of_files = self.refusing.iter().filter_map(|path| self.by_path.get(path));
        let mut refusals: Vec<_> = self.troubles.values().cloned().collect();
        refusals.extend(of_files.flat_map(|contents| contents.refusals.iter().cloned()));
        refusals.extend(self.doubled.iter().flat_map(|id| self.passed_over(id)));
        refusals.sort_unstable();
        if refusals == self.told {
            return None;
        }
        self.told.clone_from(&refusals);
        Some(refusals)
    }

    /// A refusal for each file but the first that has an object.
    fn passed_over(&self, id: &ObjectId) -> Vec<Refusal> {
        let mut claims = self.claims_of(id).filter_map(|path| Some((path, self.by_path.get(path)?.get(id)?)));
        let Some((first, counts)) = claims.next() else { return Vec::new() };
        let reason = format!("this object is in {}:{} already, which counts", first.display(), counts.line);
        let refusal = |(path, located): (&Arc<Path>, &Located)| Refusal {
            file: path.to_path_buf(),
            line: located.line,
            object: Some(id.clone()),
            field: String::new(),
            reason: reason.clone(),
        };
        claims.map(refusal).collect()
    }

    /// If an object has left one file and is in another but not valid there, its old version stays.
    fn keep_what_moved_and_is_refused(&mut self) {
        let gone =
            self.before.iter().filter(|(id, before)| before.is_some() && self.claims_of(id).next().is_none());
        let mut kept = Vec::new();
        for (id, object) in gone {
            let refusal = self.refusing.iter().find_map(|path| {
                let refusals = &self.by_path.get(path)?.refusals;
                Some((path, refusals.iter().find(|it| it.object.as_ref() == Some(id))?))
            });
            if let (Some((path, refusal)), Some(object)) = (refusal, object) {
                kept.push((Arc::clone(path), Located { line: refusal.line, object: object.clone() }));
            }
        }
        for (path, located) in kept {
            let id = located.object.id();
            if let Some(contents) = self.by_path.get_mut(&path) {
                let mut objects = mem::take(&mut contents.objects).into_vec();
                let at = objects.partition_point(|it| it.object.id() < id);
                objects.insert(at, located);
                contents.objects = objects.into();
                self.claims.insert((id, path));
            }
        }
    }

    /// The files that have an object, in their order.
    fn claims_of(&self, id: &ObjectId) -> impl Iterator<Item = &Arc<Path>> + use<'_> {
        let id = id.clone();
        let from = self.claims.range((id.clone(), Arc::clone(&self.least))..);
        from.take_while(move |(claimed, _)| *claimed == id).map(|(_, path)| path)
    }

    /// An object as it counts now.
    fn in_force(&self, id: &ObjectId) -> Option<&Object> {
        let first = self.claims_of(id).next()?;
        Some(&self.by_path.get(first)?.get(id)?.object)
    }

    fn replace(&mut self, path: Arc<Path>, new: Option<Contents>) {
        let old = self.by_path.get(&path);
        let find = |contents: Option<&Contents>, id: &ObjectId| contents.and_then(|it| it.get(id)).is_some();
        let differs = |contents: Option<&Contents>, located: &Located, id: &ObjectId| {
            contents.and_then(|it| it.get(id)).is_none_or(|it| it.object != located.object)
        };
        let ids = |contents: Option<&Contents>, other: Option<&Contents>| -> Vec<ObjectId> {
            let all = contents.map_or(&[][..], |it| &it.objects).iter();
            all.map(|it| (it, it.object.id()))
                .filter(|(it, id)| differs(other, it, id))
                .map(|(_, id)| id)
                .collect()
        };
        let (left, come) = (ids(old, new.as_ref()), ids(new.as_ref(), old));
        let gone: Vec<_> = left.iter().filter(|id| !find(new.as_ref(), id)).cloned().collect();
        let added: Vec<_> = come.iter().filter(|id| !find(old, id)).cloned().collect();
        let refused_before = old.is_some_and(|it| !it.refusals.is_empty());
        let refuses_now = new.as_ref().is_some_and(|it| !it.refusals.is_empty());

        for id in left.into_iter().chain(come) {
            if !self.before.contains_key(&id) {
                let before = self.in_force(&id).cloned();
                self.before.insert(id, before);
            }
        }
        for id in &gone {
            self.claims.remove(&(id.clone(), Arc::clone(&path)));
        }
        for id in &added {
            self.claims.insert((id.clone(), Arc::clone(&path)));
        }
        // Lines may have moved.
        self.refusals_may_differ |= refused_before || refuses_now || !self.doubled.is_empty();
        for id in gone.into_iter().chain(added) {
            if self.claims_of(&id).nth(1).is_some() {
                self.refusals_may_differ = true;
                self.doubled.insert(id);
            } else {
                self.doubled.remove(&id);
            }
        }
        if refuses_now {
            self.refusing.insert(Arc::clone(&path));
        } else {
            self.refusing.remove(&path);
        }
        match new {
            Some(contents) => self.by_path.insert(path, contents),
            None => self.by_path.remove(&path),
        };
    }
}
