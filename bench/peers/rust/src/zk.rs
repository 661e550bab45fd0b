//! As much of ZooKeeper's wire format as the probes need.

pub const CREATE: i32 = 1;
pub const DELETE: i32 = 2;
pub const EXISTS: i32 = 3;
pub const SET_DATA: i32 = 5;
pub const CHILDREN: i32 = 8;
pub const PING: i32 = 11;
pub const MULTI: i32 = 14;
pub const ADD_WATCH: i32 = 106;

/// The number of every event and ping, in place of a request's.
pub const EVENT: i32 = -1;
pub const PING_XID: i32 = -2;

/// Kinds of events.
pub const CREATED: i32 = 1;
pub const DELETED: i32 = 2;

pub const NO_NODE: i32 = -101;

/// Flags of a node.
pub const PERSISTENT: i32 = 0;
pub const EPHEMERAL: i32 = 1;
pub const EPHEMERAL_SEQUENTIAL: i32 = 3;

/// A node's name up to its sequence number, as Curator writes it.
pub const STEM: &str = "_c_00000000-0000-0000-0000-000000000000-lock-";

pub fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as i32).to_be_bytes());
    out.extend(text.as_bytes());
}

pub fn int_at(bytes: &[u8], at: usize) -> i32 {
    i32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// # Panics
/// If the server sends a path that is no text.
pub fn text_at(bytes: &[u8], at: usize) -> &str {
    let length = int_at(bytes, at) as usize;
    std::str::from_utf8(&bytes[at + 4..at + 4 + length]).expect("paths are text")
}

/// A request that opens a session.
pub fn connect_body(ttl_ms: i32) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(0i32.to_be_bytes()); // protocol version
    body.extend(0i64.to_be_bytes()); // last transaction seen
    body.extend(ttl_ms.to_be_bytes());
    body.extend(0i64.to_be_bytes()); // no session yet
    put_text(&mut body, "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"); // no password
    body.push(0); // not read-only
    body
}

pub fn create_body(path: &str, flags: i32) -> Vec<u8> {
    let mut body = Vec::new();
    put_text(&mut body, path);
    put_text(&mut body, ""); // data
    body.extend(1i32.to_be_bytes()); // one access rule:
    body.extend(31i32.to_be_bytes()); // everything
    put_text(&mut body, "world");
    put_text(&mut body, "anyone");
    body.extend(flags.to_be_bytes());
    body
}

pub fn delete_body(path: &str) -> Vec<u8> {
    let mut body = Vec::new();
    put_text(&mut body, path);
    body.extend((-1i32).to_be_bytes()); // any version
    body
}

pub fn read_body(path: &str, watch: bool) -> Vec<u8> {
    let mut body = Vec::new();
    put_text(&mut body, path);
    body.push(u8::from(watch));
    body
}

/// Writes nothing into a node, whatever its version.
pub fn set_data_body(path: &str) -> Vec<u8> {
    let mut body = Vec::new();
    put_text(&mut body, path);
    body.extend(0i32.to_be_bytes());
    body.extend((-1i32).to_be_bytes());
    body
}

/// Bytes of a node's state.
pub const STATE: usize = 68;

/// Bytes in front of each result of a `MULTI`.
pub const MULTI_HEADER: usize = 9;

/// One request in a `MULTI`; `MULTI_END` ends it.
pub fn multi_header(op: i32) -> Vec<u8> {
    let mut body = op.to_be_bytes().to_vec();
    body.push(0);
    body.extend((-1i32).to_be_bytes());
    body
}

pub const MULTI_END: [u8; 9] = [0xff, 0xff, 0xff, 0xff, 1, 0xff, 0xff, 0xff, 0xff];

/// A path and all its ancestors, from the top.
pub fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').skip(1).map(|(at, _)| &path[..at]).chain([path])
}

/// # Panics
/// If the name does not end as those of sequential nodes do.
pub fn sequence(name: &str) -> i64 {
    name[name.len() - 10..].parse().expect("a sequential node ends in ten digits")
}

pub fn children(body: &[u8]) -> Vec<&str> {
    let mut at = 4;
    let mut names = Vec::new();
    for _ in 0..int_at(body, 0) {
        let name = text_at(body, at);
        at += 4 + name.len();
        names.push(name);
    }
    names
}

/// From the reply of `EXISTS`: the field of the node's state that counts its children.
pub fn child_count(body: &[u8]) -> u64 {
    int_at(body, 56) as u64
}
