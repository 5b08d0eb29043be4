//! The commented configuration that `init` writes, made from the table of keys.

use std::path::Path;

use super::keys::{KEYS, Kind};

/// What `init` sets otherwise than a file without the key has it: whoever begins has a bundle that nobody signed. A package's configuration says
/// false, so that such bundles are refused.
const FOR_A_BEGINNING: [(&str, &str); 1] = [("allow_unsigned", "true")];

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
        let chosen = FOR_A_BEGINNING.iter().find(|(name, _)| *name == key.name).map(|(_, value)| *value);
        match (chosen, key.default) {
            (Some(value), _) => out.push_str(&format!("{} = {value}\n", key.name)),
            (None, Some(default)) => out.push_str(&format!("#{} = {default}\n", key.name)),
            (None, None) => {
                let path = toml::Value::String(root.join(key.name).display().to_string());
                out.push_str(&format!("{} = {path}\n", key.name));
            }
        }
    }
    out
}
