//! Limit: what a ZooKeeper server can do at all. A minimal client on one thread; no recipe.
//!
//! | workload | the least that it takes |
//! |---|---|
//! | w1, w3 | each worker creates a sequential node and deletes it, many requests under way at once |
//! | w1 with `--recipe fenced` | the same with all that lock-zk asks of the server: the transaction that creates writes a node of the session, too |
//! | w3 with `--recipe batch` | the same for all workers together: one `multi` creates, one deletes |
//! | w2 | a hand-over in one process: the reply to the delete is the grant, and the next node is created meanwhile |
//! | w2x | a hand-over between two sessions: a delete, and the event of it at the other one |
//! | w4 | nodes that are there already are deleted one after the other |
//! | parents | no workload: creates the parents of `--n` locks |

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use lock_peers::protocol::{mark, measure, report, report_drain, say};
use lock_peers::zk::{
    self, CREATE, DELETE, EPHEMERAL, EPHEMERAL_SEQUENTIAL, EVENT, EXISTS, MULTI, MULTI_HEADER, PERSISTENT, SET_DATA,
    STATE,
};
use lock_peers::{Args, Clock, Record, Result};

fn main() -> Result<()> {
    let args = Args::parse()?;
    let mut session = Session::open(&args)?;
    for path in zk::ancestors(&args.prefix) {
        session.create(path, PERSISTENT);
        session.receive()?;
    }
    let node = format!("{}/{}", args.prefix, zk::STEM);
    match (args.workload.as_str(), args.recipe.as_deref()) {
        ("w3", Some("batch")) => measure(&args, |total, clock| batches(&mut session, &node, args.c, total, clock)),
        ("w1", Some("fenced")) => {
            let own = format!("{}/own", args.prefix);
            session.create(&own, EPHEMERAL);
            session.receive()?;
            measure(&args, |total, clock| fenced(&mut session, &node, &own, total, clock))
        }
        ("w1" | "w3", None) => measure(&args, |total, clock| singles(&mut session, &node, args.c, total, clock)),
        ("w2", None) => measure(&args, |total, clock| chain(&mut session, &node, args.c, total, clock)),
        ("w2x", None) => across(session, &node, &args),
        ("w4", None) => drain(&mut session, &node, &args),
        ("parents", None) => parents(&mut session, &args),
        (workload, recipe) => Err(format!("no workload {workload} {recipe:?}").into()),
    }
}

struct Session {
    input: BufReader<TcpStream>,
    output: TcpStream,
    unsent: Vec<u8>,
    xid: i32,
}

struct Reply {
    xid: i32,
    error: i32,
    body: Vec<u8>,
}

impl Reply {
    fn ok(self) -> Result<Vec<u8>> {
        if self.error == 0 { Ok(self.body) } else { Err(format!("error {}", self.error).into()) }
    }

    fn path(self) -> Result<String> {
        Ok(zk::text_at(&self.ok()?, 0).to_owned())
    }
}

impl Session {
    fn open(args: &Args) -> Result<Self> {
        let output = TcpStream::connect(&args.endpoints[0])?;
        output.set_nodelay(true)?;
        let input = BufReader::with_capacity(1 << 16, output.try_clone()?);
        let mut session = Self { input, output, unsent: Vec::new(), xid: 0 };
        session.frame(&zk::connect_body(args.ttl.as_millis() as i32));
        session.flush()?;
        session.read_frame()?;
        Ok(session)
    }

    fn frame(&mut self, bytes: &[u8]) {
        self.unsent.extend((bytes.len() as i32).to_be_bytes());
        self.unsent.extend(bytes);
    }

    fn flush(&mut self) -> Result<()> {
        self.output.write_all(&self.unsent)?;
        self.unsent.clear();
        Ok(())
    }

    fn read_frame(&mut self) -> Result<Vec<u8>> {
        let mut length = [0; 4];
        self.input.read_exact(&mut length)?;
        let mut frame = vec![0; i32::from_be_bytes(length) as usize];
        self.input.read_exact(&mut frame)?;
        Ok(frame)
    }

    /// The next reply or event. Sends what is unsent when nothing more is there to be read.
    fn receive(&mut self) -> Result<Reply> {
        if self.input.buffer().is_empty() {
            self.flush()?;
            self.input.fill_buf()?;
        }
        let frame = self.read_frame()?;
        Ok(Reply { xid: zk::int_at(&frame, 0), error: zk::int_at(&frame, 12), body: frame[16..].to_vec() })
    }

    fn request(&mut self, op: i32, body: &[u8]) -> i32 {
        self.xid += 1;
        let frame = [&self.xid.to_be_bytes(), &op.to_be_bytes(), body].concat();
        self.frame(&frame);
        self.xid
    }

    fn create(&mut self, path: &str, flags: i32) -> i32 {
        self.request(CREATE, &zk::create_body(path, flags))
    }

    fn delete(&mut self, path: &str) -> i32 {
        self.request(DELETE, &zk::delete_body(path))
    }
}

fn singles(session: &mut Session, node: &str, workers: u64, total: u64, clock: Clock) -> Result<Vec<Record>> {
    /// What a request that is under way is about.
    enum Sent {
        Create { worker: u64, ticket: u64, requested: u64 },
        Delete(Record),
    }
    let (mut records, mut sent, mut tickets) = (Vec::new(), HashMap::new(), 0..total);
    for (worker, ticket) in (0..workers).zip(&mut tickets) {
        let requested = clock.now();
        sent.insert(session.create(node, EPHEMERAL_SEQUENTIAL), Sent::Create { worker, ticket, requested });
    }
    while !sent.is_empty() {
        let reply = session.receive()?;
        match sent.remove(&reply.xid) {
            None => {}
            Some(Sent::Create { worker, ticket, requested }) => {
                let granted = clock.now();
                let record = Record { worker, ticket, requested, granted, releasing: granted, released: 0 };
                sent.insert(session.delete(&reply.path()?), Sent::Delete(record));
            }
            Some(Sent::Delete(record)) => {
                reply.ok()?;
                let released = clock.now();
                records.push(Record { released, ..record });
                if let Some(ticket) = tickets.next() {
                    let again = Sent::Create { worker: record.worker, ticket, requested: released };
                    sent.insert(session.create(node, EPHEMERAL_SEQUENTIAL), again);
                }
            }
        }
    }
    Ok(records)
}

fn fenced(session: &mut Session, node: &str, own: &str, total: u64, clock: Clock) -> Result<Vec<Record>> {
    let set = [zk::multi_header(SET_DATA), zk::set_data_body(own)].concat();
    let create = [zk::multi_header(CREATE), zk::create_body(node, EPHEMERAL_SEQUENTIAL)].concat();
    let enter = [set, create, zk::MULTI_END.to_vec()].concat();
    let mut records = Vec::new();
    for ticket in 0..total {
        let requested = clock.now();
        session.request(MULTI, &enter);
        let reply = session.receive()?.ok()?;
        let granted = clock.now();
        session.delete(zk::text_at(&reply, MULTI_HEADER + STATE + MULTI_HEADER));
        session.receive()?.ok()?;
        let released = clock.now();
        records.push(Record { worker: 0, ticket, requested, granted, releasing: granted, released });
    }
    Ok(records)
}

fn batches(session: &mut Session, node: &str, workers: u64, total: u64, clock: Clock) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    let create = [zk::multi_header(CREATE), zk::create_body(node, EPHEMERAL_SEQUENTIAL)].concat();
    let creates = [create.repeat(workers as usize), zk::MULTI_END.to_vec()].concat();
    while (records.len() as u64) < total {
        let requested = clock.now();
        session.request(MULTI, &creates);
        let reply = session.receive()?.ok()?;
        let (mut deletes, mut at) = (Vec::new(), 0);
        for _ in 0..workers {
            at += MULTI_HEADER;
            let path = zk::text_at(&reply, at);
            at += 4 + path.len();
            deletes.extend([zk::multi_header(DELETE), zk::delete_body(path)].concat());
        }
        let granted = clock.now();
        deletes.extend(zk::MULTI_END);
        session.request(MULTI, &deletes);
        session.receive()?.ok()?;
        let released = clock.now();
        for worker in 0..workers {
            let ticket = records.len() as u64;
            records.push(Record { worker, ticket, requested, granted, releasing: granted, released });
        }
    }
    Ok(records)
}

fn chain(session: &mut Session, node: &str, workers: u64, total: u64, clock: Clock) -> Result<Vec<Record>> {
    let mut records: Vec<Record> = Vec::new();
    let (mut creating, mut queue, mut tickets) = (HashMap::new(), VecDeque::<(_, String)>::new(), 0..total);
    for (worker, ticket) in (0..workers).zip(&mut tickets) {
        creating.insert(session.create(node, EPHEMERAL_SEQUENTIAL), (worker, ticket, clock.now()));
    }
    let mut deleting: Option<(i32, Record)> = None;
    while (records.len() as u64) < total {
        if deleting.is_none()
            && let Some(((worker, ticket, requested), path)) = queue.pop_front()
        {
            let granted = clock.now();
            let record = Record { worker, ticket, requested, granted, releasing: granted, released: 0 };
            deleting = Some((session.delete(&path), record));
        }
        let reply = session.receive()?;
        if let Some(slot) = creating.remove(&reply.xid) {
            queue.push_back((slot, reply.path()?));
        } else if let Some((_, record)) = deleting.take_if(|(xid, _)| *xid == reply.xid) {
            reply.ok()?;
            let released = clock.now();
            records.push(Record { released, ..record });
            if let Some(ticket) = tickets.next() {
                let again = (record.worker, ticket, released);
                creating.insert(session.create(node, EPHEMERAL_SEQUENTIAL), again);
            }
        }
    }
    Ok(records)
}

/// Creates nodes, all at once; their paths are in order.
fn fill(session: &mut Session, node: &str, total: u64) -> Result<Vec<String>> {
    for entry in 0..total {
        session.create(node, EPHEMERAL_SEQUENTIAL);
        if entry % 256 == 0 {
            session.flush()?;
        }
    }
    (0..total).map(|_| session.receive()?.path()).collect()
}

fn across(session: Session, node: &str, args: &Args) -> Result<()> {
    let total = args.warm + args.n;
    let mut sessions = [session, Session::open(args)?];
    let paths = fill(&mut sessions[0], node, total)?;
    for (entry, path) in paths.iter().enumerate() {
        let other = &mut sessions[1 - entry % 2];
        other.request(EXISTS, &zk::read_body(path, true));
        other.receive()?.ok()?;
    }
    let (mut clock, mut records) = (Clock::start()?, Vec::new());
    for (path, ticket) in paths.iter().zip(0..) {
        if ticket == args.warm {
            mark("begin")?;
            clock = Clock::start()?;
            records.clear();
        }
        let worker = ticket % 2;
        let requested = clock.now();
        sessions[worker as usize].delete(path);
        sessions[worker as usize].flush()?;
        loop {
            let reply = sessions[1 - worker as usize].receive()?;
            if reply.xid == EVENT && zk::text_at(&reply.body, 8) == path {
                break;
            }
        }
        let granted = clock.now();
        records.push(Record { worker, ticket, requested, granted, releasing: granted, released: granted });
    }
    let wall = clock.now();
    mark("end")?;
    report(args, &records, wall, clock)
}

fn drain(session: &mut Session, node: &str, args: &Args) -> Result<()> {
    mark("enq")?;
    let clock = Clock::start()?;
    let paths = fill(session, node, args.n)?;
    let queued = clock.now();
    mark("begin")?;
    let start = clock.now();
    let mut records = Vec::new();
    for (path, ticket) in paths.iter().zip(0..) {
        let granted = clock.now();
        session.delete(path);
        session.receive()?.ok()?;
        let released = clock.now();
        records.push(Record { worker: ticket, ticket, requested: 0, granted, releasing: granted, released });
    }
    mark("end")?;
    report_drain(args, &records, queued, start)
}

fn parents(session: &mut Session, args: &Args) -> Result<()> {
    for lock in 0..args.n {
        session.create(&format!("{}/l{lock:05}", args.prefix), PERSISTENT);
        if lock % 256 == 0 {
            session.flush()?;
        }
    }
    for _ in 0..args.n {
        session.receive()?;
    }
    say("{}")
}
