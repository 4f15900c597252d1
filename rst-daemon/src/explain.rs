//! `rst explain`, and the page `docs/causes.md` made of the same table.

use std::fmt::Write as _;

use rst_common::cause::{Cause, Text};

/// What `rst explain CAUSE` prints.
#[must_use]
pub fn cause(cause: Cause) -> String {
    let Text {
        meaning,
        impact,
        evidence,
        confirm,
        fix,
        links,
    } = cause.text();
    let mut page = format!(
        "{}: {meaning}\n\n  impact    {impact}\n  evidence  {evidence}\n  confirm   {confirm}\n  fix       {fix}\n",
        cause.label()
    );
    if !links.is_empty() {
        // Writing to a string can't fail.
        let _ = writeln!(page, "  read      {}", links.join(", "));
    }
    page
}

/// What `rst explain` prints: every cause with its meaning.
#[must_use]
pub fn list() -> String {
    let width = Cause::ALL
        .iter()
        .map(|cause| cause.label().len())
        .max()
        .unwrap_or(0);
    Cause::ALL.iter().fold(String::new(), |mut page, cause| {
        let _ = writeln!(page, "{:width$}  {}", cause.label(), cause.text().meaning);
        page
    })
}

/// The page for readers of the documentation.
#[must_use]
pub fn markdown() -> String {
    let mut page = String::from(
        "# Causes\n\nWhat `rst` says of a reset, what it rests on, how to confirm it by hand and what to do.\nThe same text: `rst explain CAUSE`. Generated from the table in `rst-common/src/cause.rs`.\n",
    );
    for cause in Cause::ALL {
        let text = cause.text();
        let _ = write!(
            page,
            "\n## {}\n\n{}.\n\n- **Impact**: {}\n- **Evidence**: {}\n- **Confirm**: {}\n- **Fix**: {}\n",
            cause.label(),
            capitalised(text.meaning),
            text.impact,
            text.evidence,
            text.confirm,
            text.fix
        );
        if !text.links.is_empty() {
            let _ = writeln!(page, "- **Read**: {}", text.links.join(", "));
        }
    }
    page
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map(|first| first.to_uppercase().chain(chars).collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_explained_with_its_fix() {
        let page = cause(Cause::StaleReuse);
        assert!(
            page.starts_with("stale_reuse: this host used a connection"),
            "{page}"
        );
        assert!(
            page.contains("\n  fix       turn TCP keep-alive on"),
            "{page}"
        );
        assert_eq!(list().lines().count(), Cause::ALL.len());
    }

    /// `UPDATE_DOCS=1 cargo test` writes the page anew.
    #[test]
    fn the_page_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/causes.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, markdown()).unwrap();
        }
        let page = std::fs::read_to_string(path).unwrap();
        assert!(
            page == markdown(),
            "docs/causes.md is stale: run UPDATE_DOCS=1 cargo test"
        );
    }

    /// The README's short table says what `rst explain` says.
    #[test]
    fn the_readme_lists_every_cause() {
        let readme = include_str!("../../README.md");
        for cause in Cause::ALL {
            let row = format!("| `{}` | {} |", cause.label(), cause.text().meaning);
            assert!(readme.contains(&row), "{row}");
        }
    }
}
