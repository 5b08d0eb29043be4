//! The memory that an engine will need, planned before anything is loaded.
#![expect(clippy::disallowed_methods, reason = "the kernel's files")]

use std::path::Path;

use mmlnb_models::bundle::{Bundle, Graph};

use super::EngineError;

/// Share of a graph's file that loading takes on a processor: the weights are repacked while the file is still mapped (measured 1.3 for f32).
const LOADING: f64 = 1.3;
/// What CUDA and its libraries take of a card beside a program's own data, about (cuBLAS and cuDNN hold handles and workspaces a session).
const CARD_BASE: u64 = 1 << 30;

/// What an engine takes, in bytes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Plan {
    /// Weights of all graphs that are loaded, as stored.
    pub weights: u64,
    /// Keys and values of all slots.
    pub cache: u64,
    /// Activations of the largest prompt and of a batch.
    pub work: u64,
}

impl Plan {
    /// Everything together.
    pub fn total(&self) -> u64 {
        self.weights + self.cache + self.work
    }

    /// Both plans together.
    pub fn plus(self, other: Plan) -> Plan {
        Plan { weights: self.weights + other.weights, cache: self.cache + other.cache, work: self.work + other.work }
    }

    /// The plan with what loading adds on a processor, or CUDA on a card.
    pub fn on(self, cuda: bool) -> Plan {
        match cuda {
            true => Plan { work: self.work + CARD_BASE, ..self },
            false => Plan { weights: (self.weights as f64 * LOADING) as u64, ..self },
        }
    }

    /// Refuses a plan larger than there is room for, saying what takes it and what to change.
    pub fn check(&self, room: &Room) -> Result<(), EngineError> {
        if self.total() <= room.now.min(room.ever) {
            return Ok(());
        }
        let [total, weights, cache, work] = [self.total(), self.weights, self.cache, self.work].map(mebibytes);
        let needs = format!(
            "this bundle needs about {total} MiB ({weights} weights, {cache} cache of the slots, {work} working memory), but"
        );
        Err(if self.total() > room.ever {
            let ever = mebibytes(room.ever);
            EngineError::TooLarge(format!(
                "{needs} there are {ever} MiB in all; lower `slots` or `max_tokens`, or export with a smaller --precision"
            ))
        } else {
            let now = mebibytes(room.now);
            EngineError::Memory(format!(
                "{needs} {now} MiB are available at present; end what else takes memory, or lower `slots`"
            ))
        })
    }
}

fn mebibytes(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

/// What the weights of `graphs` take as stored.
pub(super) fn weights<'g>(bundle: &Bundle, graphs: impl Iterator<Item = &'g Graph>) -> u64 {
    let bytes = |graph: &Graph| {
        let data = format!("{}.data", graph.file);
        [&graph.file, &data].iter().filter_map(|name| bundle.manifest.files.get(*name)).map(|entry| entry.size).sum::<u64>()
    };
    graphs.map(bytes).sum()
}

/// Bytes that a process may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Room {
    /// At this moment; others may give some back.
    pub now: u64,
    /// At best.
    pub ever: u64,
}

/// CUDA's runtime library, by the name under which the provider has loaded it.
pub(super) const CUDA_RUNTIME: &str = "libcudart.so.13";

/// What the first card has free and in all, as CUDA's runtime `library` says (cudaMemGetInfo), or why it does not say.
pub(super) fn card(library: &str) -> Result<Room, String> {
    let refused = |error: libloading::Error| format!("{library} cannot be used: {error}");
    // SAFETY: NVIDIA's library, which loading the provider has initialised already; where it is absent nothing is run.
    let runtime = unsafe { libloading::Library::new(library) }.map_err(refused)?;
    // SAFETY: the signature is that of cuda_runtime_api.h: `cudaError_t cudaMemGetInfo(size_t *free, size_t *total)`, an enum of C's int.
    let ask = unsafe { runtime.get::<unsafe extern "C" fn(*mut usize, *mut usize) -> std::ffi::c_int>(b"cudaMemGetInfo\0") };
    let ask = ask.map_err(refused)?;
    let (mut free, mut total) = (0, 0);
    // SAFETY: both places live during the call.
    match unsafe { ask(&mut free, &mut total) } {
        0 => Ok(Room { now: free as u64, ever: total as u64 }),
        error => Err(format!("cudaMemGetInfo gives error {error}")),
    }
}

/// What this process may still take: what the system has, or its control group if that is less.
pub(super) fn available() -> Option<Room> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let system = Room { now: meminfo_line(&meminfo, "MemAvailable:")?, ever: meminfo_line(&meminfo, "MemTotal:")? };
    Some(control_group().map_or(system, |group| Room { now: group.now.min(system.now), ever: group.ever.min(system.ever) }))
}

fn meminfo_line(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Least room in the control groups (version 2) from this process's own up to the root; pages of files count as room.
fn control_group() -> Option<Room> {
    let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?.trim_start_matches('/');
    let root = Path::new("/sys/fs/cgroup");
    let rooms = root.join(path).ancestors().take_while(|folder| folder.starts_with(root)).filter_map(room).collect::<Vec<_>>();
    Some(Room { now: rooms.iter().map(|room| room.now).min()?, ever: rooms.iter().map(|room| room.ever).min()? })
}

fn room(folder: &Path) -> Option<Room> {
    let number = |name: &str| std::fs::read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
    let files = std::fs::read_to_string(folder.join("memory.stat"))
        .ok()?
        .lines()
        .find_map(|line| line.strip_prefix("inactive_file ")?.parse::<u64>().ok())
        .unwrap_or(0);
    let ever = number("memory.max")?;
    Some(Room { now: ever.saturating_sub(number("memory.current")?.saturating_sub(files)), ever })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read_in_kibibytes() {
        assert_eq!(meminfo_line("MemTotal:  8 kB\nMemAvailable:     3 kB\n", "MemAvailable:"), Some(3072));
        assert_eq!(meminfo_line("MemTotal:  8 kB\n", "MemAvailable:"), None);
    }

    /// Figures of a 7B in f16 with 4 slots of 2,400 tokens.
    #[test]
    fn a_7b_in_f16_fits_a_card_of_24_gb_and_not_one_of_16() {
        let gib = |count: f64| (count * f64::from(1 << 30)) as u64;
        let plan = Plan { weights: gib(15.6), cache: gib(0.52), work: gib(0.6) };
        assert_eq!(plan.on(true), Plan { work: gib(1.6), ..plan });
        assert_eq!(plan.on(false), Plan { weights: (gib(15.6) as f64 * 1.3) as u64, ..plan });
        let card = |size: f64| Room { now: gib(size - 0.5), ever: gib(size) };
        assert_eq!(plan.on(true).check(&card(23.6)), Ok(()));
        assert!(matches!(plan.on(true).check(&card(15.6)), Err(EngineError::TooLarge(_))));
        let busy = Room { now: gib(12.0), ever: gib(23.6) };
        assert!(matches!(plan.on(true).check(&busy), Err(EngineError::Memory(_))), "another program may end");
    }

    /// The set-up brings CUDA's runtime with libtorch; a machine without a card must get an error of it, not a crash.
    #[test]
    fn a_card_says_its_memory_or_why_not() {
        let absent = card("libabsent_cudart.so").unwrap_err();
        assert!(absent.contains("libabsent_cudart.so"), "{absent}");
        let brought = Path::new(env!("CARGO_MANIFEST_DIR")).join("../native/site/nvidia/cu13/lib").join(CUDA_RUNTIME);
        if !brought.is_file() {
            eprintln!("skipped: {} was not brought", brought.display());
            return;
        }
        match card(&brought.to_string_lossy()) {
            Ok(room) => assert!(0 < room.now && room.now <= room.ever, "{room:?}"),
            Err(error) => assert!(error.contains("cudaMemGetInfo gives error"), "{error}"),
        }
    }

    #[test]
    fn a_plan_that_does_not_fit_says_what_takes_the_room() {
        let plan = Plan { weights: 3 << 20, cache: 2 << 20, work: 1 << 20 };
        let room = |now, ever| Room { now, ever };
        assert_eq!(plan.check(&room(6 << 20, 6 << 20)), Ok(()));
        let error = plan.check(&room((6 << 20) - 1, 9 << 20)).unwrap_err();
        assert!(matches!(&error, EngineError::Memory(text) if text.contains("6 MiB are available at present")), "{error}");
        let error = plan.check(&room(9 << 20, (6 << 20) - 1)).unwrap_err();
        assert!(matches!(&error, EngineError::TooLarge(_)), "{error}");
        let error = error.to_string();
        assert!(error.contains("about 6 MiB (3 weights, 2 cache of the slots, 1 working memory)"), "{error}");
        assert!(error.contains("lower `slots`"), "{error}");
    }
}
