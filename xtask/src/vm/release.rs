//! Debian's names of kernels, and which of them stands for a series.

use super::arch::Arch;

/// The series that stands for whatever is newest.
pub(crate) const NEWEST: &str = "newest";

/// A kernel for cloud machines, and the packages it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Release {
    /// As `uname -r` has it.
    pub(crate) name: String,
    /// Packages with the kernel and its modules.
    pub(crate) packages: Vec<String>,
}

/// The newest release of a series among the names of packages.
///
/// Up to 6.18 one package holds a kernel; later ones hold it in two, and `linux-image-` depends
/// on them; from 6.18 on a third one lists what is built in. A release with one of the two
/// alone is no longer complete in the archive.
pub(crate) fn choose(packages: &[&str], series: &str, arch: Arch) -> Option<Release> {
    let candidates = packages.iter().filter_map(|package| {
        let name = package.strip_prefix("linux-image-")?;
        let numbers = numbers(name, arch)?;
        let fits = series == NEWEST || name.starts_with(&format!("{series}."));
        if !fits {
            return None;
        }
        let parts = ["linux-binary-", "linux-modules-"].map(|prefix| format!("{prefix}{name}"));
        let there = |part: &String| packages.contains(&part.as_str());
        let mut needed = match parts.iter().filter(|part| there(part)).count() {
            0 => vec![(*package).to_owned()],
            2 => parts.to_vec(),
            _ => return None,
        };
        // Which modules are built in.
        let base = format!("linux-base-{name}");
        needed.extend(there(&base).then_some(base));
        let release = Release {
            name: name.to_owned(),
            packages: needed,
        };
        Some((numbers, release))
    });
    candidates
        .max_by(|(one, _), (other, _)| one.cmp(other))
        .map(|(_, release)| release)
}

/// The numbers of a release for cloud machines of this architecture, such as `6.1.0-56` and
/// `6.12.117+deb12`; none for packages that stand for another, candidates and rebuilds for
/// other distributions.
fn numbers(release: &str, arch: Arch) -> Option<Vec<u32>> {
    let version = release
        .strip_suffix(arch.debian())?
        .strip_suffix("-cloud-")?;
    let (kernel, build) = version
        .split_once("+deb")
        .or_else(|| version.split_once('-'))?;
    let kernel: Vec<u32> = all(kernel)?;
    let build: Vec<u32> = all(build)?;
    (kernel.len() == 3).then(|| [kernel, build].concat())
}

fn all(numbers: &str) -> Option<Vec<u32>> {
    numbers
        .split('.')
        .map(|number| number.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Arch, NEWEST, choose};

    const PACKAGES: &[&str] = &[
        "linux-image-5.10.0-9-cloud-amd64",
        "linux-image-5.10.0-46-cloud-amd64",
        "linux-image-5.10.0-47-cloud-amd64-unsigned",
        "linux-image-6.1-cloud-amd64",
        "linux-image-6.1.0-0.deb11.99-cloud-amd64",
        "linux-image-6.1.0-56-cloud-amd64",
        "linux-image-6.1.0-57-amd64",
        "linux-image-6.12.95+deb13-cloud-amd64",
        "linux-image-6.12.117+deb12-cloud-amd64",
        "linux-image-6.12.117+deb12.1-cloud-amd64",
        "linux-image-7.3.4+deb13-cloud-amd64",
        "linux-base-7.3.4+deb13-cloud-amd64",
        "linux-binary-7.3.4+deb13-cloud-amd64",
        "linux-modules-7.3.4+deb13-cloud-amd64",
        "linux-image-7.3.5+deb13-cloud-amd64",
        "linux-binary-7.3.5+deb13-cloud-amd64",
        "linux-image-7.4-cloud-amd64",
        "linux-image-6.12.118+deb12-cloud-arm64",
    ];

    fn chosen(series: &str) -> Option<String> {
        choose(PACKAGES, series, Arch::Amd64).map(|release| release.name)
    }

    #[test]
    fn the_newest_of_a_series_is_chosen() {
        assert_eq!(chosen("5.10").as_deref(), Some("5.10.0-46-cloud-amd64"));
        assert_eq!(
            chosen("6.12").as_deref(),
            Some("6.12.117+deb12.1-cloud-amd64")
        );
    }

    #[test]
    fn each_architecture_has_its_own() {
        let release = choose(PACKAGES, "6.12", Arch::Arm64).unwrap();
        assert_eq!(release.name, "6.12.118+deb12-cloud-arm64");
    }

    #[test]
    fn rebuilds_and_other_flavours_are_not() {
        assert_eq!(chosen("6.1").as_deref(), Some("6.1.0-56-cloud-amd64"));
    }

    #[test]
    fn half_a_kernel_is_none() {
        let newest = choose(PACKAGES, NEWEST, Arch::Amd64).unwrap();
        assert_eq!(newest.name, "7.3.4+deb13-cloud-amd64");
        assert_eq!(
            newest.packages,
            [
                "linux-binary-7.3.4+deb13-cloud-amd64",
                "linux-modules-7.3.4+deb13-cloud-amd64",
                "linux-base-7.3.4+deb13-cloud-amd64"
            ]
        );
    }

    #[test]
    fn what_is_not_there_is_not_made_up() {
        assert_eq!(chosen("6.8"), None);
        assert_eq!(chosen("6"), chosen("6.12"));
    }
}
