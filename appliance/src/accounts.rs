//! Users and groups of this machine, from `/etc/passwd` and `/etc/group`: those of directory services have no names here, which costs a name in a
//! line of the ledger and nothing else.
#![expect(clippy::disallowed_methods, reason = "files of the system")]

/// A user as `/etc/passwd` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The login name.
    pub name: String,
    /// The user's number.
    pub uid: u32,
    /// The number of its first group.
    pub gid: u32,
}

/// The first user for whom `wanted` holds.
pub fn user(wanted: impl Fn(&User) -> bool) -> Option<User> {
    lines("/etc/passwd").iter().filter_map(|line| read_user(line)).find(wanted)
}

/// A group's number.
pub fn group(name: &str) -> Option<u32> {
    lines("/etc/group").iter().find(|line| line.split(':').next() == Some(name))?.split(':').nth(2)?.parse().ok()
}

fn lines(file: &str) -> Vec<String> {
    let bytes = std::fs::read(file).unwrap_or_default();
    String::from_utf8_lossy(&bytes).lines().map(String::from).collect()
}

fn read_user(line: &str) -> Option<User> {
    let fields: Vec<&str> = line.split(':').collect();
    Some(User { name: fields.first()?.to_string(), uid: fields.get(2)?.parse().ok()?, gid: fields.get(3)?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_root_and_broken_lines_are_nobody() {
        let root = user(|user| user.uid == 0).unwrap();
        assert_eq!((root.gid, group("root")), (0, Some(0)));
        assert_eq!(user(|user| user.name == "nobody of this name"), None);
        assert_eq!(read_user("x:y"), None);
        assert_eq!(read_user("+@netgroup::::::"), None);
    }
}
