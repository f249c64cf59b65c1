//! `tidewatch score`: what the models say of single things, read from standard input. `score names` asks the same model as
//! the detector of generated names does.

use std::io::{self, BufRead, BufReader, Read};

use tidewatch_operators::names::{self, Unregistered};

use super::{Exit, Failure, Output};

/// A line longer than this is no name: it is cut, and says so. The rest of it is read past, never kept.
const LINE_BYTES_MAX: usize = 1024;

/// Score names as the detectors do
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: tidewatch score names < names.txt")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    Names(Names),
}

/// How likely a machine made up each domain name: one name a line in, name, tab and score 0 to 1 out
///
/// The label under the public suffix is what is judged: `example` of `www.example.co.uk`. The score is a probability when
/// as many names are generated as not; the detector's rule (`score`) says from where on a name looks generated to it.
/// Labels of up to three letters, internationalised names and names that content networks and clouds hand out are not
/// judged and get 0.02. What is no name, a public suffix, or a reverse look-up gets 0.0000 and, after another tab, the
/// reason.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  echo kqzvxwpjthbn.com | tidewatch score names\n  \
                        cut -f10 dns.log | sort -u | tidewatch score names | sort -t$'\\t' -k2 -rn | head")]
struct Names {}

/// Runs it.
pub fn run(args: &Args, out: &mut Output) -> Result<Exit, Failure> {
    match args.what {
        What::Names(Names {}) => score_names(io::stdin().lock(), out),
    }
}

fn score_names(input: impl Read, out: &mut Output) -> Result<Exit, Failure> {
    let failed = |e: io::Error| Failure::Failed(format!("cannot read standard input: {e}"));
    let mut input = BufReader::with_capacity(64 << 10, input);
    let mut line = Vec::new();
    while let Some(whole) = next_line(&mut input, &mut line).map_err(failed)? {
        let text = String::from_utf8_lossy(&line);
        let name = text.trim();
        if !name.is_empty() {
            match if whole { names::score(name) } else { Err(Unregistered::Malformed) } {
                Ok(score) => out.line(format_args!("{name}\t{score:.4}"))?,
                Err(why) => out.line(format_args!("{name}\t0.0000\t{why}"))?,
            }
        }
        // Somebody types, or a slow pipe: an answer at once.
        if input.buffer().is_empty() {
            out.flush()?;
        }
    }
    Ok(Exit::Good)
}

/// The next line without its end, at most [`LINE_BYTES_MAX`] bytes of it; whether that is all of it. `None` = the end.
fn next_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Option<bool>> {
    line.clear();
    let limit = LINE_BYTES_MAX as u64 + 1;
    if input.by_ref().take(limit).read_until(b'\n', line)? == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') || line.len() <= LINE_BYTES_MAX {
        return Ok(Some(true));
    }
    line.truncate(LINE_BYTES_MAX);
    loop {
        let here = input.fill_buf()?;
        let (len, end) = match here.iter().position(|b| *b == b'\n') {
            Some(at) => (at + 1, true),
            None => (here.len(), here.is_empty()),
        };
        input.consume(len);
        if end {
            return Ok(Some(false));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn scored(input: &[u8]) -> Vec<Vec<String>> {
        let kept = Kept::default();
        score_names(input, &mut Output::of(kept.clone())).unwrap();
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|l| l.split('\t').map(str::to_owned).collect()).collect()
    }

    #[test]
    fn generated_names_score_above_ordinary_ones_and_every_line_has_an_answer() {
        let rows = scored(b"kqzvxwpjthbn.com\nwww.wikipedia.org\n\nExample.COM.\nxn--mnchen-3ya.de\nlast.example");
        let score = |i: usize| rows[i][1].parse::<f64>().unwrap();
        assert_eq!(
            rows.iter().map(|r| r[0].as_str()).collect::<Vec<_>>(),
            ["kqzvxwpjthbn.com", "www.wikipedia.org", "Example.COM.", "xn--mnchen-3ya.de", "last.example"]
        );
        assert!(score(0) > 0.9 && score(1) < 0.2 && score(2) < 0.2 && rows[3][1] == "0.0200", "{rows:?}");
    }

    #[test]
    fn what_is_no_name_says_so_and_long_lines_are_cut() {
        let long = [vec![b'a'; 5 * LINE_BYTES_MAX], b"\nexample.com\n".to_vec()].concat();
        let rows = scored(&long);
        assert_eq!((rows.len(), rows[0][0].len(), rows[0][1].as_str()), (2, LINE_BYTES_MAX, "0.0000"));
        assert_eq!(rows[1][0], "example.com");
        let rows = scored(b"not a name\nco.uk\n4.3.2.1.in-addr.arpa\n\xff\xfe\n");
        let notes: Vec<&str> = rows.iter().map(|r| r[2].as_str()).collect();
        assert_eq!(notes, ["not a name", "a public suffix", "an infrastructure name", "not a name"]);
    }
}
