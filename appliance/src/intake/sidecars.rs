//! What lies beside images, belongs to them and moves with them. A folder is listed once for many images: each listing costs as much as
//! the folder is long.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::clock;
use crate::files::names::{self, Pattern};
use crate::files::{self, Dir, Moved, Source, Stamp};

/// A listing is used for so many times as long as it took: listing is then at most a twentieth of the work, and in a small folder a
/// sidecar that comes at the last moment is still seen.
const WORTH: u32 = 20;

/// The sidecars in folders from which images are being moved.
#[derive(Debug, Default)]
pub struct Sidecars {
    listed: HashMap<PathBuf, Listed>,
}

#[derive(Debug)]
struct Listed {
    names: BTreeSet<OsString>,
    /// All that may be an image.
    others: HashSet<OsString>,
    /// Since the machine's start.
    until: Duration,
}

impl Sidecars {
    /// Moves what belongs to `image` in `from` to `to`, under names that follow the `new` one that the image is about to get there. Before
    /// the image, so that nothing is left behind after a crash. `mark` tells a sidecar from another one of its name.
    ///
    /// # Errors
    /// I/O.
    pub fn carry(&mut self, patterns: &[Pattern], from: (&Dir, &OsStr), to: (&Dir, &OsStr), mark: &str) -> io::Result<()> {
        if patterns.is_empty() {
            return Ok(());
        }
        let ((beside, image), (target, new)) = (from, to);
        for name in self.of(image, beside, patterns)? {
            while let Some(found) = beside.stat(&name)?.filter(files::is_regular) {
                let sidecar = Source { root: beside, path: Path::new(&name), stamp: Stamp::from(&found), sha256: None };
                let (free, there) = choose(target, beside, &name, found.st_size, (image, new), mark)?;
                let moved = match there {
                    true => files::remove(&sidecar, target, &free)?,
                    false => files::relocate(&sidecar, target, &free)?,
                };
                if moved == Moved::Yes
                    && let Some(listed) = self.listed.get_mut(target.path())
                {
                    listed.names.insert(free);
                }
                if moved != Moved::Taken {
                    break;
                }
            }
        }
        Ok(())
    }

    /// The names in a folder that fit one of the patterns and belong to `image`; some of them may have left.
    fn of(&mut self, image: &OsStr, beside: &Dir, patterns: &[Pattern]) -> io::Result<Vec<OsString>> {
        let folder = beside.path();
        let now = clock::boot();
        if self.listed.get(folder).is_none_or(|listed| listed.until <= now) {
            self.listed.retain(|_, listed| listed.until > now);
            let (names, others) = list(beside, patterns)?;
            let listed = clock::boot();
            let until = listed + listed.saturating_sub(now) * WORTH;
            self.listed.insert(folder.to_owned(), Listed { names, others, until });
        }
        let Some(listed) = self.listed.get(folder) else { return Ok(Vec::new()) };
        Ok(belonging(&listed.names, &listed.others, image))
    }
}

/// The first name in `target` that is free, or holds the same bytes already: the sidecar's behind the image's new name, then with a mark
/// between the two, so that it belongs to the image in either case.
fn choose(
    target: &Dir,
    beside: &Dir,
    name: &OsStr,
    size: i64,
    (image, new): (&OsStr, &OsStr),
    mark: &str,
) -> io::Result<(OsString, bool)> {
    let signs = std::iter::once(String::new()).chain(files::marks(mark).map(|mark| format!(".{mark}")));
    let candidates = signs.map(|sign| names::following(name, image, new, &sign)).take_while(|name| name.len() <= names::LONGEST);
    let same = |candidate: &OsStr, found: &rustix::fs::Stat| {
        Ok(found.st_size == size && target.sha256_of(candidate)? == beside.sha256_of(name)?)
    };
    match files::choose_among(target, candidates, same)? {
        Some(found) => Ok(found),
        // Too long to tell whose it is; it is not left behind.
        None => files::choose(target, name, mark, |_, _| Ok(false)),
    }
}

/// Names alone: the state of each file would cost as much again.
fn list(folder: &Dir, patterns: &[Pattern]) -> io::Result<(BTreeSet<OsString>, HashSet<OsString>)> {
    let fits = |name: &OsString| patterns.iter().any(|pattern| pattern.fits(name));
    let (names, others): (Vec<_>, Vec<_>) = folder.names()?.into_iter().filter(|name| !names::ignored_file(name)).partition(fits);
    Ok((names.into_iter().collect(), others.into_iter().flat_map(|name| [names::stem(&name).to_owned(), name]).collect()))
}

/// They stand together in the order of names, behind the image's stem.
fn belonging(names: &BTreeSet<OsString>, others: &HashSet<OsString>, image: &OsStr) -> Vec<OsString> {
    let stem = names::stem(image);
    let beginning = |sign: &str| {
        let [mut from, mut to] = [stem.to_owned(), stem.to_owned()];
        from.push(sign);
        // The next sign in the order of bytes.
        to.push(if sign == "." { "/" } else { ";" });
        let own = |name: &&OsString| names::belongs_to(name, image) && !belongs_to_longer(name, others, image);
        names.range(from..to).filter(own).cloned()
    };
    beginning(".").chain(beginning(":")).collect()
}

/// Whether another file that is there, or its stem, is a longer beginning of the name: `a.b.png.xml` is of `a.b.png`, not of `a.png`.
fn belongs_to_longer(name: &OsStr, others: &HashSet<OsString>, image: &OsStr) -> bool {
    let (bytes, stem) = (name.as_bytes(), names::stem(image).len());
    let own = if bytes.starts_with(image.as_bytes()) { image.len() } else { stem };
    let ends = (own + 1..bytes.len()).filter(|at| matches!(bytes[*at], b'.' | b':'));
    ends.map(|at| OsStr::from_bytes(&bytes[..at])).any(|longer| longer != image && others.contains(longer))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> BTreeSet<OsString> {
        list.iter().map(OsString::from).collect()
    }

    #[test]
    fn what_belongs_to_an_image_is_found_among_its_neighbours() {
        let all = names(&["a.xml", "a.png.xml", "a.png:zone", "a:zone", "ab.xml", "a-1.xml", "a.tif.xml", "b.xml", "a.png"]);
        let none = HashSet::new();
        let mut found = belonging(&all, &none, OsStr::new("a.png"));
        found.sort();
        let every: Vec<OsString> = all.iter().filter(|name| names::belongs_to(name, OsStr::new("a.png"))).cloned().collect();
        assert_eq!(found, every);
        assert_eq!(found.len(), 5);
        assert_eq!(belonging(&all, &none, OsStr::new("ab")), ["ab.xml"]);
        let dotted = names(&["a.xml", "a.b.xml", "a.b.png.xml"]);
        let images: HashSet<OsString> = ["a.png", "a", "a.b.png", "a.b"].map(OsString::from).into();
        assert_eq!(belonging(&dotted, &images, OsStr::new("a.png")), ["a.xml"], "the longest name of an image wins");
        assert_eq!(belonging(&dotted, &images, OsStr::new("a.b.png")), ["a.b.png.xml", "a.b.xml"]);
    }

    #[test]
    fn a_folder_is_listed_again_when_its_listing_is_old() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, patterns) = (Dir::open(dir.path()).unwrap(), [Pattern::new("*.xml")]);
        let mut sidecars = Sidecars::default();
        let of = |sidecars: &mut Sidecars, name: &str| sidecars.of(OsStr::new(name), &folder, &patterns).unwrap();
        std::fs::write(dir.path().join("a.xml"), b"x").unwrap();
        std::fs::write(dir.path().join("a.json"), b"x").unwrap();
        assert_eq!(of(&mut sidecars, "a.png"), ["a.xml"]);
        let listed = sidecars.listed.get_mut(dir.path()).unwrap();
        listed.until = clock::boot() + Duration::from_secs(60);
        std::fs::write(dir.path().join("b.xml"), b"x").unwrap();
        assert!(of(&mut sidecars, "b.png").is_empty(), "the listing is still used");
        sidecars.listed.get_mut(dir.path()).unwrap().until = clock::boot();
        assert_eq!(of(&mut sidecars, "b.png"), ["b.xml"]);
    }
}
