//! The ways in which scanners, shares and people put a file into a folder.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

fn make_parent(target: &Path) {
    let parent = target.parent().expect("a file lies in a folder");
    fs::create_dir_all(parent).expect("the inbox is writable");
}

/// Written in one go under its final name.
pub fn drop_by_copy(bytes: &[u8], target: &Path) {
    make_parent(target);
    fs::write(target, bytes).expect("the inbox is writable");
}

/// Written elsewhere (`outside`, on the same file system), then renamed into place.
pub fn drop_by_rename(bytes: &[u8], target: &Path, outside: &Path) {
    make_parent(target);
    let ready = outside.join(target.file_name().expect("a file has a name"));
    fs::write(&ready, bytes).expect("the folder outside is writable");
    fs::rename(&ready, target).expect("a rename on one file system");
}

/// Written in `pieces`, with a pause after each but the last; closed and opened again in between, as scanners do.
pub fn drop_in_pieces(bytes: &[u8], target: &Path, pieces: usize, pause: Duration) {
    make_parent(target);
    File::create(target).expect("the inbox is writable");
    for piece in bytes.chunks(bytes.len().div_ceil(pieces)) {
        let mut file = File::options().append(true).open(target).expect("the file stays while it is written");
        file.write_all(piece).expect("the inbox is writable");
        drop(file);
        std::thread::sleep(pause);
    }
}

/// Given its full size at once and filled afterwards, as Windows Explorer does.
pub fn drop_size_first(bytes: &[u8], target: &Path, pause: Duration) {
    make_parent(target);
    let mut file = File::create(target).expect("the inbox is writable");
    file.set_len(bytes.len() as u64).expect("the inbox is writable");
    for (index, piece) in bytes.chunks(bytes.len().div_ceil(4)).enumerate() {
        std::thread::sleep(pause);
        let offset = index * bytes.len().div_ceil(4);
        file.seek(SeekFrom::Start(offset as u64)).expect("a file can be sought");
        file.write_all(piece).expect("the inbox is writable");
    }
}
