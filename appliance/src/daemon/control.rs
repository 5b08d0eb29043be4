//! The control socket in the state folder: one request and one answer, each a line of JSON.
#![expect(clippy::disallowed_methods, reason = "the state folder is the appliance's own")]

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::accounts;
use crate::error::{Exit, Failure};
use crate::intake::Intake;
use crate::ledger::{FileRow, Ledger, read};
use crate::report::status;

const NAME: &str = "control.sock";
const PATIENCE: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_millis(50);
/// Shorter than the time within which the program ends when it is asked to.
const LATER: Duration = Duration::from_secs(1);
const LONGEST_LINE: u64 = 1 << 20;

/// The socket's path by way of an open folder: a path of any length fits into an address.
fn address(state: &Path) -> io::Result<(File, PathBuf)> {
    let folder = File::open(state)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{NAME}", folder.as_raw_fd()));
    Ok((folder, path))
}

/// Listens; an old socket is replaced, which is safe under the state's lock.
///
/// # Errors
/// I/O.
pub fn listen(state: &Path) -> io::Result<UnixListener> {
    let (_folder, path) = address(state)?;
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Removes the socket.
pub fn remove(state: &Path) {
    if let Err(error) = std::fs::remove_file(state.join(NAME)) {
        tracing::debug!(event = "control", %error);
    }
}

/// Answers until the program ends; `status` makes the present status.
pub fn serve(intake: &Arc<Intake>, listener: &UnixListener, status: impl Fn() -> status::Status) {
    while !intake.stopping() {
        match listener.accept() {
            Ok((stream, _)) => {
                if let Err(error) = answer(intake, &stream, &status) {
                    tracing::debug!(event = "control", %error);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(SOON),
            Err(error) => {
                tracing::warn!(event = "control", %error, "nobody can ask at this moment");
                std::thread::sleep(LATER);
            }
        }
    }
}

fn answer(intake: &Arc<Intake>, mut stream: &UnixStream, status: &impl Fn() -> status::Status) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let peer = rustix::net::sockopt::socket_peercred(stream)?;
    let mut line = String::new();
    BufReader::new(stream.take(LONGEST_LINE)).read_line(&mut line)?;
    let request: Value = serde_json::from_str(&line)?;
    let reply = match request["do"].as_str() {
        Some("status") => detailed(&status()),
        Some("retry") => {
            let ids: Vec<i64> = request["ids"].as_array().into_iter().flatten().filter_map(Value::as_i64).collect();
            tracing::info!(event = "retry_asked", uid = peer.uid.as_raw(), count = ids.len());
            let actor = actor(peer.uid.as_raw());
            let refused = showing_life(stream, || retry(&intake.ledger, &ids, |row| intake.bring_back(row, &actor)));
            json!({ "refused": refused })
        }
        _ => json!({ "error": "unknown request" }),
    };
    writeln!(stream, "{reply}")
}

/// While the work lasts the asker hears blanks, which mean nothing in front of an answer: large files take their time, and whoever stops
/// waiting would tell that nothing was done.
fn showing_life<T>(mut stream: &UnixStream, work: impl FnOnce() -> T) -> T {
    std::thread::scope(|scope| {
        let (working, ended) = mpsc::channel::<()>();
        scope.spawn(move || {
            while ended.recv_timeout(PATIENCE / 2) == Err(mpsc::RecvTimeoutError::Timeout) {
                // One that has gone away hears nothing; its files go back all the same.
                let _ = stream.write_all(b" ");
            }
        });
        let result = work();
        drop(working);
        result
    })
}

fn detailed(status: &status::Status) -> Value {
    let mut value = status::json(status);
    value["notices"] = json!(status.notices);
    value["working"] = json!(status.working);
    value
}

/// Who asks, for the ledger: the number of the user and its name on this machine.
pub fn actor(uid: u32) -> String {
    match accounts::user(|user| user.uid == uid) {
        Some(user) => format!("{uid} {}", user.name),
        None => uid.to_string(),
    }
}

/// A file that was not brought back, and why.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Refused {
    /// Its number.
    pub id: i64,
    /// Why.
    pub failure: Failure,
}

/// Brings each of the files back by `bring`; those that were not. All are looked up first: several ids can stand for one file, which then
/// goes back with the first of them.
pub fn retry(ledger: &Ledger, ids: &[i64], mut bring: impl FnMut(&FileRow) -> Result<(), Failure>) -> Vec<Refused> {
    let found = |id: &i64| retryable(*id, ledger.read(|connection| read::file(connection, *id))?);
    let rows: Vec<(i64, Result<FileRow, Failure>)> = ids.iter().map(|id| (*id, found(id))).collect();
    let tried = rows.into_iter().map(|(id, row)| (id, row.and_then(|row| bring(&row))));
    tried.filter_map(|(id, result)| result.err().map(|failure| Refused { id, failure })).collect()
}

/// The file of that id if it can be tried again.
///
/// # Errors
/// [`Exit::NotFound`] when there is none, or it has not failed.
fn retryable(id: i64, row: Option<FileRow>) -> Result<FileRow, Failure> {
    match row {
        None => Err(Failure::new(
            Exit::NotFound,
            format!("there is no file {id}"),
            "",
            "see the note beside the file for its job number",
        )),
        Some(row) if row.state.can_be_retried() => Ok(row),
        Some(row) => Err(Failure::new(
            Exit::NotFound,
            format!("file {id} has not failed: {}", status::words(&row)),
            row.path_text,
            "only files that have a note can be tried again",
        )),
    }
}

/// Asks the running daemon; none when no daemon answers.
///
/// # Errors
/// Permission, or the daemon answered nothing that can be read.
pub fn ask(state: &Path, request: &Value) -> Result<Option<Value>, Failure> {
    let socket = state.join(NAME);
    let failed = |error: &io::Error| Failure::io("the daemon cannot be asked", &socket, error);
    let (_folder, path) = address(state).map_err(|error| failed(&error))?;
    let mut stream = match UnixStream::connect(path) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => return Ok(None),
        Err(error) => return Err(failed(&error)),
    };
    let talk = |stream: &mut UnixStream| -> io::Result<String> {
        stream.set_read_timeout(Some(PATIENCE * 6))?;
        writeln!(stream, "{request}")?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok(line)
    };
    let line = talk(&mut stream).map_err(|error| failed(&error))?;
    serde_json::from_str(&line).map(Some).map_err(|error| Failure::internal("the daemon's answer cannot be read", error))
}
