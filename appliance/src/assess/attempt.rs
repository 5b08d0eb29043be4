//! For tests of the sandbox: the child tries what it must not be able to do, and says what happened if it lives to.

use std::fs::File;
use std::io;
use std::process::Command;

/// Tries it; what came of it.
#[expect(clippy::disallowed_methods, reason = "what must fail is tried")]
pub fn attempt(what: &str) -> String {
    let told = |result: io::Result<()>| match result {
        Ok(()) => "done".to_owned(),
        Err(error) => format!("error: {error}"),
    };
    match what {
        "open" => told(File::open("/etc/passwd").map(drop)),
        "socket" => told(std::net::UdpSocket::bind("127.0.0.1:0").map(drop)),
        "exec" => told(Command::new("/bin/true").status().map(drop)),
        "thread" => told(std::thread::Builder::new().spawn(|| ()).map(drop)),
        "kill" => told(rustix::process::test_kill_process(rustix::process::Pid::INIT).map_err(io::Error::from)),
        "limits" => told(raise_limits()),
        "rename" => told(rename()),
        "memory" => {
            let mut held: Vec<Vec<u8>> = Vec::new();
            while held.len() < 100 {
                held.push(vec![0; 1 << 28]);
            }
            format!("holds {} GiB", held.len() / 4)
        }
        "spin" => loop {
            std::hint::black_box(());
        },
        "panic" => panic!("as asked"),
        other => format!("unknown: {other}"),
    }
}

fn raise_limits() -> io::Result<()> {
    let none = rustix::process::Rlimit { current: None, maximum: None };
    Ok(rustix::process::setrlimit(rustix::process::Resource::As, none)?)
}

#[expect(clippy::disallowed_methods, reason = "what must fail is tried")]
fn rename() -> io::Result<()> {
    std::fs::rename("/proc/none", "/proc/other")
}
