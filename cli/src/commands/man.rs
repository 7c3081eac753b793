//! `gannet man`: the manual, a page a command, from the same definitions as parsing and help.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Command, CommandFactory};
use clap_mangen::Man as Page;
use gannet_gguf::shown_path;

use crate::Cli;
use crate::console::{self, Console};
use crate::failure::Failure;
use crate::output::Output;

/// Print the manual page, or write those of all commands to a folder: `gannet man ~/.local/share/man/man1`
#[derive(Args)]
pub(crate) struct Man {
    /// Folder for a page of every command, made where there is none
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
}

impl Man {
    pub(crate) fn run(self, console: &mut Console) -> Result<(), Failure> {
        let mut gannet = Cli::command().disable_help_subcommand(true);
        gannet.build();
        let Some(folder) = self.folder else {
            let page = rendered(&Page::new(gannet))?;
            return console.print(&String::from_utf8_lossy(&page));
        };
        std::fs::create_dir_all(&folder).map_err(|e| Failure::file(&folder, "create", &e))?;
        let commands: Vec<Command> = gannet.get_subcommands().cloned().collect();
        let pages = commands.len() + 1;
        for command in std::iter::once(gannet).chain(commands) {
            write(&folder, Page::new(command))?;
        }
        console::say(&format!("[{pages} pages in {}]", shown_path(&folder)));
        Ok(())
    }
}

/// A page as a manual reads it. It has no date, so that a version has one text.
fn rendered(page: &Page) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    page.render(&mut text).map_err(Failure::of)?;
    Ok(text)
}

fn write(folder: &Path, page: Page) -> Result<(), Failure> {
    let page = page.manual("Gannet");
    let path = folder.join(page.get_filename());
    let mut out = Output::create::<&Path>(&path, &[])?;
    let text = rendered(&page)?;
    out.write_all(&text).map_err(|e| Failure::output(&path, &e))?;
    out.finish()
}
