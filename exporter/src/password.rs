//! Passwords of keys: asked on a terminal, else read from standard input as minisign does; never from the command line.

use mmlnb_exporter::ExportError;
use std::io::{IsTerminal, stdin};

/// The password that a key has.
pub fn ask() -> Result<String, ExportError> {
    read("Password: ")
}

/// The password that a new key gets, asked twice.
pub fn choose() -> Result<String, ExportError> {
    let password = read("Password for the secret key: ")?;
    if password.is_empty() {
        return Err(ExportError::Asked("the password is empty; give one, or --no-password for a key without".to_string()));
    }
    if read("Password (one more time): ")? != password {
        return Err(ExportError::Asked("the passwords differ; nothing was written".to_string()));
    }
    Ok(password)
}

fn read(prompt: &str) -> Result<String, ExportError> {
    let failed = |source| ExportError::Io { action: "read", path: "the password".into(), source };
    if stdin().is_terminal() {
        return rpassword::prompt_password(prompt).map_err(failed);
    }
    let mut line = String::new();
    stdin().read_line(&mut line).map_err(failed)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_string())
}
