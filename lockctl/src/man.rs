//! `lockctl man`: the manual page, of all subcommands in one.

use std::io;

use clap::{Arg, Command, CommandFactory as _};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::cli::Cli;
use crate::exit::{Exit, Failure, table};
use crate::output;

/// Prints the manual page.
///
/// # Errors
/// That it cannot be written.
pub(crate) fn main() -> Result<Exit, Failure> {
    output::print_bytes(&page().map_err(|error| Failure::system("make the manual page", error))?)?;
    Ok(Exit::OK)
}

fn page() -> io::Result<Vec<u8>> {
    let mut cli = Cli::command().disable_help_subcommand(true);
    cli.build();
    let mut page = Vec::new();
    let man = Man::new(cli.clone());
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_options_section(&mut page)?;
    for command in cli.get_subcommands().filter(|command| !command.is_hide_set()) {
        section(command, &mut page)?;
    }
    let mut codes = Roff::new();
    codes.control("SH", ["EXIT STATUS"]);
    for line in table().lines() {
        let (code, meaning) = line.split_once(' ').unwrap_or((line, ""));
        codes.control("TP", []).text([bold(code)]).text([roman(meaning.trim_start())]);
    }
    codes.to_writer(&mut page)?;
    let mut examples = Vec::new();
    man.render_extra_section(&mut examples)?;
    page.extend(String::from_utf8_lossy(&examples).replace(".SH EXTRA", ".SH NOTES").into_bytes());
    man.render_version_section(&mut page)?;
    Ok(page)
}

/// A subcommand's own options; those of all are told at the top.
fn section(command: &Command, page: &mut Vec<u8>) -> io::Result<()> {
    let hide = |arg: Arg| if arg.is_global_set() || arg.get_id() == "help" { arg.hide(true) } else { arg };
    let own = command.clone().mut_args(hide);
    let mut heading = Roff::new();
    heading.control("SH", [&*command.get_name().to_uppercase()]);
    let about = command.get_long_about().or_else(|| command.get_about()).map(ToString::to_string).unwrap_or_default();
    heading.text([roman(about)]);
    heading.to_writer(page)?;
    let man = Man::new(own);
    let mut text = Vec::new();
    man.render_synopsis_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if command.get_after_help().is_some() || command.get_after_long_help().is_some() {
        man.render_extra_section(&mut text)?;
    }
    // Sections of their own there, parts of the subcommand's here.
    page.extend(String::from_utf8_lossy(&text).replace(".SH EXTRA", ".SS NOTES").replace(".SH ", ".SS ").into_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_subcommand_and_exit_code() {
        let page = String::from_utf8(page().unwrap()).unwrap();
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            assert!(page.contains(&format!(".SH {}\n", command.get_name().to_uppercase())), "{}", command.get_name());
        }
        assert!(page.contains("128+n"), "the exit codes");
        assert_eq!(page.matches("\\-\\-password\\-file").count(), 2, "in the synopsis, and told once");
    }
}
