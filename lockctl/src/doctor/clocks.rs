//! Whether this host's clocks go as they should.

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

use super::Finding;
use crate::output::time::measured;

/// Time over which clocks are compared, at least.
const SPAN: Duration = Duration::from_millis(500);

/// The backends reckon with clocks of client and server that go apart by a tenth; this is far from it.
const APART: f64 = 0.02;

/// What the clocks show.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    boot: f64,
    wall: f64,
}

impl Reading {
    pub(super) fn now() -> Self {
        let seconds = |time: Timespec| time.tv_sec as f64 + time.tv_nsec as f64 / 1e9;
        Self { boot: seconds(clock_gettime(ClockId::Boottime)), wall: seconds(clock_gettime(ClockId::Realtime)) }
    }
}

/// Compares the clock by which locks end with the wall clock, which a time server steers.
pub(super) async fn compare(began: Reading) -> Finding {
    loop {
        let now = Reading::now();
        let left = SPAN.as_secs_f64() - (now.boot - began.boot);
        if left <= 0.0 {
            return judge(now.boot - began.boot, now.wall - began.wall);
        }
        tokio::time::sleep(Duration::from_secs_f64(left)).await;
    }
}

fn judge(boot: f64, wall: f64) -> Finding {
    let told = measured(Duration::from_secs_f64(boot.max(0.0)));
    if (wall - boot).abs() <= boot * APART {
        return Finding::ok("clock", format!("CLOCK_BOOTTIME and the wall clock agreed over {told}"));
    }
    Finding::doubtful(
        "clock",
        format!("in {told} of CLOCK_BOOTTIME the wall clock went on by {wall:.3}s"),
        "the wall clock was set, or a clock goes wrong: locks rest on CLOCK_BOOTTIME going within a tenth of the servers'; \
         run doctor again, and look at the host's time service",
    )
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn clocks_that_go_apart_are_told() {
        assert_eq!(judge(0.5, 0.509).verdict, Verdict::Ok);
        for wall in [0.52, 0.48, -3600.0] {
            assert_eq!(judge(0.5, wall).verdict, Verdict::Doubtful, "{wall}");
        }
    }
}
