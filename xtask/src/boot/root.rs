//! The container's root: a Debian that is kept, and a copy of it with the product installed as a package would do it.

use crate::{
    appliance::{Appliance, finish, program_path, service_configuration},
    checkout,
    dist::{NATIVE, SERVICE_FILES},
};
use anyhow::{Context, Result};
use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

/// Times of the unit that are shortened so that a test does not wait for minutes; nothing else of it is changed.
const SHORTER: &str = "[Service]\nRestartSec=1\nWatchdogSec=10\nTimeoutAbortSec=5\n";
/// Where the bundle lies in the container.
const BUNDLE: &str = "usr/share/mmlnb/bundle";

/// The programs and a bundle of random weights.
pub struct Product {
    program: PathBuf,
    bundle: PathBuf,
}

impl Product {
    /// Exports a bundle with programs that are built already, or sets up and builds first.
    pub fn make(built: bool) -> Result<Product> {
        let folder = super::folder().join("appliance");
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        let appliance = if built { Appliance::of_built(folder)? } else { Appliance::make(folder, None)? };
        Ok(Product { program: program_path("mmlnb-appliance"), bundle: appliance.path("bundle") })
    }
}

/// A copy of a Debian, to be booted.
pub struct Root {
    path: PathBuf,
}

impl Root {
    /// A fresh copy of this release.
    pub fn make(suite: &str, mirror: Option<&str>) -> Result<Root> {
        let base = base(suite, mirror)?;
        let path = super::folder().join(format!("run-{suite}"));
        if path.exists() {
            fs::remove_dir_all(&path).with_context(|| format!("{} cannot be removed", path.display()))?;
        }
        finish(Command::new("cp").args(["-a", "--reflink=auto"]).arg(&base).arg(&path))?;
        Ok(Root { path })
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it.
    pub fn remove(&self) -> Result<()> {
        fs::remove_dir_all(&self.path).with_context(|| format!("{} cannot be removed", self.path.display()))
    }

    /// Programs, library, unit, users, folders, bundle and configuration, each in its place.
    pub fn install(&self, product: &Product) -> Result<()> {
        self.copy(&product.program, "usr/bin/mmlnb-appliance", 0o755)?;
        let native = checkout().join("native/site/onnxruntime/capi").join(NATIVE);
        self.copy(&native, &format!("usr/lib/mmlnb/onnxruntime/capi/{NATIVE}"), 0o644)?;
        for (from, to) in SERVICE_FILES {
            self.copy(&checkout().join("systemd").join(from), to, 0o644)?;
        }
        self.write("etc/systemd/system/mmlnb-appliance.service.d/test.conf", SHORTER)?;
        let wanted = self.path.join("etc/systemd/system/multi-user.target.wants");
        fs::create_dir_all(&wanted)?;
        symlink("/usr/lib/systemd/system/mmlnb-appliance.service", wanted.join("mmlnb-appliance.service"))?;
        let bundle = self.path.join(BUNDLE);
        fs::create_dir_all(bundle.parent().context("the bundle has a folder")?)?;
        finish(Command::new("cp").args(["-r", "--preserve=mode"]).arg(&product.bundle).arg(&bundle))?;
        self.write("etc/mmlnb/appliance.toml", &configuration(&product.program)?)
    }

    fn copy(&self, from: &Path, to: &str, mode: u32) -> Result<()> {
        let to = self.path.join(to);
        fs::create_dir_all(to.parent().context("a file lies in a folder")?)?;
        fs::copy(from, &to).with_context(|| format!("{} cannot be copied to {}", from.display(), to.display()))?;
        Ok(fs::set_permissions(&to, fs::Permissions::from_mode(mode))?)
    }

    /// Writes a file into the root.
    pub fn write(&self, to: &str, text: &str) -> Result<()> {
        let to = self.path.join(to);
        fs::create_dir_all(to.parent().context("a file lies in a folder")?)?;
        fs::write(&to, text).with_context(|| format!("{} cannot be written", to.display()))
    }
}

/// The configuration of the service, with times that suit a test.
fn configuration(program: &Path) -> Result<String> {
    let bundle = format!("\"/{BUNDLE}\"");
    let settings = [("bundle", bundle.as_str()), ("settle_ms", "500"), ("incomplete_s", "4"), ("min_free_mb", "1")];
    service_configuration(program, &settings)
}

/// The bare Debian, made once.
fn base(suite: &str, mirror: Option<&str>) -> Result<PathBuf> {
    let base = super::folder().join(format!("base-{suite}"));
    if base.exists() {
        return Ok(base);
    }
    eprintln!("bringing a Debian {suite} (about a minute)");
    let part = super::folder().join(format!("base-{suite}.part"));
    if part.exists() {
        fs::remove_dir_all(&part)?;
    }
    fs::create_dir_all(super::folder())?;
    let mut bootstrap = Command::new("debootstrap");
    bootstrap.args(["--variant=minbase", "--include=systemd,systemd-sysv,dbus,acl", suite]).arg(&part).args(mirror);
    finish(bootstrap.stdout(std::process::Stdio::null()))?;
    fs::rename(&part, &base)?;
    Ok(base)
}
