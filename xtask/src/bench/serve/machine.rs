//! What the processor can, which decides the targets.

use anyhow::{Context, Result};
use std::fs;

/// Whether the processor multiplies 8-bit numbers in one instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It does: AVX-512 VNNI, AVX-VNNI or AMX.
    Vnni,
    /// It does not.
    Plain,
}

/// A processor: its name, its class, and the flags that decide it.
#[derive(Debug)]
pub struct Machine {
    pub name: String,
    pub class: Class,
    pub flags: Vec<String>,
}

/// Flags that say something about matrix products, the deciding ones first.
const DECIDING: [&str; 3] = ["avx512_vnni", "avx_vnni", "amx_int8"];
const TOLD: [&str; 7] = ["avx512_vnni", "avx_vnni", "amx_int8", "amx_bf16", "avx512_bf16", "avx512f", "avx2"];

/// This machine's processor.
pub fn this() -> Result<Machine> {
    Ok(read(&fs::read_to_string("/proc/cpuinfo").context("/proc/cpuinfo cannot be read")?))
}

fn read(text: &str) -> Machine {
    let value = |key: &str| {
        let line = text.lines().find(|line| line.split(':').next().is_some_and(|name| name.trim() == key));
        line.and_then(|line| line.split_once(':')).map_or("", |(_, value)| value.trim())
    };
    let all: Vec<&str> = value("flags").split_whitespace().collect();
    let class = if DECIDING.iter().any(|flag| all.contains(flag)) { Class::Vnni } else { Class::Plain };
    let flags = TOLD.into_iter().filter(|flag| all.contains(flag)).map(str::to_owned).collect();
    Machine { name: value("model name").to_owned(), class, flags }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_is_read_from_the_flags() {
        let machine = |flags: &str| read(&format!("processor\t: 0\nmodel name\t: A: B\nflags\t\t: fpu {flags} sse\n"));
        assert_eq!(machine("avx2 avx512f avx512_vnni").class, Class::Vnni);
        assert_eq!(machine("avx2 avx512f").class, Class::Plain);
        assert_eq!(machine("amx_int8").class, Class::Vnni);
        assert_eq!((machine("avx2").name, machine("avx2").flags), ("A: B".to_owned(), vec!["avx2".to_owned()]));
    }
}
