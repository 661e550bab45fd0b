//! Apache Curator itself, in a JVM of its own.

use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::config::class_path;
use crate::{Error, PATIENCE, Result};

const JARS: &str = "curator-recipes curator-framework curator-client guava failureaccess";

/// A Java program that is driven by lines and answers in lines. It ends with its input, and so with the test's process.
#[derive(Debug)]
pub struct Curator {
    _child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    /// Lines that nobody has waited for yet.
    heard: Vec<String>,
}

impl Curator {
    /// Compiles and starts `program`, a Java source file, with `args`, and waits until it says that it is ready. Needs a JDK
    /// and Curator's jars.
    ///
    /// # Errors
    ///
    /// [`Error::Spawn`] when there is no `java`, and [`Error::Answer`] when the program does not get ready.
    pub async fn start(program: &Path, args: &[&str]) -> Result<Self> {
        let java = std::env::var_os("JAVA").unwrap_or_else(|| "java".into());
        let mut command = Command::new(&java);
        command.args(["-Xmx96m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"]);
        command.args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", &class_path(JARS)]);
        command.arg(program).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let spawned = command.spawn();
        let mut child = spawned.map_err(|source| Error::Spawn { program: java.to_string_lossy().into(), source })?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error::Answer { from: "Curator".into(), answer: "no pipes".into() });
        };
        let output = BufReader::new(output).lines();
        let mut curator = Self { _child: child, input, output, heard: Vec::new() };
        curator.hears("- ready").await?;
        Ok(curator)
    }

    /// Sends a line.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the program has ended.
    pub async fn say(&mut self, line: &str) -> Result<()> {
        let line = format!("{line}\n");
        self.input.write_all(line.as_bytes()).await.map_err(Error::io("write to Curator"))
    }

    /// Waits for a line, which may have come already.
    ///
    /// # Errors
    ///
    /// [`Error::Answer`] when it does not come in time, with what came instead.
    pub async fn hears(&mut self, line: &str) -> Result<()> {
        let heard = async {
            loop {
                if let Some(at) = self.heard.iter().position(|heard| heard == line) {
                    self.heard.remove(at);
                    return true;
                }
                match self.output.next_line().await {
                    Ok(Some(line)) => self.heard.push(line),
                    Ok(None) | Err(_) => return false,
                }
            }
        };
        match timeout(PATIENCE, heard).await {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => {
                let answer = format!("{:?} in place of {line:?}", self.heard);
                Err(Error::Answer { from: "Curator".into(), answer })
            }
        }
    }

    /// Sends a line and waits for another.
    ///
    /// # Errors
    ///
    /// As [`say`](Self::say) and [`hears`](Self::hears).
    pub async fn ask(&mut self, line: &str, answer: &str) -> Result<()> {
        self.say(line).await?;
        self.hears(answer).await
    }

    /// Whether a line has come that nobody has waited for.
    ///
    /// # Errors
    ///
    /// [`Error::Answer`] when the program does not answer.
    pub async fn has_said(&mut self, line: &str) -> Result<bool> {
        // Everything that it says before the answer has been read then.
        self.ask("echo none", "echo failed: no verb none").await?;
        Ok(self.heard.iter().any(|heard| heard == line))
    }
}
