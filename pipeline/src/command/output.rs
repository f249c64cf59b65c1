//! Where results go: one writer, which knows whether a person or a program reads. No other file of the command writes
//! to standard output.

use std::fmt::Display;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::{Color, Failure};

/// Standard output, or a buffer in tests.
pub struct Output {
    writer: Box<dyn Write + Send>,
    terminal: bool,
    colored: bool,
}

impl Output {
    /// Standard output, buffered: [`Output::flush`] where a reader waits for a line.
    pub fn stdout(color: Color) -> Self {
        let terminal = io::stdout().is_terminal();
        Self { writer: Box::new(BufWriter::new(io::stdout())), terminal, colored: colored(color, terminal) }
    }

    /// Any writer; no terminal, no colours.
    pub fn of(writer: impl Write + Send + 'static) -> Self {
        Self { writer: Box::new(writer), terminal: false, colored: false }
    }

    /// A person reads standard output.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Writes one line.
    pub fn line(&mut self, text: impl Display) -> Result<(), Failure> {
        Ok(writeln!(self.writer, "{text}")?)
    }

    /// Writes one JSON value as one line.
    pub fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        serde_json::to_writer(&mut self.writer, value).map_err(io::Error::from)?;
        Ok(writeln!(self.writer)?)
    }

    /// Writes bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        Ok(self.writer.write_all(bytes)?)
    }

    /// Writes a table: columns aligned, no frames, so that it can be cut and pasted.
    pub fn table(&mut self, header: &[&str], rows: &[Vec<String>]) -> Result<(), Failure> {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        let bold = |name: &&str| if self.colored { format!("\x1b[1m{name}\x1b[0m") } else { (*name).to_owned() };
        table.set_header(header.iter().map(bold));
        table.add_rows(rows);
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        for line in table.lines() {
            self.line(line.trim_end())?;
        }
        Ok(())
    }

    /// Makes what was written visible.
    pub fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.writer.flush()?)
    }
}

/// A bar on standard error for long work of `total` steps (0 = not known), hidden when standard error is no terminal.
pub fn progress(total: u64, what: &'static str) -> ProgressBar {
    let target = if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let known = total > 0;
    let bar = ProgressBar::with_draw_target(known.then_some(total), target);
    let template = if known { "{msg} [{bar:30}] {human_pos}/{human_len} {eta}" } else { "{spinner} {msg} {human_pos} {elapsed}" };
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(what);
    if !bar.is_hidden() {
        bar.enable_steady_tick(Duration::from_millis(200));
    }
    bar
}

/// Whether messages on standard error have colours.
pub fn colored_stderr(color: Color) -> bool {
    colored(color, io::stderr().is_terminal())
}

fn colored(color: Color, terminal: bool) -> bool {
    match color {
        Color::Always => true,
        Color::Never => false,
        // https://no-color.org: set and not empty.
        Color::Auto => terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::{Arc, Mutex};

    use super::*;

    /// What a command printed.
    #[derive(Clone, Default)]
    pub(crate) struct Printed(Arc<Mutex<Vec<u8>>>);

    impl Write for Printed {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Printed {
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    #[test]
    fn tables_are_aligned_and_end_without_blanks() {
        let printed = Printed::default();
        let mut out = Output::of(printed.clone());
        out.table(&["a", "bb"], &[vec!["long".into(), "x".into()], vec!["s".into(), "y".into()]]).unwrap();
        assert_eq!(printed.text(), "a     bb\nlong  x\ns     y\n");
    }
}
