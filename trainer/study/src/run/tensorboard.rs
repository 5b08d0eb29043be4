//! TensorBoard's event files, so that a run can be watched with the tool that people know; `metrics.jsonl` holds the same numbers.
//!
//! A file is a sequence of TFRecords: length (u64), masked CRC32C of the length, a protobuf `Event`, masked CRC32C of the event, all little-endian.

use crate::error::StudyError;
use prost::Message;
use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

/// `tensorflow.Event`, as much of it as scalars need.
#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(oneof = "What", tags = "3, 5, 7")]
    what: Option<What>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
    #[prost(message, tag = "7")]
    Session(Session),
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, tag = "2")]
    simple_value: f32,
}

/// `tensorflow.SessionLog`; status 1 is START.
#[derive(Clone, PartialEq, Message)]
struct Session {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Appends scalars to one event file.
#[derive(Debug)]
pub struct EventFile {
    file: File,
    path: PathBuf,
}

impl EventFile {
    /// A new file `events.out.tfevents.SECONDS.mmlnb[.N]` in `folder`, beside those of earlier starts. `resumed_at`: the next step of a resumed run;
    /// TensorBoard then drops what earlier files hold from that step on.
    pub fn create(folder: &Path, resumed_at: Option<u64>) -> Result<EventFile, StudyError> {
        let seconds = now() as u64;
        let (file, path) = fresh(folder, seconds)?;
        let mut events = EventFile { file, path };
        events.append(0, What::FileVersion("brain.Event:2".into()))?;
        if let Some(step) = resumed_at {
            events.append(step, What::Session(Session { status: 1 }))?;
        }
        Ok(events)
    }

    /// One event with a value for every `KIND/name`; the file is whole after each call.
    pub fn scalars(&mut self, kind: &str, step: u64, values: &[(&str, f64)]) -> Result<(), StudyError> {
        let value =
            values.iter().map(|(name, value)| Value { tag: format!("{kind}/{name}"), simple_value: *value as f32 }).collect();
        self.append(step, What::Summary(Summary { value }))
    }

    fn append(&mut self, step: u64, what: What) -> Result<(), StudyError> {
        let event = Event { wall_time: now(), step: step as i64, what: Some(what) };
        self.file.write_all(&record(&event.encode_to_vec())).map_err(StudyError::io("write", &self.path))
    }
}

fn fresh(folder: &Path, seconds: u64) -> Result<(File, PathBuf), StudyError> {
    let mut number = 0;
    loop {
        let suffix = if number == 0 { String::new() } else { format!(".{number}") };
        let path = folder.join(format!("events.out.tfevents.{seconds:010}.mmlnb{suffix}"));
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => return Ok((file, path)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(StudyError::io("create", &path)(error)),
        }
    }
}

/// Seconds since 1970; a clock before that counts as 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// A TFRecord around `data`.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked(crc32c(&length)).to_le_bytes(), data, &masked(crc32c(data)).to_le_bytes()].concat()
}

/// TFRecord's mask: a checksum of data that holds checksums would be weak.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Castagnoli's CRC, reflected, as iSCSI uses it (RFC 3720).
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 * (crc & 1))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_rfc_3720() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    /// What tensorboard 2.21's own `RecordWriter` writes for the same two events.
    #[test]
    fn the_bytes_are_those_of_tensorboard() {
        let version = Event { wall_time: 1.5, step: 0, what: Some(What::FileVersion("brain.Event:2".into())) };
        let value = vec![Value { tag: "step/loss".into(), simple_value: 0.5 }];
        let loss = Event { wall_time: 2.5, step: 300, what: Some(What::Summary(Summary { value })) };
        let expected = "1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a322a28646c\
                        200000000000000029eda95009000000000000044010ac022a120a100a09737465702f6c6f7373150000003faefa50be";
        let written: String =
            [version, loss].iter().flat_map(|event| record(&event.encode_to_vec())).map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(written, expected);
    }

    #[test]
    fn every_event_can_be_read_back_and_its_checksums_hold() {
        let folder = tempfile::tempdir().unwrap();
        let mut events = EventFile::create(folder.path(), Some(7)).unwrap();
        events.scalars("step", 7, &[("loss", 0.5), ("lambda", 0.3)]).unwrap();
        events.scalars("validation", 9, &[("accuracy", 0.75)]).unwrap();
        let second = EventFile::create(folder.path(), None).unwrap();
        assert_ne!(events.path, second.path, "a second start in the same second has a file of its own");

        let bytes = std::fs::read(&events.path).unwrap();
        let read = read_records(&bytes);
        let steps: Vec<i64> = read.iter().map(|event| event.step).collect();
        assert_eq!(steps, [0, 7, 7, 9]);
        assert!(matches!(&read[0].what, Some(What::FileVersion(version)) if version == "brain.Event:2"));
        assert!(matches!(&read[1].what, Some(What::Session(Session { status: 1 }))));
        let Some(What::Summary(summary)) = &read[2].what else { panic!("no summary") };
        let values: Vec<(&str, f32)> = summary.value.iter().map(|value| (value.tag.as_str(), value.simple_value)).collect();
        assert_eq!(values, [("step/loss", 0.5), ("step/lambda", 0.3)]);
    }

    fn read_records(mut bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        while !bytes.is_empty() {
            let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            assert_eq!(bytes[8..12], masked(crc32c(&bytes[..8])).to_le_bytes());
            let data = &bytes[12..12 + length];
            assert_eq!(bytes[12 + length..16 + length], masked(crc32c(data)).to_le_bytes());
            events.push(Event::decode(data).unwrap());
            bytes = &bytes[16 + length..];
        }
        events
    }
}
