//! The child's confinement. After [`enter`] the process may read what it was handed, compute and answer: no file can be opened, no
//! socket made, no program or thread started, and memory and time are bounded.

use std::io;

use rustix::process::{Pid, Resource, Rlimit, Signal, setrlimit};
use serde::{Deserialize, Serialize};

/// Address space: enough for the largest allowed image in 16 bit with alpha, its RGB copy and the file.
const ADDRESS_SPACE: u64 = 4 << 30;
/// The socket, a file, and room to spare.
const FILES: u64 = 16;

/// One layer of the confinement.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Layer {
    /// It holds.
    Active,
    /// This kernel has none.
    Absent,
    /// The kernel has it, but something keeps the child from using it.
    Refused(String),
}

/// What confines a child besides its limits.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Sandbox {
    /// The list of allowed system calls.
    pub seccomp: Layer,
    /// No rights on any file or port; a second wall behind the first, so a kernel without it is no fault.
    pub landlock: Layer,
}

impl Sandbox {
    /// What people should know, or nothing when all holds.
    pub fn missing(&self) -> Option<String> {
        let told = |name: &str, layer: &Layer| match layer {
            Layer::Active => None,
            Layer::Absent => Some(format!("this kernel has no {name}")),
            Layer::Refused(why) => Some(format!("{name} is refused ({why})")),
        };
        let landlock = Some(&self.landlock).filter(|layer| **layer != Layer::Absent);
        let missing: Vec<String> =
            told("seccomp", &self.seccomp).into_iter().chain(landlock.and_then(|layer| told("landlock", layer))).collect();
        let missing = (!missing.is_empty()).then(|| missing.join(", "))?;
        Some(format!("images are decoded without a full sandbox: {missing}; the shipped unit allows seccomp and landlock_*"))
    }
}

/// Confines this process, which ends with its parent; `cpu_seconds` for its whole life.
///
/// # Errors
/// The parent has gone already, or a limit cannot be set.
pub fn enter(parent: u32, cpu_seconds: u64) -> io::Result<Sandbox> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get() as u32) != Some(parent) {
        return Err(io::Error::other("the program that started this child has gone"));
    }
    limit(cpu_seconds)?;
    set(libc::PR_SET_DUMPABLE, 0)?;
    set(libc::PR_SET_NO_NEW_PRIVS, 1)?;
    let landlock = landlock::enter();
    Ok(Sandbox { landlock, seccomp: seccomp::enter(rustix::process::getpid()) })
}

fn limit(cpu_seconds: u64) -> io::Result<()> {
    let to = |value: u64| Rlimit { current: Some(value), maximum: Some(value) };
    setrlimit(Resource::As, to(ADDRESS_SPACE))?;
    // The first limit's signal says what it was; at the second one it would look like a kill from outside.
    setrlimit(Resource::Cpu, Rlimit { current: Some(cpu_seconds), maximum: Some(cpu_seconds.saturating_add(5)) })?;
    setrlimit(Resource::Core, to(0))?;
    setrlimit(Resource::Fsize, to(0))?;
    setrlimit(Resource::Nofile, to(FILES))?;
    Ok(())
}

fn set(option: i32, value: libc::c_ulong) -> io::Result<()> {
    // SAFETY: both options take one number and read no memory.
    match unsafe { libc::prctl(option, value, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives what an image needed back to the machine.
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call takes a number, and this process has one thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

mod landlock {
    use std::io;

    use super::Layer;

    /// The kernel's `struct landlock_ruleset_attr`.
    #[repr(C)]
    struct Ruleset {
        handled_access_fs: u64,
        handled_access_net: u64,
        scoped: u64,
    }

    const VERSION: libc::c_ulong = 1;

    /// Takes every right that this kernel's version knows.
    pub fn enter() -> Layer {
        match restrict() {
            Ok(()) => Layer::Active,
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EOPNOTSUPP)) => Layer::Absent,
            Err(error) => Layer::Refused(error.to_string()),
        }
    }

    fn restrict() -> io::Result<()> {
        // SAFETY: with this flag the kernel wants no memory: it answers with its version.
        let version =
            checked(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0usize, VERSION) })?;
        // Rights in the order of the versions that brought them: 13, refer, truncate, (4: ports), ioctl; 6: scopes.
        let files = match version {
            1 => 13,
            2 => 14,
            3 | 4 => 15,
            _ => 16,
        };
        let rules = Ruleset {
            handled_access_fs: (1 << files) - 1,
            handled_access_net: if version >= 4 { 3 } else { 0 },
            scoped: if version >= 6 { 3 } else { 0 },
        };
        let size: usize = match version {
            1..=3 => 8,
            4 | 5 => 16,
            _ => 24,
        };
        // SAFETY: the structure lives through the call and is at least `size` bytes long.
        let ruleset = checked(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &raw const rules, size, 0) })?;
        // SAFETY: the call takes two numbers.
        let entered = checked(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0) });
        // SAFETY: the descriptor was made above and is nobody else's.
        unsafe { libc::close(ruleset as i32) };
        entered.map(drop)
    }

    fn checked(result: libc::c_long) -> io::Result<libc::c_long> {
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
    }
}

mod seccomp {
    use std::io;

    use libc::{SYS_mmap, SYS_mprotect, SYS_tgkill, c_long, sock_filter};

    use super::{Layer, Pid};

    #[cfg(target_arch = "x86_64")]
    const ARCHITECTURE: u32 = 0xc000_003e;
    #[cfg(target_arch = "aarch64")]
    const ARCHITECTURE: u32 = 0xc000_00b7;

    /// Memory, clock, the socket, the file at hand, an orderly or disorderly end.
    const ALLOWED: &[c_long] = &[
        libc::SYS_read,
        libc::SYS_readv,
        libc::SYS_pread64,
        libc::SYS_write,
        libc::SYS_writev,
        libc::SYS_lseek,
        libc::SYS_fstat,
        libc::SYS_close,
        libc::SYS_recvmsg,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_brk,
        libc::SYS_futex,
        libc::SYS_getrandom,
        libc::SYS_clock_gettime,
        libc::SYS_clock_nanosleep,
        libc::SYS_nanosleep,
        libc::SYS_sched_yield,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
        libc::SYS_restart_syscall,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ];

    /// What no decoder does by mistake: whoever tries is ended. Everything else that is not allowed is an error for the caller.
    const DEADLY: &[c_long] = &[
        libc::SYS_openat,
        libc::SYS_openat2,
        libc::SYS_memfd_create,
        libc::SYS_socket,
        libc::SYS_socketpair,
        libc::SYS_connect,
        libc::SYS_bind,
        libc::SYS_listen,
        libc::SYS_accept,
        libc::SYS_accept4,
        libc::SYS_sendto,
        libc::SYS_sendmsg,
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_clone,
        libc::SYS_clone3,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_pidfd_open,
        libc::SYS_kill,
        libc::SYS_tkill,
        libc::SYS_io_uring_setup,
        libc::SYS_bpf,
        libc::SYS_mount,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_open,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_creat,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_fork,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_vfork,
    ];

    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
    const ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    /// Offsets in the kernel's `struct seccomp_data`; arguments are 8 bytes each, their low halves first.
    const NUMBER: u32 = 0;
    const ARCH: u32 = 4;
    const ARGUMENTS: u32 = 16;

    const fn step(code: u16, k: u32, yes: u8, no: u8) -> sock_filter {
        sock_filter { code, jt: yes, jf: no, k }
    }

    /// The filter for the process `pid`.
    pub fn program(pid: u32) -> Vec<sock_filter> {
        let end = |what: u32| step(RETURN, what, 0, 0);
        let (allow, kill) = (end(libc::SECCOMP_RET_ALLOW), end(libc::SECCOMP_RET_KILL_PROCESS));
        let refuse = end(libc::SECCOMP_RET_ERRNO | libc::EPERM as u32);
        let mut steps = vec![step(LOAD, ARCH, 0, 0), step(EQUAL, ARCHITECTURE, 1, 0), kill, step(LOAD, NUMBER, 0, 0)];
        // The numbers of the x32 interface.
        steps.extend([step(AT_LEAST, 0x4000_0000, 0, 1), kill]);
        for (numbers, outcome) in [(ALLOWED, allow), (DEADLY, kill)] {
            steps.extend(numbers.iter().flat_map(|number| [step(EQUAL, *number as u32, 0, 1), outcome]));
        }
        // abort() signals itself, and may signal no other.
        steps.extend([step(EQUAL, SYS_tgkill as u32, 0, 4), step(LOAD, ARGUMENTS, 0, 0), step(EQUAL, pid, 0, 1), allow, kill]);
        // Memory that can be executed is never needed.
        for number in [SYS_mmap, SYS_mprotect] {
            let protection = step(LOAD, ARGUMENTS + 2 * 8, 0, 0);
            let executable = step(ANY_BIT, libc::PROT_EXEC as u32, 0, 1);
            steps.extend([step(EQUAL, number as u32, 0, 4), protection, executable, kill, allow]);
        }
        steps.push(refuse);
        steps
    }

    /// From here on only the listed calls.
    pub fn enter(pid: Pid) -> Layer {
        let mut steps = program(pid.as_raw_nonzero().get() as u32);
        let filter = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
        let mode = libc::SECCOMP_MODE_FILTER as libc::c_ulong;
        // SAFETY: the kernel copies the steps during the call, in which they live.
        match unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const filter, 0, 0) } {
            0 => Layer::Active,
            _ => match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::EINVAL) => Layer::Absent,
                error => Layer::Refused(error.to_string()),
            },
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        /// What the filter says about a call.
        fn outcome(number: c_long, arguments: [u64; 3]) -> u32 {
            let steps = program(7);
            let (mut at, mut held) = (0, 0u32);
            loop {
                let one = steps[at];
                at += 1;
                let jump = |holds: bool| usize::from(if holds { one.jt } else { one.jf });
                match one.code {
                    LOAD => {
                        held = match one.k {
                            NUMBER => number as u32,
                            ARCH => ARCHITECTURE,
                            other => arguments[(other as usize - ARGUMENTS as usize) / 8] as u32,
                        }
                    }
                    EQUAL => at += jump(held == one.k),
                    AT_LEAST => at += jump(held >= one.k),
                    ANY_BIT => at += jump(held & one.k != 0),
                    RETURN => return one.k,
                    other => panic!("code {other}"),
                }
            }
        }

        #[test]
        fn each_call_ends_as_listed() {
            let errno = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
            assert!(ALLOWED.iter().all(|number| outcome(*number, [0; 3]) == libc::SECCOMP_RET_ALLOW));
            assert!(DEADLY.iter().all(|number| outcome(*number, [0; 3]) == libc::SECCOMP_RET_KILL_PROCESS));
            assert_eq!(outcome(libc::SYS_uname, [0; 3]), errno);
            assert_eq!(outcome(libc::SYS_read | 0x4000_0000, [0; 3]), libc::SECCOMP_RET_KILL_PROCESS);
            assert_eq!(outcome(SYS_tgkill, [7, 7, 6]), libc::SECCOMP_RET_ALLOW);
            assert_eq!(outcome(SYS_tgkill, [8, 7, 6]), libc::SECCOMP_RET_KILL_PROCESS);
            for number in [SYS_mmap, SYS_mprotect] {
                assert_eq!(outcome(number, [0, 4096, 3]), libc::SECCOMP_RET_ALLOW);
                assert_eq!(outcome(number, [0, 4096, 7]), libc::SECCOMP_RET_KILL_PROCESS);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_landlock_is_no_fault_and_a_refusal_is() {
        let sandbox = |seccomp, landlock| Sandbox { seccomp, landlock };
        assert_eq!(sandbox(Layer::Active, Layer::Active).missing(), None);
        assert_eq!(sandbox(Layer::Active, Layer::Absent).missing(), None);
        let refused = sandbox(Layer::Active, Layer::Refused("EPERM".into())).missing().unwrap();
        assert!(refused.contains("landlock is refused (EPERM)") && !refused.contains("no seccomp"), "{refused}");
        assert!(sandbox(Layer::Absent, Layer::Active).missing().unwrap().contains("this kernel has no seccomp"));
    }
}
