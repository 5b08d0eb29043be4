//! What the package is made of, as CycloneDX: every crate that the programs are built from, and the native libraries.

use super::NATIVE;
use crate::{checkout, setup::wheels::ONNXRUNTIME};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// The crates of the two programs.
const ROOTS: [&str; 2] = ["mmlnb-appliance", "mmlnb-exporter"];

/// The bill of materials for this version, made of these crates; `time` is its date as ISO 8601.
pub fn write(version: &str, time: &str, crates: &[Value]) -> Result<Value> {
    let lock = fs::read_to_string(checkout().join("Cargo.lock")).context("Cargo.lock cannot be read")?;
    let checksums = checksums(&lock);
    let mut components = Vec::new();
    for package in crates {
        let name = package["name"].as_str().context("a crate has a name")?;
        let version = package["version"].as_str().context("a crate has a version")?;
        components.push(krate(name, version, package, checksums.get(&(name, version)).copied()));
        if name == "libsqlite3-sys" {
            components.push(sqlite(package)?);
        }
    }
    components.push(json!({
        "type": "library",
        "name": "onnxruntime",
        "version": ONNXRUNTIME.version(),
        "purl": format!("pkg:pypi/onnxruntime@{}", ONNXRUNTIME.version()),
        "licenses": [{ "expression": "MIT" }],
        "description": format!("{NATIVE}, taken from the wheel {}, whose hash this is", ONNXRUNTIME.file),
        "hashes": [{ "alg": "SHA-256", "content": ONNXRUNTIME.sha256 }],
    }));
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": time,
            "component": { "type": "application", "name": "mmlnb", "version": version, "licenses": [{ "expression": "MIT OR Apache-2.0" }] },
        },
        "components": components,
    }))
}

fn krate(name: &str, version: &str, package: &Value, checksum: Option<&str>) -> Value {
    let mut component = json!({ "type": "library", "name": name, "version": version });
    if !package["source"].is_null() {
        component["purl"] = json!(format!("pkg:cargo/{name}@{version}"));
    }
    if let Some(licence) = package["license"].as_str() {
        component["licenses"] = json!([{ "expression": licence.replace('/', " OR ") }]);
    }
    if let Some(checksum) = checksum {
        component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
    }
    component
}

/// SQLite, whose source the crate carries; its version stands in the header.
fn sqlite(package: &Value) -> Result<Value> {
    let manifest = Path::new(package["manifest_path"].as_str().context("a crate has a manifest")?);
    let header = manifest.with_file_name("sqlite3").join("sqlite3.h");
    let text = fs::read_to_string(&header).with_context(|| format!("{} cannot be read", header.display()))?;
    let version =
        text.lines().find_map(|line| line.strip_prefix("#define SQLITE_VERSION ")).context("SQLite names its version")?;
    let version = version.trim().trim_matches('"');
    Ok(
        json!({ "type": "library", "name": "sqlite", "version": version, "licenses": [{ "license": { "name": "public domain" } }] }),
    )
}

/// The crates that the programs are built from, with those that only run while they are built, without what only tests use; by name and version.
pub fn built_from(metadata: &Value) -> Result<Vec<Value>> {
    let listed = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let nodes = listed(&metadata["resolve"]["nodes"]);
    let nodes: BTreeMap<&str, &Value> = nodes.iter().filter_map(|node| Some((node["id"].as_str()?, node))).collect();
    let packages = listed(&metadata["packages"]);
    let roots = packages.iter().filter(|package| ROOTS.iter().any(|root| package["name"] == *root));
    let mut waiting: Vec<&str> = roots.filter_map(|package| package["id"].as_str()).collect();
    ensure!(waiting.len() == ROOTS.len(), "cargo metadata does not list {}", ROOTS.join(" and "));
    let mut seen: BTreeSet<&str> = waiting.iter().copied().collect();
    while let Some(id) = waiting.pop() {
        let node = nodes.get(id).with_context(|| format!("cargo metadata resolves no {id}"))?;
        for dependency in node["deps"].as_array().into_iter().flatten() {
            let built = dependency["dep_kinds"].as_array().into_iter().flatten().any(|kind| kind["kind"] != "dev");
            let package = dependency["pkg"].as_str().context("a dependency has an id")?;
            if built && seen.insert(package) {
                waiting.push(package);
            }
        }
    }
    let mut found: Vec<Value> =
        packages.iter().filter(|package| package["id"].as_str().is_some_and(|id| seen.contains(id))).cloned().collect();
    found.sort_by_key(|package| (package["name"].to_string(), package["version"].to_string()));
    Ok(found)
}

/// The checksums of Cargo.lock by name and version.
fn checksums(lock: &str) -> BTreeMap<(&str, &str), &str> {
    let entries = lock.split("[[package]]").skip(1).filter_map(|entry| {
        let value = |key: &str| {
            let line = entry.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "));
            line.map(|text| text.trim_matches('"'))
        };
        Some(((value("name")?, value("version")?), value("checksum")?))
    });
    entries.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::licences;

    #[test]
    fn it_lists_what_is_linked_and_nothing_that_only_trains_or_tests() {
        let crates = built_from(&licences::metadata().unwrap()).unwrap();
        let bill = write("1.2.3", "2026-01-01T00:00:00Z", &crates).unwrap();
        let components = bill["components"].as_array().unwrap();
        let named = |name: &str| components.iter().find(|component| component["name"] == name);
        for linked in ["ort", "rusqlite", "sqlite", "onnxruntime", "mmlnb-models", "prost"] {
            assert!(named(linked).is_some(), "{linked}");
        }
        for foreign in ["tch", "torch-sys", "proptest", "xtask"] {
            assert!(named(foreign).is_none(), "{foreign}");
        }
        let ort = named("ort").unwrap();
        assert_eq!(ort["hashes"][0]["content"].as_str().unwrap().len(), 64, "{ort}");
        assert_eq!(ort["purl"], format!("pkg:cargo/ort@{}", ort["version"].as_str().unwrap()));
        assert!(named("sqlite").unwrap()["version"].as_str().unwrap().starts_with("3."));
    }

    #[test]
    fn checksums_belong_to_name_and_version() {
        let lock = "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1.0\"\nchecksum = \"00\"\n\n[[package]]\nname = \"b\"\nversion = \"2.0\"\n";
        assert_eq!(checksums(lock), BTreeMap::from([(("a", "1.0"), "00")]));
    }
}
