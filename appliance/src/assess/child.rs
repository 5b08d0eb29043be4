//! The child's side: it confines itself, says how far it could, and answers requests until nobody asks any more.

use std::io::{self, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use super::look::{self, Seen};
use super::wire::{self, Greeting, Want};
use super::{reader, sandbox};
use crate::failpoint;

/// Works for the process `parent`.
///
/// # Errors
/// It cannot confine itself, or the program has gone.
pub fn run(max_side: u32, min_side: u32, seconds: u64, parent: u32) -> io::Result<()> {
    // SAFETY: standard input is open, and nothing else in this process uses it.
    let mut socket = std::fs::File::from(unsafe { OwnedFd::from_raw_fd(0) });
    // Without a message: the program sees the end, and a trace would need files.
    std::panic::set_hook(Box::new(|_| std::process::abort()));
    let sandbox = sandbox::enter(parent, seconds.saturating_add(1).saturating_mul(u64::from(reader::IMAGES)))?;
    socket.write_all(&wire::framed(&Greeting { sandbox })?)?;
    let limits = look::limits((max_side, min_side));
    while let Some((ask, file)) = wire::receive_ask(socket.as_fd())? {
        failpoint::pass("decode.child")?;
        let thumbnail = ask.want == Want::Image { thumbnail: true };
        let Seen { answer, rgb } = look::look(file, &ask, &limits);
        socket.write_all(&wire::framed(&answer)?)?;
        if let Some(rgb) = rgb {
            socket.write_all(&rgb.pixels)?;
            if thumbnail {
                let jpeg = look::thumbnail(rgb)?;
                socket.write_all(&(jpeg.len() as u32).to_le_bytes())?;
                socket.write_all(&jpeg)?;
            }
        }
        sandbox::give_memory_back();
    }
    Ok(())
}
