//! Every configuration key once: its kind, default and meaning. `init` writes the file from this table and `load` checks against it.

/// What a key's value may be.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A folder that must exist when the daemon starts.
    Folder,
    /// A file that is written; its folder must exist.
    File,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A whole number within these borders.
    Whole(i64, i64),
    /// A number within these borders.
    Real(f64, f64),
    /// true or false.
    Flag,
    /// A list of patterns of file names, with `*` and `?`.
    Patterns,
    /// A list of minisign's public keys.
    PublicKeys,
    /// A list of keys by their numbers or whole.
    KeyIds,
}

/// One key of the configuration file.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The name in the file; `MMLNB_` + the name in capitals overrides it.
    pub name: &'static str,
    /// What it may hold.
    pub kind: Kind,
    /// The default as written in the file; `None`: must be set.
    pub default: Option<&'static str>,
    /// What it means, lines of a comment.
    pub meaning: &'static str,
}

const fn key(name: &'static str, kind: Kind, default: Option<&'static str>, meaning: &'static str) -> Key {
    Key { name, kind, default, meaning }
}

/// All keys in the order of the file.
pub const KEYS: &[Key] = &[
    key("bundle", Kind::Folder, None, "The bundle that mmlnb-export wrote. Every file in it is checked at start."),
    key(
        "public_keys",
        Kind::PublicKeys,
        Some("[]"),
        "Keys that bundles (the maker's) and qualifications (your site's) may be signed with, each the line RW... of a .pub file in quotes.",
    ),
    key(
        "revoked_keys",
        Kind::KeyIds,
        Some("[]"),
        "Keys that are trusted no longer, each the line RW... or the number of sixteen digits; what they signed is refused whatever else is set.",
    ),
    key(
        "allow_unsigned",
        Kind::Flag,
        Some("false"),
        "true takes a bundle or qualification without signature too, and without any public key also one whose signature nobody can check; reports say so.",
    ),
    key("inbox", Kind::Folder, None, "Watched with its subfolders; the first subfolder is the case."),
    key("done", Kind::Folder, None, "Images with a report go here; best on the same file system as the inbox."),
    key("failed", Kind::Folder, None, "Images that cannot be read go here, each with a note that says why."),
    key("state", Kind::Folder, None, "The ledger (ledger.sqlite) and the lock; a local file system only."),
    key(
        "provider",
        Kind::Word(&["auto", "cpu", "cuda"]),
        Some("\"auto\""),
        "auto takes the GPU when it can be used; cuda does too and warns when it cannot.",
    ),
    key("threads", Kind::Whole(0, 1024), Some("0"), "Threads for computing; 0 is all cores less one."),
    key("slots", Kind::Whole(1, 64), Some("4"), "Images that are described together."),
    key(
        "max_tokens",
        Kind::Whole(0, 131_072),
        Some("0"),
        "Room of a slot in tokens, prompt with image and description; 0 fits the bundle and images up to 1.6 million pixels.",
    ),
    key(
        "drafts",
        Kind::Flag,
        Some("true"),
        "Bundles at int8, int4 and int4+int8 read likely tokens of a lone image together: the same texts, sooner. false writes each by itself.",
    ),
    key(
        "watch",
        Kind::Word(&["auto", "inotify", "poll"]),
        Some("\"auto\""),
        "auto polls on NFS, SMB, FUSE, 9p and the like, whose events do not arrive.",
    ),
    key(
        "settle_ms",
        Kind::Whole(0, 3_600_000),
        Some("2000"),
        "A file is taken when it has not changed for this long and its end mark is there. When polling: at least 10000.",
    ),
    key(
        "incomplete_s",
        Kind::Whole(1, 604_800),
        Some("600"),
        "A file without an end mark that does not change for this long has failed.",
    ),
    key("max_file_mb", Kind::Whole(1, 1024), Some("64"), "Larger files are refused."),
    key("max_side_px", Kind::Whole(64, 32_768), Some("8192"), "Larger images are refused by their header, before decoding."),
    key("min_side_px", Kind::Whole(1, 4096), Some("32"), "Smaller images are refused."),
    key(
        "max_attempts",
        Kind::Whole(1, 100),
        Some("3"),
        "After so many deaths of the program, of the decoder, timeouts or engine errors on one file it fails.",
    ),
    key(
        "safe_mode_after",
        Kind::Whole(0, 1000),
        Some("10"),
        "After this many starts within an hour that ended uncleanly and finished no image nothing is assessed until a clean restart; 0: never.",
    ),
    key(
        "ignore",
        Kind::Patterns,
        Some(
            r#"["*:Zone.Identifier", "*.lnk", "*.url", "Picasa.ini", "*_exiftool_tmp", "*.ffs_tmp", "*.!sync", "*.sb-????????-??????"]"#,
        ),
        "Files of these names stay where they are and are never looked at. * and ? stand for any characters; case does not matter.",
    ),
    key(
        "sidecars",
        Kind::Patterns,
        Some(r#"["*.xml", "*.json", "*.xmp", "*.thm"]"#),
        "Files of these names are never taken for images; one that begins with an image's name moves along with it.",
    ),
    key(
        "allow_f16_on_cpu",
        Kind::Flag,
        Some("false"),
        "A describer in f16 is several times slower on a processor than in f32 and takes more memory; true runs it all the same.",
    ),
    key(
        "damaged",
        Kind::Word(&["fail", "abstain"]),
        Some("\"fail\""),
        "An image that is damaged fails; with abstain it gets a report with the flag damaged that is never accepted.",
    ),
    key("decode_s", Kind::Whole(1, 3600), Some("20"), "Time limit for decoding an image."),
    key(
        "assess_s",
        Kind::Whole(1, 86_400),
        Some("300"),
        "Time limit without progress for describing and classifying an image; each written token starts it anew.",
    ),
    key(
        "min_free_mb",
        Kind::Whole(0, 1_000_000),
        Some("256"),
        "Less free space than this on state, done or inbox: the appliance pauses and says so.",
    ),
    key(
        "indeterminate_below",
        Kind::Real(0.0, 1.0),
        Some("0.5"),
        "A top probability below this gets the flag low_probability; of a bundle that was never qualified the page says indeterminate.",
    ),
    key(
        "status_file",
        Kind::File,
        Some("\"\""),
        "Status for monitoring, without case names; empty: status.json in state, or in the service's run folder.",
    ),
];

/// The table's entry of this name.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}
