//! The program's side of the child: it is started, asked, bounded in time and words, and replaced when it dies, hangs or has worked enough.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mmlnb_models::prepare::decode::{Limits, Rgb8Image};

use super::appearance::Appearance;
use super::look;
use super::wire::{self, Answer, Ask, COMMAND, Greeting, Want};
use crate::failpoint;
use crate::ledger::Rejection;

/// Files for which one child is used.
pub const IMAGES: u32 = 256;
/// After an image with more bytes of pixels than this the child is replaced: its memory is the machine's again.
const MUCH: usize = 64 << 20;
/// Time for a child to start and confine itself.
const GREETING: Duration = Duration::from_secs(20);

/// How children are started and bounded, and what was learnt of their confinement.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The program that knows the hidden subcommand; normally this one.
    pub program: PathBuf,
    /// Time limit for one file.
    pub timeout: Duration,
    /// Longest and shortest side.
    pub sides: (u32, u32),
    missing: Arc<Mutex<Option<String>>>,
}

impl Settings {
    /// Children of `program`.
    pub fn new(program: PathBuf, timeout: Duration, sides: (u32, u32)) -> Settings {
        Settings { program, timeout, sides, missing: Arc::default() }
    }

    /// What the confinement of the last child lacks.
    pub fn missing(&self) -> Option<String> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A decoded image.
#[derive(Debug)]
pub struct Decoded {
    /// PNG, JPEG, TIFF or BMP.
    pub format: String,
    /// The pixels.
    pub rgb: Rgb8Image,
    /// What the image looks like, for flags and the verdict.
    pub appearance: Appearance,
}

/// What the child found.
#[derive(Debug)]
pub enum Found {
    /// No slide, or a good header.
    Fine,
    /// A whole slide: whose format, and how large in pixels where that is known.
    Slide(String, Option<(u64, u64)>),
    /// The file has not arrived as a whole; what is missing.
    Unfinished(String),
    /// An image.
    Image(Box<Decoded>),
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Unread {
    /// The file's own fault.
    Rejected(Rejection),
    /// The child died, hung or talked nonsense: probably the file's fault, and worth another try.
    Died(Rejection),
    /// Not the file's fault; waiting may help.
    Later(String),
}

/// What finds out about files: a child, or in tests something that knows what they are.
pub trait Decoder: Send {
    /// What is found in a file.
    ///
    /// # Errors
    /// [`Unread`]; the next call may succeed.
    fn ask(&mut self, ask: &Ask, file: BorrowedFd<'_>) -> Result<Found, Unread>;

    /// The thumbnail of the image that was asked for last, a JPEG.
    ///
    /// # Errors
    /// [`Unread::Died`].
    fn thumbnail(&mut self) -> Result<Vec<u8>, Unread>;

    /// Longest and shortest side.
    fn sides(&self) -> (u32, u32);
}

/// One child at a time, for one thread: a child ends with the thread that started it.
pub struct Reader {
    settings: Settings,
    running: Option<Running>,
}

struct Running {
    process: Child,
    socket: UnixStream,
    served: u32,
    /// A thumbnail has been asked for and not been fetched.
    owes: bool,
    heavy: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Killing a process that has ended already fails, and that is fine.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Reads from a socket until a moment.
struct Until<'a>(&'a UnixStream, Instant);

impl Read for Until<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.1.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.0.set_read_timeout(Some(left))?;
        let mut socket = self.0;
        socket.read(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
            _ => error,
        })
    }
}

impl Reader {
    /// Without a child yet.
    pub fn new(settings: Settings) -> Reader {
        Reader { settings, running: None }
    }

    /// Starts the child before it is needed.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&mut self) -> io::Result<()> {
        self.child().map(drop)
    }

    /// Ends a child that has worked enough.
    fn retire(&mut self) {
        if self.running.as_ref().is_some_and(|running| !running.owes && (running.served >= IMAGES || running.heavy)) {
            self.running = None;
        }
    }

    /// Ends a child that did not answer as it should, and says what became of it.
    fn died(&mut self, error: &io::Error) -> Unread {
        let ended = self.running.take().and_then(|mut running| {
            let ended = running.process.try_wait().ok().flatten();
            // One that closed its socket is about to end; one that hangs is ended where it is dropped.
            ended.or_else(|| {
                std::thread::sleep(Duration::from_millis(20));
                running.process.try_wait().ok().flatten()
            })
        });
        let how = match (error.kind(), ended) {
            (io::ErrorKind::TimedOut, _) => format!("did not finish within {} s", self.settings.timeout.as_secs()),
            (io::ErrorKind::InvalidData, _) => format!("gave no proper answer ({error})"),
            (_, Some(status)) => format!("ended with {status}"),
            (_, None) => format!("ended ({error})"),
        };
        let message = format!("The decoder {how} on this file; it is damaged in an unusual way");
        Unread::Died(Rejection { code: "decoder_died".into(), message })
    }

    /// The child, a new one where there is none or where it still owes something that nobody wants any more.
    fn child(&mut self) -> io::Result<&mut Running> {
        if self.running.as_ref().is_some_and(|running| running.owes) {
            self.running = None;
        }
        let running = match self.running.take() {
            Some(running) => running,
            None => Running::start(&self.settings)?,
        };
        Ok(self.running.insert(running))
    }
}

impl Decoder for Reader {
    fn ask(&mut self, ask: &Ask, file: BorrowedFd<'_>) -> Result<Found, Unread> {
        let later = |error: io::Error| Unread::Later(format!("the decoder could not be started: {error}"));
        failpoint::pass("decode.spawn").map_err(later)?;
        let limits = look::limits(self.settings.sides);
        let timeout = self.settings.timeout;
        match self.child().map_err(later)?.converse(ask, file, Instant::now() + timeout, &limits) {
            Ok(found) => {
                self.retire();
                found
            }
            Err(error) => Err(self.died(&error)),
        }
    }

    fn thumbnail(&mut self) -> Result<Vec<u8>, Unread> {
        let until = Instant::now() + self.settings.timeout;
        let found = self.running.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into());
        match found.and_then(|running| running.thumbnail(until)) {
            Ok(jpeg) => {
                self.retire();
                Ok(jpeg)
            }
            Err(error) => Err(self.died(&error)),
        }
    }

    fn sides(&self) -> (u32, u32) {
        self.settings.sides
    }
}

impl Running {
    fn start(settings: &Settings) -> io::Result<Running> {
        let (socket, theirs) = UnixStream::pair()?;
        let (max_side, min_side) = settings.sides;
        let process = Command::new(&settings.program)
            .arg(COMMAND)
            .args([max_side.to_string(), min_side.to_string(), settings.timeout.as_secs().to_string()])
            .arg(std::process::id().to_string())
            // A backtrace opens files, which the sandbox answers by death: the true cause would be hidden.
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let running = Running { process, socket, served: 0, owes: false, heavy: false };
        let greeting: Greeting = wire::receive(&mut Until(&running.socket, Instant::now() + GREETING))?;
        *settings.missing.lock().unwrap_or_else(PoisonError::into_inner) = greeting.sandbox.missing();
        Ok(running)
    }

    fn converse(
        &mut self,
        ask: &Ask,
        file: BorrowedFd<'_>,
        until: Instant,
        limits: &Limits,
    ) -> io::Result<Result<Found, Unread>> {
        self.served += 1;
        self.socket.set_write_timeout(Some(until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))))?;
        wire::send_ask(self.socket.as_fd(), ask, file)?;
        let mut source = Until(&self.socket, until);
        Ok(match wire::receive::<Answer>(&mut source)? {
            Answer::Fine => Ok(Found::Fine),
            Answer::Slide { vendor, size } => Ok(Found::Slide(vendor, size)),
            Answer::Unfinished(what) => Ok(Found::Unfinished(what)),
            Answer::Unread(why) => Err(Unread::Later(format!("the file could not be read: {why}"))),
            Answer::Rejected { code, message } => Err(Unread::Rejected(Rejection { code, message })),
            Answer::Image { format, appearance } => {
                let [width, height] = appearance.size;
                let mut pixels = vec![0; bytes_of(appearance.size, limits)?];
                source.read_exact(&mut pixels)?;
                self.owes = ask.want == Want::Image { thumbnail: true };
                self.heavy = pixels.len() > MUCH;
                Ok(Found::Image(Box::new(Decoded { format, rgb: Rgb8Image { width, height, pixels }, appearance })))
            }
        })
    }

    fn thumbnail(&mut self, until: Instant) -> io::Result<Vec<u8>> {
        let mut source = Until(&self.socket, until);
        let mut jpeg = vec![0; wire::length(&mut source, wire::THUMBNAIL)?];
        source.read_exact(&mut jpeg)?;
        self.owes = false;
        Ok(jpeg)
    }
}

/// Bytes of an image's pixels; a size that may not be is no answer.
fn bytes_of([width, height]: [usize; 2], limits: &Limits) -> io::Result<usize> {
    let most = limits.max_side as usize;
    let pixels = width.checked_mul(height).filter(|pixels| *pixels as u64 <= limits.max_pixels && width.max(height) <= most);
    let bytes = pixels.and_then(|pixels| pixels.checked_mul(3));
    bytes.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("an image of {width} x {height} pixels")))
}
