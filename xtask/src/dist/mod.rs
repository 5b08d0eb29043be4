//! `cargo xtask dist`: the appliance as a Debian package, with its bill of materials and checksums.

mod deb;
mod sbom;

use crate::{
    appliance::{finish, say, service_configuration},
    boot::on_path,
    checkout, licences, setup,
};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use deb::Tree;
use jiff::Timestamp;
use mmlnb_models::hash;
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The programs of the package. The trainer is not among them: it needs libtorch, ten times the size of all else.
const PROGRAMS: [&str; 2] = ["mmlnb-appliance", "mmlnb-export"];
/// The native library of the package.
pub const NATIVE: &str = "libonnxruntime.so.1.28.0";
/// What the service's own files are called, from, to.
pub const SERVICE_FILES: [(&str, &str); 4] = [
    ("mmlnb-appliance.service", "usr/lib/systemd/system/mmlnb-appliance.service"),
    ("sysusers.conf", "usr/lib/sysusers.d/mmlnb.conf"),
    ("tmpfiles.conf", "usr/lib/tmpfiles.d/mmlnb.conf"),
    ("sysctl.conf", "usr/lib/sysctl.d/60-mmlnb.conf"),
];
/// What dpkg runs when the package comes and goes.
const SCRIPTS: [(&str, &str); 3] = [
    ("postinst", include_str!("debian/postinst")),
    ("prerm", include_str!("debian/prerm")),
    ("postrm", include_str!("debian/postrm")),
];
/// The folder of the documents in the package; the unit names it too.
const DOCS: &str = "usr/share/doc/mmlnb";
/// The newest C library of the 2.x series that Debian 12 has.
const GLIBC: u32 = 36;
/// What the package's configuration sets beside the service's folders: bundles that nobody signed are refused.
const SETTINGS: [(&str, &str); 2] = [("bundle", "\"/srv/mmlnb/bundle\""), ("allow_unsigned", "false")];
/// Debian asks for an address; the project has none, and `.invalid` says so.
const MAINTAINER: &str = "The MMLNB Appliance project <mmlnb@mmlnb.invalid>";

/// Where the package goes and what it is made of.
#[derive(Args)]
pub struct Options {
    /// The folder for the package, its bill of materials and SHA256SUMS
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Take the wheels from this folder and do not use the network
    #[arg(long, value_name = "DIR")]
    offline_dir: Option<PathBuf>,
}

/// Why no package can be written on this machine.
fn hindrance() -> Option<String> {
    let missing: Vec<&str> = ["dpkg-deb", "md5sum"].into_iter().filter(|program| !on_path(program)).collect();
    (!missing.is_empty()).then(|| format!("{} not installed: sudo apt-get install --yes dpkg coreutils", missing.join(" and ")))
}

/// Builds the programs and writes package, bill of materials and checksums.
pub fn run(options: &Options) -> Result<()> {
    if let Some(reason) = hindrance() {
        bail!("{reason}");
    }
    let output = options.output.clone().unwrap_or_else(|| checkout().join("target/dist"));
    let epoch = epoch()?;
    setup::run(&setup::Options { appliance_only: true, offline_dir: options.offline_dir.clone(), ..Default::default() })?;
    say("building the programs");
    let programs = build_programs()?;
    say("writing the package");
    let crates = sbom::built_from(&licences::metadata()?)?;
    let product = Product {
        configuration: service_configuration(&programs.join("mmlnb-appliance"), &SETTINGS)?,
        notices: notices(&crates)?,
        crates,
        onnxruntime: checkout().join("native/site/onnxruntime"),
        programs,
    };
    for path in write(&product, &output, epoch)? {
        println!("{}", path.display());
    }
    Ok(())
}

/// The time that everything is dated: `SOURCE_DATE_EPOCH`, else the last commit's.
fn epoch() -> Result<u64> {
    if let Some(value) = std::env::var_os("SOURCE_DATE_EPOCH") {
        let value = value.to_string_lossy().into_owned();
        return value.parse().with_context(|| format!("SOURCE_DATE_EPOCH is `{value}`, not a number of seconds since 1970"));
    }
    let output = Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(checkout()).output();
    let output = output.ok().filter(|output| output.status.success());
    let output = output.context("this is no git checkout, so the time of the sources is unknown: set SOURCE_DATE_EPOCH")?;
    String::from_utf8_lossy(&output.stdout).trim().parse().context("git gave no time for the last commit")
}

/// The programs, stripped and without the names of this machine's folders; the folder in which they lie.
fn build_programs() -> Result<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo"))).context("cargo has no home folder")?;
    let renamed = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    let flags = [renamed(checkout(), "/usr/src/mmlnb"), renamed(&home, "/usr/src/cargo")];
    let target = checkout().join("target/package");
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--release", "--locked", "--config", "profile.release.strip=\"symbols\"", "--target-dir"]).arg(&target);
    build.args(PROGRAMS.iter().flat_map(|name| ["--bin", name]));
    finish(build.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}")).current_dir(checkout()))?;
    Ok(target.join("release"))
}

/// The licences and notices that the crates of the programs carry, one after another.
fn notices(crates: &[Value]) -> Result<String> {
    let mut text = String::new();
    for package in crates.iter().filter(|package| !package["source"].is_null()) {
        let manifest = Path::new(package["manifest_path"].as_str().context("a crate has a manifest")?);
        let folder = manifest.parent().context("a manifest lies in a folder")?;
        let word = |key: &str| package[key].as_str().unwrap_or("not stated");
        text += &format!("==== {} {}: {}\n\n", word("name"), word("version"), word("license"));
        let entries = fs::read_dir(folder).with_context(|| format!("{} cannot be read", folder.display()))?;
        let mut files: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        files.retain(|path| path.is_file() && is_notice(path));
        files.sort();
        for file in files {
            let bytes = fs::read(&file).with_context(|| format!("{} cannot be read", file.display()))?;
            text += &format!("{}\n\n", String::from_utf8_lossy(&bytes).trim_end());
        }
    }
    Ok(text)
}

fn is_notice(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
    ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"].iter().any(|start| name.starts_with(start))
}

/// What goes into the package beside the checkout's own files.
struct Product {
    /// The folder of the programs.
    programs: PathBuf,
    /// The folder of ONNX Runtime as set-up brings it.
    onnxruntime: PathBuf,
    /// The text of /etc/mmlnb/appliance.toml.
    configuration: String,
    /// The crates that the programs are built from, as cargo tells them.
    crates: Vec<Value>,
    /// Their licences.
    notices: String,
}

/// Writes all files into `output`; their paths.
fn write(product: &Product, output: &Path, epoch: u64) -> Result<Vec<PathBuf>> {
    let version = env!("CARGO_PKG_VERSION");
    let time = Timestamp::from_second(i64::try_from(epoch)?).context("SOURCE_DATE_EPOCH is beyond every calendar")?;
    fs::create_dir_all(output).with_context(|| format!("{} cannot be made", output.display()))?;
    let package = output.join(format!("mmlnb_{version}_amd64.deb"));
    let bill = output.join(format!("mmlnb_{version}.cdx.json"));
    let text = serde_json::to_string_pretty(&sbom::write(version, &time.to_string(), &product.crates)?)? + "\n";
    fs::write(&bill, &text).with_context(|| format!("{} cannot be written", bill.display()))?;

    let staging = tempfile::tempdir_in(output)?;
    let tree = Tree::new(staging.path().join("tree"), epoch)?;
    let glibc = stage_programs(&tree, product)?;
    stage_service(&tree, product)?;
    stage_documents(&tree, product, version, time)?;
    tree.write_gz(&format!("{DOCS}/mmlnb.cdx.json.gz"), &text)?;
    tree.build(&control(version, glibc), &package)?;

    let sums = output.join("SHA256SUMS");
    let mut lines = String::new();
    for path in [&bill, &package] {
        let name = path.file_name().context("a file has a name")?.to_string_lossy();
        lines += &format!("{}  {name}\n", hash::sha256_file(path)?.1);
    }
    fs::write(&sums, lines).with_context(|| format!("{} cannot be written", sums.display()))?;
    Ok(vec![package, bill, sums])
}

/// Programs and library; the newest C library that any of them asks for.
fn stage_programs(tree: &Tree, product: &Product) -> Result<u32> {
    let programs = PROGRAMS.map(|name| (product.programs.join(name), format!("usr/bin/{name}"), 0o755));
    let native = (product.onnxruntime.join("capi").join(NATIVE), format!("usr/lib/mmlnb/onnxruntime/capi/{NATIVE}"), 0o644);
    let mut newest = 0;
    for (from, to, mode) in programs.into_iter().chain([native]) {
        let bytes = fs::read(&from).with_context(|| format!("{} cannot be read", from.display()))?;
        let needs = deb::newest_glibc(&bytes).with_context(|| format!("{} names no version of the C library", from.display()))?;
        ensure!(
            needs <= GLIBC,
            "{} asks for the C library 2.{needs}, which Debian 12 (2.{GLIBC}) does not have: build the package on Debian 12",
            from.display()
        );
        newest = newest.max(needs);
        tree.write(&to, bytes, mode)?;
    }
    Ok(newest)
}

fn stage_service(tree: &Tree, product: &Product) -> Result<()> {
    let systemd = checkout().join("systemd");
    for (from, to) in SERVICE_FILES {
        tree.copy(&systemd.join(from), to, 0o644)?;
    }
    tree.copy(&systemd.join("mmlnb-appliance.service.d/gpu.conf"), &format!("{DOCS}/examples/gpu.conf"), 0o644)?;
    tree.write("etc/mmlnb/appliance.toml", &product.configuration, 0o644)?;
    SCRIPTS.into_iter().try_for_each(|(name, text)| tree.write(&format!("DEBIAN/{name}"), text, 0o755))
}

fn stage_documents(tree: &Tree, product: &Product, version: &str, time: Timestamp) -> Result<()> {
    let root = checkout();
    for name in ["README.md", "THIRD_PARTY.md"] {
        tree.copy(&root.join(name), &format!("{DOCS}/{name}"), 0o644)?;
    }
    for entry in fs::read_dir(root.join("docs")).context("docs cannot be read")? {
        let path = entry?.path();
        let name = path.file_name().context("a file has a name")?.to_string_lossy().into_owned();
        tree.copy(&path, &format!("{DOCS}/docs/{name}"), 0o644)?;
    }
    for name in ["LICENSE", "ThirdPartyNotices.txt"] {
        let file = product.onnxruntime.join(name);
        let text = fs::read_to_string(&file).with_context(|| format!("{} cannot be read", file.display()))?;
        tree.write_gz(&format!("{DOCS}/onnxruntime/{name}.gz"), &text)?;
    }
    tree.write_gz(&format!("{DOCS}/crates.txt.gz"), &product.notices)?;
    let mit = fs::read_to_string(root.join("LICENSE-MIT")).context("LICENSE-MIT cannot be read")?;
    let copyright = format!(
        "MMLNB Appliance is under the MIT licence or the Apache licence 2.0, as you like. The Apache licence 2.0 lies in\n\
         /usr/share/common-licenses/Apache-2.0. ONNX Runtime's licence and notices lie in /{DOCS}/onnxruntime,\n\
         those of the Rust crates in /{DOCS}/crates.txt.gz; THIRD_PARTY.md says what else comes from others.\n\n{mit}"
    );
    tree.write(&format!("{DOCS}/copyright"), copyright, 0o644)?;
    tree.copy(&root.join("CHANGELOG.md"), &format!("{DOCS}/CHANGELOG.md"), 0o644)?;
    let date = time.strftime("%a, %d %b %Y %H:%M:%S +0000");
    let changelog = format!(
        "mmlnb ({version}) stable; urgency=medium\n\n  * What changed stands in CHANGELOG.md.\n\n -- {MAINTAINER}  {date}\n"
    );
    tree.write_gz(&format!("{DOCS}/changelog.gz"), &changelog)
}

fn control(version: &str, glibc: u32) -> String {
    format!(
        "Package: mmlnb\n\
         Version: {version}\n\
         Architecture: amd64\n\
         Maintainer: {MAINTAINER}\n\
         Section: science\n\
         Priority: optional\n\
         Depends: libc6 (>= 2.{glibc}), libgcc-s1, libstdc++6 (>= 11), init-system-helpers (>= 1.54), systemd (>= 252)\n\
         Recommends: acl\n\
         Description: neuroblastoma patches in a drop folder become reports\n \
         A service that classifies H&E patches of neuroblastoma dropped in a folder\n \
         and files each with a report beside it, and the exporter that makes its\n \
         bundles. Nothing leaves the machine. Research use only: not for diagnosis.\n"
    )
}

#[cfg(test)]
mod tests;
