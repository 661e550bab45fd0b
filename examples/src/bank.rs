//! A bank that keeps each account by itself, and so cannot move money from one to another in one step.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lock_core::{FencingGate, Guard, MultiGuard, StaleToken};
use serde::{Deserialize, Serialize};

use crate::service::{Caller, Connection, Resource};
use crate::setback::Setback;

const DELAY: Duration = Duration::from_millis(1);

/// A bank. Every request names the token of the lock on its account, and is refused when a greater one was seen.
///
/// What a transfer writes counts when the transfer is committed, which is one step. So nothing has happened when its
/// process dies before, and whoever locks one of the accounts next need not clean up.
#[derive(Debug)]
pub struct Bank {
    to_come: usize,
    gate: FencingGate,
    books: Mutex<Books>,
}

/// Unlike every other transfer's: its number of this worker's.
pub type Transfer = (u32, u32, u32);

/// A lock's name, which is the account's, and a token of it.
pub type Held = (String, u64);

#[derive(Debug, Default)]
struct Books {
    accounts: BTreeMap<String, Account>,
    committed: BTreeSet<Transfer>,
    overdrawn: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Account {
    balance: i64,
    /// The transfer that wrote the balance, and what that was before.
    pending: Option<(Transfer, i64)>,
}

/// What a bank is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// What is in an account.
    Read(Held),
    /// For a transfer, so much is to be in an account.
    Write(Transfer, Held, i64),
    /// All that a transfer wrote counts from now on.
    Commit(Transfer, Vec<Held>),
}

impl Bank {
    /// A bank with so much in each of these accounts, which expects a number of transfers.
    pub fn new(accounts: impl IntoIterator<Item = String>, balance: i64, to_come: usize) -> Self {
        let accounts = accounts.into_iter().map(|name| (name, Account { balance, pending: None })).collect();
        Self { to_come, gate: FencingGate::new(), books: Mutex::new(Books { accounts, ..Books::default() }) }
    }

    /// What is in each account.
    pub fn balances(&self) -> BTreeMap<String, i64> {
        let books = self.books();
        books.accounts.iter().map(|(name, account)| (name.clone(), books.balance(account))).collect()
    }

    /// How many transfers were made.
    pub fn committed(&self) -> usize {
        self.books().committed.len()
    }

    /// How often less than nothing was to be in an account.
    pub fn overdrawn(&self) -> u32 {
        self.books().overdrawn
    }

    fn handle(&self, request: Request) -> Result<i64, StaleToken> {
        // Kept to the end, so that a look at the tokens and the change are one step.
        let mut books = self.books();
        match request {
            Request::Read((account, token)) => {
                self.gate.admit_and(&account, token, || books.accounts.get(&account).map_or(0, |a| books.balance(a)))
            }
            Request::Write(transfer, (name, token), balance) => self.gate.admit_and(&name, token, || {
                let account = books.accounts.get(&name).copied().unwrap_or_default();
                let pending = Some((transfer, books.balance(&account)));
                books.accounts.insert(name.clone(), Account { balance, pending });
                books.overdrawn += u32::from(balance < 0);
                balance
            }),
            Request::Commit(transfer, held) => {
                let admitted = held.iter().try_for_each(|(account, token)| self.gate.admit(account, *token));
                admitted.map(|()| {
                    books.committed.insert(transfer);
                    0
                })
            }
        }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    fn balance(&self, account: &Account) -> i64 {
        match account.pending {
            Some((transfer, before)) if !self.committed.contains(&transfer) => before,
            _ => account.balance,
        }
    }
}

impl Resource for Bank {
    type Request = Request;
    type Answer = i64;

    const WORST_MOMENT: &'static str = "with the money taken from one account and not yet in the other";

    fn is_worst_moment(&self, request: &Request) -> bool {
        matches!(request, Request::Commit(..)) && self.committed() >= self.to_come / 3
    }

    fn goes_as_far(&self, request: &Request, _: u32, its: &Request) -> bool {
        match (request, its) {
            (Request::Commit(_, accounts), Request::Commit(_, its)) => {
                accounts.iter().any(|(account, _)| its.iter().any(|(other, _)| other == account))
            }
            _ => false,
        }
    }

    async fn answer(&self, _: Caller, request: Request) -> Result<i64, StaleToken> {
        tokio::time::sleep(DELAY).await;
        self.handle(request)
    }
}

/// All of these want the locks of the accounts that they name, and are refused when the bank knows a later holder.
impl Connection<Bank> {
    /// What is in an account.
    ///
    /// # Errors
    /// That the locks are not held any more, or there is no answer.
    pub async fn balance(&mut self, locks: &MultiGuard, account: &str) -> Result<i64, Setback> {
        self.ask_as_holder(Request::Read(held(locks, account)), || locks.check()).await
    }

    /// For a transfer, sets what is in an account.
    ///
    /// # Errors
    /// As [`balance`](Self::balance).
    pub async fn set_balance(
        &mut self,
        locks: &MultiGuard,
        transfer: Transfer,
        account: &str,
        balance: i64,
    ) -> Result<(), Setback> {
        self.ask_as_holder(Request::Write(transfer, held(locks, account), balance), || locks.check()).await?;
        Ok(())
    }

    /// Makes all that a transfer wrote count.
    ///
    /// # Errors
    /// As [`balance`](Self::balance); if a token was too old, nothing that it wrote counts, or ever will.
    pub async fn commit(&mut self, locks: &MultiGuard, transfer: Transfer) -> Result<(), Setback> {
        let accounts = locks.guards().iter().map(|guard| held(locks, guard.name())).collect();
        self.ask_as_holder(Request::Commit(transfer, accounts), || locks.check()).await?;
        Ok(())
    }
}

/// The token of an account's lock; 0 without one, which is smaller than all.
fn held(locks: &MultiGuard, account: &str) -> Held {
    let guard = locks.guards().iter().find(|guard| guard.name() == account);
    (account.to_owned(), guard.map_or(0, Guard::token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(account: &str, token: u64) -> Held {
        (account.to_owned(), token)
    }

    fn bank() -> Bank {
        Bank::new(["a".to_owned(), "b".to_owned()], 100, 0)
    }

    fn balances(bank: &Bank) -> Vec<i64> {
        bank.balances().into_values().collect()
    }

    #[test]
    fn a_transfer_counts_when_it_is_committed() {
        let (bank, transfer) = (bank(), (0, 0, 0));
        bank.handle(Request::Write(transfer, held("a", 1), 70)).unwrap();
        bank.handle(Request::Write(transfer, held("b", 2), 130)).unwrap();
        assert_eq!(balances(&bank), [100, 100]);
        bank.handle(Request::Commit(transfer, vec![held("a", 1), held("b", 2)])).unwrap();
        assert_eq!(balances(&bank), [70, 130]);
    }

    #[test]
    fn a_transfer_that_never_ended_is_as_if_it_had_never_begun() {
        let (bank, dead, next) = (bank(), (0, 0, 0), (1, 0, 0));
        bank.handle(Request::Write(dead, held("a", 1), 70)).unwrap();
        assert_eq!(bank.handle(Request::Read(held("a", 5))).unwrap(), 100);
        bank.handle(Request::Write(next, held("a", 5), 90)).unwrap();
        bank.handle(Request::Write(next, held("b", 6), 110)).unwrap();
        assert_eq!(balances(&bank), [100, 100]);
        bank.handle(Request::Commit(next, vec![held("a", 5), held("b", 6)])).unwrap();
        assert_eq!(balances(&bank), [90, 110]);
    }

    #[test]
    fn a_commit_is_refused_when_one_of_the_accounts_was_locked_by_another_since() {
        let (bank, late) = (bank(), (0, 0, 0));
        bank.handle(Request::Write(late, held("a", 1), 70)).unwrap();
        bank.handle(Request::Write(late, held("b", 2), 130)).unwrap();
        bank.handle(Request::Read(held("b", 7))).unwrap();
        assert!(bank.handle(Request::Commit(late, vec![held("a", 1), held("b", 2)])).is_err());
        assert_eq!(balances(&bank), [100, 100]);
    }
}
