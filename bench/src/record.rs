//! What was measured.

use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

/// One acquisition. Times are since the beginning of the pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) worker: usize,
    /// The order in which they were asked for.
    pub(crate) ticket: usize,
    pub(crate) requested: Duration,
    pub(crate) granted: Duration,
    pub(crate) releasing: Duration,
    pub(crate) released: Duration,
}

pub(crate) fn write(path: &Path, records: &[Record]) -> std::io::Result<()> {
    let mut file = BufWriter::new(std::fs::File::create(path)?);
    for record in records {
        let times = [record.requested, record.granted, record.releasing, record.released].map(|time| time.as_nanos());
        let [requested, granted, releasing, released] = times;
        writeln!(file, "{},{},{requested},{granted},{releasing},{released}", record.worker, record.ticket)?;
    }
    file.flush()
}

/// Rates and percentiles.
pub(crate) fn summary(records: &[Record], wall: Duration, began_unix_ns: u64) -> Value {
    let mut acquire: Vec<_> = records.iter().map(|record| record.granted.saturating_sub(record.requested)).collect();
    let mut release: Vec<_> = records.iter().map(|record| record.released.saturating_sub(record.releasing)).collect();
    acquire.sort_unstable();
    release.sort_unstable();
    json!({
        "wall_s": wall.as_secs_f64(),
        "done": records.len(),
        "ops_s": records.len() as f64 / wall.as_secs_f64().max(f64::MIN_POSITIVE),
        "acquire_us": { "p50": percentile(&acquire, 50), "p99": percentile(&acquire, 99) },
        "release_us": { "p50": percentile(&release, 50), "p99": percentile(&release, 99) },
        "t0_unix_ns": began_unix_ns,
    })
}

/// In microseconds, of sorted times.
fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).map_or(0.0, |time| (time.as_nanos() as f64 / 100.0).round() / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_sorted_times() {
        let times: Vec<_> = (1..=100).map(Duration::from_micros).collect();
        assert_eq!((percentile(&times, 50), percentile(&times, 99), percentile(&[], 50)), (51.0, 100.0, 0.0));
    }

    #[test]
    fn a_record_is_one_line_in_nanoseconds() {
        let dir = tempfile::tempdir().unwrap();
        let at = |nanos| Duration::from_nanos(nanos);
        let record =
            Record { worker: 3, ticket: 7, requested: at(1), granted: at(2), releasing: at(3), released: at(4) };
        write(&dir.path().join("raw"), &[record, record]).unwrap();
        let text = std::fs::read_to_string(dir.path().join("raw")).unwrap();
        assert_eq!(text, "3,7,1,2,3,4\n3,7,1,2,3,4\n");
    }
}
