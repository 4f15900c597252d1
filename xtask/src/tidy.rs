//! The house rules that neither rustfmt nor clippy checks.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

/// What is wrong in the workspace's own Rust files, one line each.
pub(crate) fn check_workspace(root: &Path) -> Result<Vec<String>> {
    let mut complaints = Vec::new();
    check_dir(root, root, &mut complaints)?;
    complaints.sort();
    Ok(complaints)
}

fn check_dir(root: &Path, dir: &Path, complaints: &mut Vec<String>) -> Result<()> {
    let unreadable = || format!("cannot read {}", dir.display());
    for entry in fs::read_dir(dir).with_context(unreadable)? {
        let entry = entry.with_context(unreadable)?;
        let path = entry.path();
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if entry.file_type()?.is_dir() {
            if name != "target" && !name.starts_with('.') {
                check_dir(root, &path, complaints)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let shown = path.strip_prefix(root).unwrap_or(&path).to_string_lossy();
            complaints.extend(check(&shown, &text));
        }
    }
    Ok(())
}

/// What is wrong in one file.
fn check(path: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut complain = |what: &str| complaints.push(format!("{path}: {what}"));
    if path == "mod.rs" || path.ends_with("/mod.rs") {
        complain("a module `foo` lies in foo.rs, not in foo/mod.rs");
    }
    if !text.starts_with("//!") {
        complain("the first line is not a `//!` header that says what the file is for");
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn a_file_with_a_header_is_fine() {
        assert!(
            check(
                "rst-daemon/src/model.rs",
                "//! Decodes events.\n\nfn f() {}\n"
            )
            .is_empty()
        );
    }

    #[test]
    fn a_missing_header_is_a_complaint() {
        for text in [
            "",
            "fn f() {}\n",
            "// Decodes events.\n",
            "\n//! Too late.\n",
        ] {
            let complaints = check("a.rs", text);
            assert!(
                complaints[0].starts_with("a.rs: the first line"),
                "{complaints:?}"
            );
        }
    }

    #[test]
    fn mod_rs_is_a_complaint() {
        assert_eq!(check("rst-daemon/src/store/mod.rs", "//! x\n").len(), 1);
        assert_eq!(check("xtask/src/mod.rs", "x").len(), 2);
    }
}
