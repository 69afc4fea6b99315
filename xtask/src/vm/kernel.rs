//! The kernels that guests boot, in the cache: which there are, and what of them is there. `cargo xtask
//! setup` fetches them.

use anyhow::{Context, Result};
use std::fs;
use std::path::PathBuf;

/// A series of Debian's kernels that the tests boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Series(pub(crate) &'static str);

/// What clusters have beside the newest: the long-term kernels of 2024, and of 2022, which Debian 12 is
/// installed with. 6.1 is the oldest with a package for Debian 12.
pub(crate) const SERIES: [Series; 2] = [Series("6.12"), Series("6.1")];

/// A kernel that was unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// As `uname -r` prints it.
    pub(crate) release: String,
    folder: PathBuf,
}

impl Series {
    /// The release in the name of a package, if that is a kernel of this series for this kind of machine:
    /// not one for clouds, which has neither 9p nor GTP, and not one for real time.
    pub(crate) fn release_of(self, package: &str) -> Option<&str> {
        let release = package.strip_prefix("linux-image-")?;
        let rest = release.strip_prefix(self.0)?.strip_prefix('.')?.strip_suffix("-amd64")?;
        let special = ["cloud", "rt", "bpo"];
        (!rest.split(['-', '+']).any(|part| special.contains(&part))).then_some(release)
    }

    /// The newest of the series that is in the cache.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn find(self) -> Result<Kernel> {
        let folder = kernels()?;
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        let names: Vec<_> = entries.filter_map(|it| it.file_name().into_string().ok()).collect();
        let of_series = |name: &&String| self.release_of(&format!("linux-image-{name}")).is_some();
        let newest = names.iter().filter(of_series).max_by_key(|name| numbers(name));
        let release = newest.with_context(|| {
            format!("no kernel {} in {}; remedy: cargo xtask setup", self.0, folder.display())
        })?;
        Ok(Kernel { release: release.clone(), folder: folder.join(release) })
    }
}

impl Kernel {
    pub(crate) fn image(&self) -> PathBuf {
        self.folder.join(format!("boot/vmlinuz-{}", self.release))
    }

    /// What `/lib/modules/RELEASE` is in the guest.
    pub(crate) fn modules(&self) -> PathBuf {
        self.folder.join("lib/modules").join(&self.release)
    }

    /// The folder with `lib/modules`, for tools that take another root.
    pub(crate) fn folder(&self) -> &PathBuf {
        &self.folder
    }
}

/// Where kernels are unpacked, each in a folder with its release's name.
pub(crate) fn kernels() -> Result<PathBuf> {
    Ok(xtask::cache_dir()?.join("kernels"))
}

/// The numbers in a release, by which the newest is found.
pub(crate) fn numbers(release: &str) -> Vec<u32> {
    release.split(|it: char| !it.is_ascii_digit()).filter_map(|it| it.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packages_of_a_series_are_told_from_others() {
        let [new, old] = SERIES;
        assert_eq!(new.release_of("linux-image-6.12.117+deb12-amd64"), Some("6.12.117+deb12-amd64"));
        assert_eq!(old.release_of("linux-image-6.1.0-56-amd64"), Some("6.1.0-56-amd64"));
        for package in [
            "linux-image-6.12.117+deb12-amd64",
            "linux-image-6.1.0-56-cloud-amd64",
            "linux-image-6.1.0-56-rt-amd64",
            "linux-image-6.1.0-56-amd64-dbg",
            "linux-image-6.1.0-56-amd64-unsigned",
            "linux-headers-6.1.0-56-amd64",
        ] {
            assert_eq!(old.release_of(package), None, "{package}");
        }
    }

    #[test]
    fn the_newest_is_told_by_numbers() {
        let newest =
            ["6.1.0-9-amd64", "6.1.0-56-amd64", "6.1.0-7-amd64"].into_iter().max_by_key(|it| numbers(it));
        assert_eq!(newest, Some("6.1.0-56-amd64"));
    }
}
