//! The command line of a peer: `PROGRAM WORKLOAD --option value …`.

use std::path::PathBuf;
use std::time::Duration;

use crate::Result;

#[derive(Clone, Debug)]
pub struct Args {
    pub workload: String,
    /// Servers, as `host:port`.
    pub endpoints: Vec<String>,
    /// The lock, or what the names of many begin with.
    pub prefix: String,
    /// Acquisitions of all workers together; waiters; locks held.
    pub n: u64,
    /// Workers.
    pub c: u64,
    /// Locks that the workers choose from.
    pub locks: u64,
    /// Acquisitions before the measurement begins.
    pub warm: u64,
    /// Of the session or lease.
    pub ttl: Duration,
    /// No acquisition begins after this time.
    pub limit: Duration,
    /// Where the records go.
    pub raw: Option<PathBuf>,
    /// Which recipe, where a program knows several.
    pub recipe: Option<String>,
}

impl Args {
    pub fn parse() -> Result<Self> {
        let mut words = std::env::args().skip(1);
        let mut args = Self {
            workload: words
                .next()
                .ok_or("usage: PROGRAM WORKLOAD --endpoint HOST:PORT --prefix /PATH [--option value …]")?,
            endpoints: Vec::new(),
            prefix: "/bench/lock".to_owned(),
            n: 2000,
            c: 1,
            locks: 1,
            warm: 300,
            ttl: Duration::from_secs(30),
            limit: Duration::from_secs(60),
            raw: None,
            recipe: None,
        };
        while let Some(option) = words.next() {
            let value = words.next().ok_or_else(|| format!("{option} needs a value"))?;
            match option.as_str() {
                "--endpoint" => args.endpoints = value.split(',').map(str::to_owned).collect(),
                "--prefix" => args.prefix = value,
                "--n" => args.n = value.parse()?,
                "--c" => args.c = value.parse()?,
                "--locks" => args.locks = value.parse()?,
                "--warm" => args.warm = value.parse()?,
                "--ttl" => args.ttl = Duration::from_secs(value.parse()?),
                "--max-s" => args.limit = Duration::from_secs(value.parse()?),
                "--raw" => args.raw = Some(value.into()),
                "--recipe" => args.recipe = Some(value),
                _ => return Err(format!("unknown option {option}").into()),
            }
        }
        if args.endpoints.is_empty() {
            return Err("--endpoint is missing".into());
        }
        // Each worker has its first acquisition, which costs more, in the warm-up.
        args.warm = args.warm.max(args.c);
        Ok(args)
    }
}
