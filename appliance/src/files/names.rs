//! Names without I/O: what is ignored, which case a path belongs to, how a path is written as text, and how a taken or
//! overlong name changes. Paths are bytes; text is only for people.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path};

use unicode_normalization::UnicodeNormalization;

/// The longest name that still leaves room for `.` + name + `.report.html` + `.part` within 255 bytes.
pub const LONGEST: usize = 255 - ".".len() - ".report.html".len() - ".part".len();

/// The marker that proves that the inbox is mounted; it holds an identifier that the ledger knows.
pub const MARKER: &str = ".appliance-inbox";
/// The file by which `done` and `failed` are known again.
pub const END_MARKER: &str = ".appliance-end";

const IGNORED_PREFIXES: [&str; 2] = [".", "~$"];
const IGNORED_SUFFIXES: [&str; 20] = [
    ".part",
    ".partial",
    ".filepart",
    ".crdownload",
    ".download",
    ".tmp",
    ".temp",
    ".swp",
    ".lock",
    ".lck",
    ".!ut",
    ".report.html",
    ".report.json",
    ".note.html",
    ".note.json",
    ".review.csv",
    ".tiles.geojson",
    ".tissue.geojson",
    ".heatmap.tif",
    ".tiles.csv",
];
const IGNORED_NAMES: [&str; 4] = ["thumbs.db", "desktop.ini", "status.html", "status.txt"];
const IGNORED_FOLDERS: [&str; 7] =
    ["@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found", ".snapshot", ".stversions"];

/// Whether a file of this name is none of ours to judge: hidden, half transferred, or written by us or the operating system.
pub fn ignored_file(name: &OsStr) -> bool {
    let name = name.as_bytes().to_ascii_lowercase();
    IGNORED_PREFIXES.iter().any(|prefix| name.starts_with(prefix.as_bytes()))
        || IGNORED_SUFFIXES.iter().any(|suffix| name.ends_with(suffix.as_bytes()))
        || IGNORED_NAMES.iter().any(|whole| name == whole.as_bytes())
}

/// A pattern of file names: `*` stands for any characters, `?` for one; ASCII case does not matter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pattern(Vec<u8>);

impl Pattern {
    /// From its text.
    pub fn new(text: &str) -> Pattern {
        Pattern(text.to_ascii_lowercase().into_bytes())
    }

    /// Whether it fits the whole name.
    pub fn fits(&self, name: &OsStr) -> bool {
        let name = name.as_bytes().to_ascii_lowercase();
        let (mut at, mut sign, mut star) = (0, 0, None);
        while at < name.len() {
            match self.0.get(sign) {
                Some(b'*') => {
                    star = Some((sign, at));
                    sign += 1;
                }
                Some(found) if *found == b'?' || *found == name[at] => (at, sign) = (at + 1, sign + 1),
                // Back to the last star, which takes one character more.
                _ => match star {
                    Some((place, taken)) => (star, sign, at) = (Some((place, taken + 1)), place + 1, taken + 1),
                    None => return false,
                },
            }
        }
        self.0[sign..].iter().all(|sign| *sign == b'*')
    }
}

/// Extensions of files that people drop as images or slides; every other ending may be one that a copying tool uses meanwhile.
const IMAGE_ENDINGS: [&str; 28] = [
    "png", "jpg", "jpeg", "jpe", "jfif", "tif", "tiff", "bmp", "dib", "svs", "ndpi", "scn", "mrxs", "vms", "vmu", "bif",
    "svslide", "czi", "dcm", "dicom", "isyntax", "qptiff", "vsi", "ets", "zip", "dzi", "gif", "webp",
];

/// Whether a file of this name is left where it lies and never judged: [`ignored_file`], or one that fits a pattern of these lists.
pub fn left_alone(name: &OsStr, lists: &[&[Pattern]]) -> bool {
    ignored_file(name) || lists.iter().any(|list| list.iter().any(|pattern| pattern.fits(name)))
}

/// Whether a copying tool may have given the name for the time of its work: its last extension is no image's, or it is `tmp.{..}`.
pub fn may_be_temporary(name: &OsStr) -> bool {
    let name = name.as_bytes().to_ascii_lowercase();
    let ending = name.rsplit(|byte| *byte == b'.').next().filter(|ending| ending.len() < name.len());
    let image = ending.is_some_and(|ending| IMAGE_ENDINGS.iter().any(|known| known.as_bytes() == ending));
    !image || name.starts_with(b"tmp.{") || name.starts_with(b"tmp_")
}

/// The name without its extension.
pub fn stem(name: &OsStr) -> &OsStr {
    let name = name.as_bytes();
    OsStr::from_bytes(&name[..name.iter().rposition(|byte| *byte == b'.').filter(|dot| *dot > 0).unwrap_or(name.len())])
}

/// Whether a sidecar belongs to an image: `x.xml` and `x.png.xml` to `x.png`. Its name then begins with the image's [`stem`] and a dot or colon.
pub fn belongs_to(sidecar: &OsStr, image: &OsStr) -> bool {
    let stem = stem(image).as_bytes();
    let (sidecar, image) = (sidecar.as_bytes(), image.as_bytes());
    let follows =
        |whole: &[u8]| sidecar.strip_prefix(whole).is_some_and(|rest| rest.first().is_some_and(|byte| b".:".contains(byte)));
    sidecar != image && (follows(image) || follows(stem))
}

/// The sidecar's name when its image gets another one: it follows the image, so that [`belongs_to`] holds there too. `sign`: stands between
/// the two, empty or beginning with a dot.
pub fn following(sidecar: &OsStr, image: &OsStr, new: &OsStr, sign: &str) -> OsString {
    debug_assert!(belongs_to(sidecar, image));
    let (bytes, whole) = (sidecar.as_bytes(), image.as_bytes());
    let (own, new) = if bytes.starts_with(whole) { (whole.len(), new) } else { (stem(image).len(), stem(new)) };
    OsString::from_vec([new.as_bytes(), sign.as_bytes(), &bytes[own..]].concat())
}

/// Whether a folder of this name is not descended: hidden, a share's own, or a slide format that is a folder.
pub fn ignored_folder(name: &OsStr) -> bool {
    let name = name.as_bytes().to_ascii_lowercase();
    name.starts_with(b".") || name.ends_with(b".zarr") || IGNORED_FOLDERS.iter().any(|whole| name == whole.as_bytes())
}

/// The folder, in lower case, that holds the tiles of a whole slide that lies beside it: `slide.mrxs` + `slide/`, `slide.dzi` +
/// `slide_files/`, `slide.vsi` + `_slide_/`.
pub fn companion_of(file: &OsStr) -> Option<Vec<u8>> {
    let file = file.as_bytes().to_ascii_lowercase();
    if let Some(stem) = file.strip_suffix(b".mrxs").or(file.strip_suffix(b".vms")) {
        return Some(stem.to_owned());
    }
    if let Some(stem) = file.strip_suffix(b".dzi") {
        return Some([stem, b"_files"].concat());
    }
    file.strip_suffix(b".vsi").map(|stem| [b"_", stem, b"_"].concat())
}

/// The case of a path below the inbox: its first folder, or "" for a file at the top. Composed, so that a name that one system writes
/// in pieces (`u` and dots) and another as a whole is one case; paths keep their bytes.
pub fn case_of(relative: &Path) -> String {
    let mut parts = relative.components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(first)), Some(_)) => case_name(first),
        _ => String::new(),
    }
}

/// A case as the ledger has it, from the name of its folder in any form.
pub fn case_name(folder: &OsStr) -> String {
    text(folder.as_bytes()).nfc().collect()
}

/// Characters that show nothing themselves and change how the rest is read: directions of writing, invisible marks, line separators,
/// tags. A name that holds them can look like another one. The joiners of emoji and of Persian stay.
fn steers(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{200b}' | '\u{200e}' | '\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}'
    )
}

/// A path as text: UTF-8 as it is; control characters, characters that change the direction of writing or are invisible, and bytes that
/// are no UTF-8 as `%XX`.
pub fn text(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || steers(c) {
                let mut utf8 = [0; 4];
                c.encode_utf8(&mut utf8).bytes().for_each(|byte| out.push_str(&format!("%{byte:02X}")));
            } else {
                out.push(c);
            }
        }
        chunk.invalid().iter().for_each(|byte| out.push_str(&format!("%{byte:02X}")));
    }
    out
}

/// As [`text`], of a path.
pub fn shown(path: &Path) -> String {
    text(path.as_os_str().as_bytes())
}

/// The name under which a file is tried first in `done` or `failed`: its own, or cut and marked when it is overlong.
pub fn target(name: &OsStr, mark: &str) -> OsString {
    if name.as_bytes().len() <= LONGEST {
        return name.to_owned();
    }
    marked(name, mark)
}

/// `STEM~MARK.EXT`, the stem cut at a character border so that the name never exceeds [`LONGEST`] bytes.
pub fn marked(name: &OsStr, mark: &str) -> OsString {
    let bytes = name.as_bytes();
    let dot = bytes.iter().rposition(|byte| *byte == b'.').filter(|dot| *dot > 0 && bytes.len() - dot <= 16);
    let (stem, extension) = bytes.split_at(dot.unwrap_or(bytes.len()));
    let room = LONGEST - extension.len() - mark.len() - "~".len();
    let stem = cut(stem, room);
    OsString::from_vec([stem, b"~", mark.as_bytes(), extension].concat())
}

fn cut(stem: &[u8], room: usize) -> &[u8] {
    if stem.len() <= room {
        return stem;
    }
    let inside = |byte: u8| byte & 0b1100_0000 == 0b1000_0000;
    let mut end = room;
    while end > 0 && room - end < 3 && inside(stem[end]) {
        end -= 1;
    }
    &stem[..end]
}

/// `NAME` + a suffix of ours, such as `.report.html`.
pub fn beside(name: &OsStr, suffix: &str) -> OsString {
    let mut out = name.to_owned();
    out.push(suffix);
    out
}

/// The hidden name under which a file of ours is written before it is renamed into place.
pub fn part(name: &OsStr) -> OsString {
    let mut out = OsString::from(".");
    out.push(name);
    out.push(".part");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ignores_what_others_write_and_what_we_write() {
        for name in [
            ".x.png",
            "~$x.tif",
            "._x.png",
            "x.png.part",
            "x.PNG.FilePart",
            "Thumbs.db",
            "STATUS.html",
            "status.TXT",
            "x.png.report.html",
            "x.png.report.json",
            "x.png.note.html",
            "x.png.note.json",
            "a.review.csv",
            ".appliance-inbox",
            "x.crdownload",
            "x.!ut",
        ] {
            assert!(ignored_file(OsStr::new(name)), "{name}");
        }
        for name in ["x.png", "part", "report.html.png", "notes.tif", "STATUS.png", "x.part.png", "tmp"] {
            assert!(!ignored_file(OsStr::new(name)), "{name}");
        }
        assert!(ignored_folder(OsStr::new("@eaDir")));
        assert!(ignored_folder(OsStr::new("System Volume Information")));
        assert!(!ignored_folder(OsStr::new("S26-01234")));
    }

    #[test]
    fn companions_of_slides_are_recognised() {
        for (file, folder) in
            [("Slide.mrxs", Some("slide")), ("other.vsi", Some("_other_")), ("A.dzi", Some("a_files")), ("a.png", None)]
        {
            assert_eq!(companion_of(OsStr::new(file)).as_deref(), folder.map(str::as_bytes), "{file}");
        }
    }

    #[test]
    fn patterns_fit_whole_names() {
        for (pattern, name, fits) in [
            ("*.xml", "a.XML", true),
            ("*.xml", "a.xml.png", false),
            ("*:Zone.Identifier", "a.png:Zone.Identifier", true),
            ("a?c*", "abcdef", true),
            ("a?c", "ac", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*", "", true),
            ("Picasa.ini", "picasa.INI", true),
        ] {
            assert_eq!(Pattern::new(pattern).fits(OsStr::new(name)), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn names_of_copying_tools_are_told_from_those_of_images() {
        for name in [
            "x.png.ffs_tmp",
            "x.png_exiftool_tmp",
            "x.png.sb-1a2b3c4d-AbCdEf",
            "x.png.!sync",
            "x.png.~4ef5",
            "tmp.{4F-1}.png",
            "x",
        ] {
            assert!(may_be_temporary(OsStr::new(name)), "{name}");
        }
        for name in ["x.png", "X.JPEG", "x.tar.tif", "slide.svs", "tmp.png"] {
            assert!(!may_be_temporary(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn sidecars_know_their_image() {
        for (sidecar, belongs) in
            [("x.xml", true), ("x.png.xml", true), ("x.png:Zone.Identifier", true), ("x2.xml", false), ("x.png", false)]
        {
            assert_eq!(belongs_to(OsStr::new(sidecar), OsStr::new("x.png")), belongs, "{sidecar}");
        }
    }

    #[test]
    fn the_first_folder_is_the_case() {
        assert_eq!(case_of(Path::new("x.png")), "");
        assert_eq!(case_of(Path::new("S1/x.png")), "S1");
        assert_eq!(case_of(Path::new("S1/left/x.png")), "S1");
        assert_eq!(case_of(Path::new("Mu\u{308}ller/x.png")), case_of(Path::new("M\u{fc}ller/x.png")));
    }

    #[test]
    fn text_escapes_controls_and_foreign_bytes() {
        assert_eq!(text("ü x".as_bytes()), "ü x");
        assert_eq!(text(b"a\nb\xFFc"), "a%0Ab%FFc");
        assert_eq!(text("x\u{202e}gnp.exe".as_bytes()), "x%E2%80%AEgnp.exe");
        for c in ["\u{200b}", "\u{2066}", "\u{feff}", "\u{2028}", "\u{85}", "\u{e0041}"] {
            assert!(text(c.as_bytes()).starts_with('%'), "{c:?}");
        }
    }

    #[test]
    fn a_taken_name_gets_the_hash_before_its_extension() {
        assert_eq!(marked(OsStr::new("x.png"), "0011aabb"), OsStr::new("x~0011aabb.png"));
        assert_eq!(marked(OsStr::new("noext"), "0011aabb"), OsStr::new("noext~0011aabb"));
        assert_eq!(target(OsStr::new("x.png"), "0011aabb"), OsStr::new("x.png"));
    }

    #[test]
    fn umlauts_are_not_cut_in_half() {
        let long = format!("{}.png", "ü".repeat(120));
        let name = target(OsStr::new(&long), "0011aabb");
        assert!(name.to_str().is_some());
        assert!(name.as_bytes().len() <= LONGEST);
    }

    proptest! {
        #[test]
        fn no_name_exceeds_its_room(name in proptest::collection::vec(1u8..=255, 1..=255)) {
            let name = OsString::from_vec(name);
            let target = target(&name, "0011aabb");
            prop_assert!(target.as_bytes().len() <= LONGEST);
            prop_assert!(part(&beside(&target, ".report.html")).as_bytes().len() <= 255);
            prop_assert!(!target.is_empty());
        }

        #[test]
        fn text_never_holds_controls(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(!text(&bytes).chars().any(char::is_control));
        }
    }
}
