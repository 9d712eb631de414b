//! The task pages of the book: every command in a fence `sh` is run as it stands, in order, and what a fence `output` behind it
//! says is seen. `…` stands for anything within a line.

use super::weft::{Weft, workspace};

/// Runs a page's commands.
#[track_caller]
pub(crate) fn run(weft: &Weft, page: &str) {
    run_some(weft, page, |_| true);
}

/// Runs those of a page's blocks of commands that are wanted.
#[track_caller]
pub(crate) fn run_some(weft: &Weft, page: &str, wanted: impl Fn(&str) -> bool) {
    let text = std::fs::read_to_string(workspace().join(format!("docs/{page}.md"))).unwrap();
    let mut blocks = blocks(&text);
    blocks.retain(|block| wanted(&block.commands));
    assert!(!blocks.is_empty(), "{page} has no commands");
    for block in blocks {
        println!("== docs/{page}.md\n{}", block.commands);
        let printed = weft.ok(&block.commands);
        println!("{printed}");
        if let Some(missing) = missing(&block.output, &printed) {
            panic!("docs/{page}.md says {missing:?} after\n{}\nprinted\n{printed}", block.commands);
        }
    }
}

/// Commands, and the lines that they are said to print.
#[derive(Debug, Default, PartialEq)]
struct Block {
    commands: String,
    output: Vec<String>,
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut fence: Option<&str> = None;
    for line in text.lines() {
        match (fence, line.strip_prefix("```")) {
            (None, Some(kind)) => {
                fence = Some(kind);
                if kind == "sh" {
                    blocks.push(Block::default());
                }
            }
            (Some(_), Some(_)) => fence = None,
            (Some("sh"), None) => {
                let commands = &mut blocks.last_mut().unwrap().commands;
                commands.push_str(line);
                commands.push('\n');
            }
            (Some("output"), None) => blocks.last_mut().unwrap().output.push(line.to_owned()),
            _ => {}
        }
    }
    blocks
}

/// The first expected line that is not among the printed ones, behind the one that was expected before it.
fn missing<'a>(expected: &'a [String], printed: &str) -> Option<&'a str> {
    let mut lines = printed.lines();
    expected.iter().find(|line| !lines.any(|found| fits(line, found))).map(String::as_str)
}

fn fits(pattern: &str, line: &str) -> bool {
    let parts: Vec<&str> = pattern.trim_end().split('…').collect();
    let line = line.trim_end();
    let [first, middle @ .., last] = parts.as_slice() else { return line == pattern.trim_end() };
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[test]
fn fences_are_read_and_compared_as_the_page_means_them() {
    let text = "a\n```sh\necho 1\n```\nb\n```output\n1…\n```\n```yaml\nx: y\n```\n```sh\necho 2\n```\n";
    let read = blocks(text);
    assert_eq!(read.len(), 2);
    assert_eq!((read[0].commands.as_str(), read[0].output.as_slice()), ("echo 1\n", &["1…".to_owned()][..]));
    assert_eq!(read[1].output, Vec::<String>::new());
    let expected = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
    assert_eq!(missing(&expected(&["a…", "…c"]), "abc\nx\nabc\n"), None);
    assert_eq!(missing(&expected(&["…c", "a"]), "abc\nab\n"), Some("a"));
    assert_eq!(missing(&expected(&["a…b…c"]), "a1b2c\n"), None);
    assert_eq!(missing(&expected(&["a…b…c"]), "a1b2cd\n"), Some("a…b…c"));
    assert_eq!(missing(&expected(&["…c"]), "abcabc\n"), None);
    assert_eq!(missing(&expected(&["a"]), "ab\n"), Some("a"));
}
