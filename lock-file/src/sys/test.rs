//! Failures and kills in place of a system call, for the thread that asks for them.

use std::cell::Cell;

use rustix::io::Errno;

/// What happens at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    Nothing,
    Fail(Errno),
    Kill,
}

thread_local! {
    static STEPS: Cell<usize> = const { Cell::new(0) };
    static PLAN: Cell<(usize, Plan)> = const { Cell::new((0, Plan::Nothing)) };
    static FILE_SYSTEM: Cell<Option<u64>> = const { Cell::new(None) };
}

pub(super) fn step() -> Result<(), Errno> {
    let n = STEPS.replace(STEPS.get() + 1);
    match PLAN.get() {
        (at, Plan::Fail(errno)) if at == n => Err(errno),
        (at, Plan::Kill) if at == n => {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            unreachable!("killed");
        }
        _ => Ok(()),
    }
}

/// Counts steps from 0 and lets `plan` happen at the `at`-th.
pub(crate) fn plan(at: usize, plan: Plan) {
    STEPS.set(0);
    PLAN.set((at, plan));
}

/// The steps since the plan was made.
pub(crate) fn steps() -> usize {
    STEPS.get()
}

pub(crate) fn pretend_file_system(number: u64) {
    FILE_SYSTEM.set(Some(number));
}

pub(super) fn pretended_file_system() -> Option<u64> {
    FILE_SYSTEM.get()
}
