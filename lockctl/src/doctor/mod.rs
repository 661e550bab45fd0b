//! `lockctl doctor`: can locks be had here, and if not, what helps.

mod checks;
mod clocks;
mod endpoints;

use lock_core::Client;
use serde::Serialize;

use crate::connect::Store;
use crate::exit::{Exit, Failure};
use crate::output::plain::plain;
use crate::output::style::Style;
use crate::output::{self, json};
use crate::visit::{Endings, farewell};
use endpoints::Endpoint;

/// What `doctor` is asked to do.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Ends with 0 when nothing is bad, and otherwise with the code of the first bad finding, such as 69 for a server that cannot
be reached, even if the others can.")]
pub(crate) struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// How good a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Ok,
    /// Locks can be had, but not as well as they could.
    Doubtful,
    Bad,
}

/// What a check found.
#[derive(Debug, Serialize)]
pub(crate) struct Finding {
    check: String,
    verdict: Verdict,
    told: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
    #[serde(skip)]
    exit: Exit,
}

impl Finding {
    fn ok(check: impl Into<String>, told: impl Into<String>) -> Self {
        let (check, told) = (check.into(), told.into());
        Self { check, verdict: Verdict::Ok, told, remedy: None, exit: Exit::OK }
    }

    fn doubtful(check: impl Into<String>, told: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { verdict: Verdict::Doubtful, remedy: Some(remedy.into()), ..Self::ok(check, told) }
    }

    fn bad(check: impl Into<String>, failure: &Failure, remedy: Option<String>) -> Self {
        let told = failure.message().unwrap_or("ended without a word");
        Self { verdict: Verdict::Bad, remedy, exit: failure.exit(), ..Self::ok(check, told) }
    }

    fn line(&self) -> String {
        let (style, word) = match self.verdict {
            Verdict::Ok => (Style::Good, "ok  "),
            Verdict::Doubtful => (Style::Doubtful, "hmm "),
            Verdict::Bad => (Style::Bad, "BAD "),
        };
        let remedy = self.remedy.as_ref().map(|remedy| format!("\n      → {}", plain(remedy))).unwrap_or_default();
        format!("{}  {}: {}{remedy}", style.paint(word), plain(&self.check), plain(&self.told))
    }
}

#[derive(Debug, Serialize)]
struct Report {
    lockctl: &'static str,
    backend: String,
    findings: Vec<Finding>,
}

impl Report {
    /// Notes a finding; people see it at once.
    fn add(&mut self, as_json: bool, finding: Finding) -> Result<(), Failure> {
        if !as_json {
            output::print_lines(&[finding.line()])?;
        }
        self.findings.push(finding);
        Ok(())
    }

    /// The code of the first bad finding.
    fn exit(&self) -> Exit {
        self.findings.iter().map(|finding| finding.exit).find(|exit| *exit != Exit::OK).unwrap_or(Exit::OK)
    }
}

/// Checks the way to a store and what it does.
///
/// # Errors
/// That the report cannot be written, or a signal came.
pub(crate) async fn main(store: &Store, args: Args) -> Result<Exit, Failure> {
    let url = store.url()?;
    store.warn_of_password(&url);
    let mut report =
        Report { lockctl: env!("CARGO_PKG_VERSION"), backend: lock_any::shown(&url), findings: Vec::new() };
    if !args.json {
        output::print_lines(&[format!("lockctl {}, backend {}", report.lockctl, plain(&report.backend))])?;
    }
    let (mut endings, mut clients) = (Endings::new()?, Vec::new());
    let checked = endings.unless(check(store, &url, args.json, &mut report, &mut clients)).await;
    farewell(endings, &clients).await;
    checked?;
    if args.json {
        json::print(&report)?;
    }
    Ok(report.exit())
}

async fn check(
    store: &Store,
    url: &str,
    as_json: bool,
    report: &mut Report,
    clients: &mut Vec<Client>,
) -> Result<(), Failure> {
    let endpoints = Endpoint::all(url);
    // At the same time: each may take as long as a connection may.
    let reached: Vec<_> = endpoints
        .into_iter()
        .map(|endpoint| {
            let store = store.clone();
            tokio::spawn(async move { endpoint.check(&store).await })
        })
        .collect();
    for endpoint in reached {
        let finding = endpoint.await.map_err(|error| Failure::internal(format!("a check failed: {error}")))?;
        report.add(as_json, finding)?;
    }
    let client = match store.connect_to(url, Some("lockctl doctor")).await {
        Ok(client) => {
            clients.push(client.clone());
            client
        }
        Err(failure) => {
            // Told for each server already, if it is one server's.
            if report.exit() == Exit::OK {
                report.add(as_json, Finding::bad("session", &failure, endpoints::remedy(failure.exit(), false)))?;
            }
            return Ok(());
        }
    };
    let began = clocks::Reading::now();
    checks::all(store, url, &client, |finding| report.add(as_json, finding)).await?;
    report.add(as_json, clocks::compare(began).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bad_finding_gives_the_code() {
        let bad = |exit| Finding::bad("x", &Failure::new(exit, "said"), None);
        let exit = |findings| Report { lockctl: "", backend: String::new(), findings }.exit();
        assert_eq!(exit(vec![Finding::ok("x", ""), Finding::doubtful("x", "", "")]), Exit::OK);
        let findings =
            vec![Finding::ok("x", ""), bad(Exit::UNREACHABLE), bad(Exit::ACCESS_DENIED), Finding::ok("x", "")];
        assert_eq!(exit(findings), Exit::UNREACHABLE);
    }

    #[test]
    fn a_line_is_one_line_with_its_remedy() {
        let failure = Failure::new(Exit::UNREACHABLE, "no\nanswer");
        let line = Finding::bad("server h:1", &failure, Some("do so".into())).line();
        assert_eq!(line, "BAD   server h:1: no\\nanswer\n      → do so");
    }
}
