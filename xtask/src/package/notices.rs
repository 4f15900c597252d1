//! `THIRD-PARTY.txt`: what the programs are built from, under which licence, and the texts that
//! these licences ask to be handed on.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{cargo, toolchain, vm::output};

/// The crates whose programs are shipped: the daemon, and the eBPF programs in it.
const ROOTS: [&str; 2] = ["rst-daemon", "rst-ebpf"];

/// How the names of files with licences begin, in lower case.
const FILES: [&str; 5] = ["licen", "copying", "copyright", "notice", "unlicense"];

/// What comes with no crate of its own.
const BESIDE: &str = "\
SQLite, in libsqlite3-sys: in the public domain.

Rust's standard library: MIT or Apache-2.0; rust-library.html, beside this file, has the
notices of what is in it.

The GNU C Library, in the program of the tarball alone: LGPL-2.1-or-later; LICENSE-LGPL-2.1 has
its text. To link the program with another version of it, build rst from its source.
";

/// A crate that is linked into a program.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Linked {
    name: String,
    version: String,
    /// As an SPDX expression, or as older crates write it.
    licence: String,
    repository: String,
    /// Of its source.
    dir: PathBuf,
    /// Of its licences, read from its source.
    texts: Vec<String>,
}

/// The file, for programs that are built for this target.
pub(super) fn third_party(target: &str) -> Result<String> {
    let mut metadata = cargo("metadata");
    metadata.args([
        "--format-version=1",
        "--locked",
        "--filter-platform",
        target,
    ]);
    let metadata = serde_json::from_slice(&output(&mut metadata)?.stdout)
        .context("cargo metadata gave no JSON")?;
    let mut crates = linked(&metadata)?;
    for linked in &mut crates {
        linked.texts = texts(&linked.dir)
            .with_context(|| format!("the licences of {} {}", linked.name, linked.version))?;
    }
    borrow(&mut crates)?;
    Ok(render(&crates))
}

/// The notices of Rust's standard library, as they come with its compiler.
pub(super) fn rust_library() -> Result<PathBuf> {
    let sysroot = toolchain::output(Command::new("rustc").args(["--print", "sysroot"]));
    let path = Path::new(&sysroot.context("cannot run rustc")?)
        .join("share/doc/rust/COPYRIGHT-library.html");
    ensure!(
        path.is_file(),
        "{} is missing; rustup's toolchains from 1.85 on have it",
        path.display()
    );
    Ok(path)
}

/// The crates of others that the programs are linked from, by name: no build scripts, macros
/// and tests. Their texts are not read yet.
fn linked(metadata: &Value) -> Result<Vec<Linked>> {
    let by_id = |list: &'static str| -> Result<BTreeMap<&str, &Value>> {
        let list = metadata.pointer(list).and_then(Value::as_array);
        let list = list.context("cargo metadata has another form")?;
        Ok(list
            .iter()
            .filter_map(|entry| Some((entry["id"].as_str()?, entry)))
            .collect())
    };
    let (packages, nodes) = (by_id("/packages")?, by_id("/resolve/nodes")?);
    let mut todo: Vec<&str> = packages
        .iter()
        .filter(|(_, package)| ROOTS.iter().any(|root| package["name"] == *root))
        .map(|(id, _)| *id)
        .collect();
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    while let Some(id) = todo.pop() {
        let (Some(package), Some(node)) = (packages.get(id), nodes.get(id)) else {
            bail!("cargo metadata does not describe {id}");
        };
        if is_macro(package) || !seen.insert(id) {
            continue;
        }
        todo.extend(
            elements(&node["deps"])
                .filter(|dependency| {
                    elements(&dependency["dep_kinds"]).any(|kind| kind["kind"].is_null())
                })
                .filter_map(|dependency| dependency["pkg"].as_str()),
        );
        // Those of this workspace have no source.
        if !package["source"].is_null() {
            found.push(describe(package)?);
        }
    }
    found.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    Ok(found)
}

fn elements(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn is_macro(package: &Value) -> bool {
    elements(&package["targets"])
        .flat_map(|target| elements(&target["kind"]))
        .any(|kind| kind == "proc-macro")
}

fn describe(package: &Value) -> Result<Linked> {
    let text = |field: &str| package[field].as_str().unwrap_or_default().to_owned();
    let manifest = PathBuf::from(text("manifest_path"));
    let described = Linked {
        name: text("name"),
        version: text("version"),
        licence: text("license"),
        repository: text("repository"),
        dir: manifest.parent().map(Path::to_owned).unwrap_or_default(),
        texts: Vec::new(),
    };
    if described.licence.is_empty() {
        bail!("{} names no licence", described.name);
    }
    Ok(described)
}

/// The licences in a crate's source, in the order of their names.
fn texts(dir: &Path) -> Result<Vec<String>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().to_lowercase();
        if entry.file_type()?.is_file() && FILES.iter().any(|start| name.starts_with(start)) {
            paths.push(entry.path());
        }
    }
    paths.sort();
    paths
        .iter()
        .map(|path| {
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
        })
        .collect()
}

/// Gives crates without a text that of another crate of their repository, where their authors
/// keep it.
fn borrow(crates: &mut [Linked]) -> Result<()> {
    let lenders: Vec<Linked> = crates
        .iter()
        .filter(|linked| !linked.texts.is_empty())
        .cloned()
        .collect();
    for linked in crates.iter_mut().filter(|linked| linked.texts.is_empty()) {
        let lender = lenders.iter().find(|lender| {
            !lender.repository.is_empty()
                && (&lender.repository, &lender.licence) == (&linked.repository, &linked.licence)
        });
        let lender = lender.with_context(|| {
            format!(
                "{} {} comes without the text of its licence, {}: add it to BESIDE",
                linked.name, linked.version, linked.licence
            )
        })?;
        linked.texts.clone_from(&lender.texts);
    }
    Ok(())
}

/// The file: the list, then each text once, below the names of those that it is for.
fn render(crates: &[Linked]) -> String {
    let mut text = String::from("What rst is built from that others have written.\n\n");
    let mut owners: BTreeMap<Vec<&str>, (&str, Vec<&str>)> = BTreeMap::new();
    for linked in crates {
        let Linked {
            name,
            version,
            licence,
            repository,
            ..
        } = linked;
        let line = format!("{name} {version}: {licence} {repository}");
        _ = writeln!(text, "{}", line.trim_end());
        for licence in &linked.texts {
            // However its lines are broken.
            let words = licence.split_whitespace().collect();
            let (_, owners) = owners.entry(words).or_insert((licence, Vec::new()));
            if owners.last() != Some(&name.as_str()) {
                owners.push(name);
            }
        }
    }
    _ = write!(text, "\n{BESIDE}");
    let mut owners: Vec<_> = owners.into_values().collect();
    owners.sort_by(|(_, a), (_, b)| a.cmp(b));
    for (licence, owners) in owners {
        let rule = "=".repeat(78);
        let licence = licence.trim_end().trim_start_matches('\n');
        _ = write!(
            text,
            "\n{rule}\n{}\n{rule}\n\n{licence}\n",
            owners.join(", ")
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::json;

    use super::{Linked, borrow, linked, render};

    fn a_crate(name: &str, repository: &str, texts: &[&str]) -> Linked {
        Linked {
            name: name.to_owned(),
            version: "1.0.0".to_owned(),
            licence: "MIT".to_owned(),
            repository: repository.to_owned(),
            dir: PathBuf::new(),
            texts: texts.iter().map(|&text| text.to_owned()).collect(),
        }
    }

    #[test]
    fn what_is_linked_and_nothing_else() {
        let package = |name: &str, kind: &str, source: Option<&str>| {
            json!({
                "id": name, "name": name, "version": "1.0.0", "license": "MIT", "source": source,
                "repository": null, "manifest_path": format!("/src/{name}/Cargo.toml"),
                "targets": [{ "kind": [kind] }],
            })
        };
        let registry = Some("registry");
        let needs = |name: &str, kind: Option<&str>| json!({ "pkg": name, "dep_kinds": [{ "kind": kind }] });
        let metadata = json!({
            "packages": [
                package("rst-daemon", "lib", None), package("rst-ebpf", "bin", None),
                package("direct", "lib", registry), package("deep", "lib", registry),
                package("derive", "proc-macro", registry), package("syn", "lib", registry),
                package("cc", "lib", registry), package("proptest", "lib", registry),
            ],
            "resolve": { "nodes": [
                { "id": "rst-daemon", "deps": [
                    needs("direct", None), needs("cc", Some("build")),
                    needs("proptest", Some("dev")), needs("derive", None),
                ] },
                { "id": "rst-ebpf", "deps": [needs("deep", None)] },
                { "id": "direct", "deps": [needs("deep", None)] },
                { "id": "deep", "deps": [] },
                { "id": "derive", "deps": [needs("syn", None)] },
            ] },
        });
        let found = linked(&metadata).unwrap();
        let names: Vec<_> = found.iter().map(|linked| linked.name.as_str()).collect();
        assert_eq!(names, ["deep", "direct"]);
        assert_eq!(found[0].dir, PathBuf::from("/src/deep"));
        assert!(linked(&json!({})).is_err());
    }

    #[test]
    fn a_crate_without_a_text_has_that_of_its_repository() {
        let mut crates = [
            a_crate("a", "https://one", &["text"]),
            a_crate("a-part", "https://one", &[]),
        ];
        borrow(&mut crates).unwrap();
        assert_eq!(crates[1].texts, ["text"]);

        for repository in ["https://two", ""] {
            let mut crates = [
                a_crate("a", "", &["text"]),
                a_crate("alone", repository, &[]),
            ];
            let error = borrow(&mut crates).unwrap_err().to_string();
            assert!(error.contains("alone 1.0.0"), "{error}");
        }
    }

    #[test]
    fn each_text_stands_there_once() {
        let text = render(&[
            a_crate("a", "https://one", &["the\nlicence\n", "a's own"]),
            a_crate("b", "", &["the licence"]),
        ]);
        assert!(
            text.contains("\na 1.0.0: MIT https://one\nb 1.0.0: MIT\n"),
            "{text}"
        );
        let rule = "=".repeat(78);
        let end =
            format!("\n{rule}\na\n{rule}\n\na's own\n\n{rule}\na, b\n{rule}\n\nthe\nlicence\n");
        assert!(text.ends_with(&end), "{text}");
        assert!(text.contains("\nSQLite, in libsqlite3-sys"), "{text}");
    }
}
