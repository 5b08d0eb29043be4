//! The commented configuration that `init` writes, made from the table of keys.

use std::path::Path;

use super::keys::{KEYS, Kind};

/// The text of `appliance.toml` for an appliance below `root` (absolute).
pub fn write(root: &Path) -> String {
    let mut out = String::from(
        "# MMLNB appliance. Restart the service after a change.\n\
         # Every key may also come from the environment, as MMLNB_ and its name in capitals.\n",
    );
    for key in KEYS {
        out.push_str("\n# ");
        out.push_str(key.meaning);
        if let Kind::Word(words) = key.kind {
            out.push_str(&format!(" One of: {}.", words.join(", ")));
        }
        out.push('\n');
        match key.default {
            Some(default) => out.push_str(&format!("#{} = {default}\n", key.name)),
            None => {
                let path = toml::Value::String(root.join(key.name).display().to_string());
                out.push_str(&format!("{} = {path}\n", key.name));
            }
        }
    }
    out
}
