//! What the program and its child say to each other: requests with one file descriptor each, answers of bounded length.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::appearance::Appearance;
use super::sandbox::Sandbox;

/// The hidden subcommand that is the child; its standard input is the socket.
pub const COMMAND: &str = "decode-child";
/// Bytes of the longest request or answer, pixels and thumbnail apart.
pub const LONGEST: usize = 64 << 10;
/// Bytes of the largest thumbnail.
pub const THUMBNAIL: usize = 2 << 20;
/// Characters of the longest message.
const MESSAGE: usize = 1000;

/// What is wanted of a file.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Want {
    /// Whether it is a whole slide.
    Slide,
    /// Whether its header is that of an image that can be read.
    Header,
    /// Its pixels, and if so a thumbnail after them.
    Image {
        /// Whether a thumbnail is wanted.
        thumbnail: bool,
    },
    /// To try what the child must not be able to do.
    #[cfg(feature = "failpoints")]
    Attempt(String),
}

/// A request.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Ask {
    /// What is wanted.
    pub want: Want,
    /// The file's name: some slides are known by it.
    pub name: String,
    /// Whether parts of the file were never written.
    pub hollow: bool,
    /// Whether a file with an unwritten end is to wait. One that lacks its end mark is unfinished in any case.
    pub patient: bool,
    /// Whether a damaged image is to be read as far as it can be.
    pub lenient: bool,
}

/// The child's first words.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Greeting {
    /// What confines it.
    pub sandbox: Sandbox,
}

/// The child's answer; after an image its pixels follow, width x height x 3 bytes, and, if wanted, the thumbnail in a frame of its own.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// No slide, or a good header.
    Fine,
    /// A whole slide.
    Slide {
        /// Whose format it is.
        vendor: String,
        /// Width and height in pixels where the header says so.
        size: Option<(u64, u64)>,
    },
    /// It has not arrived as a whole; what is missing.
    Unfinished(String),
    /// An image.
    Image {
        /// PNG, JPEG, TIFF or BMP.
        format: String,
        /// What it looks like.
        appearance: Appearance,
    },
    /// The bytes could not be read, whatever they are: no fault of the file.
    Unread(String),
    /// No image.
    Rejected {
        /// Stable code.
        code: String,
        /// One sentence.
        message: String,
    },
}

impl Answer {
    /// A rejection whose message is cut where it is too long.
    pub fn rejected(code: &str, message: &str) -> Answer {
        Answer::Rejected { code: code.to_owned(), message: message.chars().take(MESSAGE).collect() }
    }

    /// An error of the system while the bytes were read.
    pub fn unread(error: &io::Error) -> Answer {
        Answer::Unread(error.to_string().chars().take(MESSAGE).collect())
    }
}

/// The bytes of a message with its length in front.
///
/// # Errors
/// It is too long.
pub fn framed(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let text = serde_json::to_vec(message)?;
    if text.len() > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the message is too long"));
    }
    Ok([&(text.len() as u32).to_le_bytes()[..], &text].concat())
}

/// The length of a frame; an error where it is above `most`.
///
/// # Errors
/// The source ends, or says more than it may.
pub fn length(source: &mut impl Read, most: usize) -> io::Result<usize> {
    let mut length = [0; 4];
    source.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    match length <= most {
        true => Ok(length),
        false => Err(io::Error::new(io::ErrorKind::InvalidData, format!("an answer of {length} bytes"))),
    }
}

/// Reads a framed message.
///
/// # Errors
/// The source ends, or says something else.
pub fn receive<T: DeserializeOwned>(source: &mut impl Read) -> io::Result<T> {
    let mut text = vec![0; length(source, LONGEST)?];
    source.read_exact(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// Sends a request with its file.
///
/// # Errors
/// Nobody listens.
pub fn send_ask(socket: BorrowedFd<'_>, ask: &Ask, file: BorrowedFd<'_>) -> io::Result<()> {
    let message = framed(ask)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let files = [file];
    if !ancillary.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(io::Error::other("no room for a file descriptor"));
    }
    match sendmsg(socket, &[IoSlice::new(&message)], &mut ancillary, SendFlags::NOSIGNAL)? {
        count if count == message.len() => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// Receives a request with its file; nothing when the program has gone.
///
/// # Errors
/// Something else than a request arrives.
pub fn receive_ask(socket: BorrowedFd<'_>) -> io::Result<Option<(Ask, File)>> {
    let (mut bytes, mut file) = (Vec::new(), None::<OwnedFd>);
    let mut piece = vec![0; LONGEST + 4];
    loop {
        if let Some((length, rest)) = bytes.split_first_chunk::<4>()
            && rest.len() >= u32::from_le_bytes(*length) as usize
        {
            let file = file.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a request without a file"))?;
            return Ok(Some((serde_json::from_slice(rest)?, File::from(file))));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(socket, &mut [IoSliceMut::new(&mut piece)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
        if received.bytes == 0 {
            return Ok(None);
        }
        bytes.extend_from_slice(&piece[..received.bytes]);
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = message {
                file = files.into_iter().next().or(file);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_request_arrives_with_its_file() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, b"pixels").unwrap();
        let ask =
            Ask { want: Want::Image { thumbnail: true }, name: "x.png".into(), hollow: false, patient: true, lenient: false };
        send_ask(ours.as_fd(), &ask, file.as_fd()).unwrap();
        let (found, mut received) = receive_ask(theirs.as_fd()).unwrap().unwrap();
        assert_eq!(found, ask);
        io::Seek::rewind(&mut received).unwrap();
        assert_eq!(io::read_to_string(received).unwrap(), "pixels");
        drop(ours);
        assert!(receive_ask(theirs.as_fd()).unwrap().is_none());
    }

    #[test]
    fn lengths_are_bounded_on_both_sides() {
        assert!(framed(&"x".repeat(LONGEST)).is_err());
        let mut endless = &[0xff, 0xff, 0xff, 0x7f, 0, 0][..];
        assert_eq!(receive::<Answer>(&mut endless).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let Answer::Rejected { message, .. } = Answer::rejected("x", &"é".repeat(9999)) else { panic!() };
        assert_eq!(message.chars().count(), MESSAGE);
    }
}
