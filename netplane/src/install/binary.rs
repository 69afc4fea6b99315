//! The program in the folder where the runtime looks for plugins. It is renamed into place: a plugin that is
//! running keeps its file, and no call finds half of one.

use super::place::{FolderLock, lock};
use super::{InstallError, Options, Source, master};
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

const NAME: &str = "netplane";
/// The name that existing configurations call.
const ALIAS: &str = "multus";
/// Where the program that had that name is kept.
const SAVED: &str = "multus.before-netplane";
/// The running program.
const SELF: &str = "/proc/self/exe";

/// The program and its second name.
pub(super) struct Binary<'a> {
    options: &'a Options,
    source: PathBuf,
    alias: bool,
}

impl<'a> Binary<'a> {
    pub(super) fn new(options: &'a Options) -> Self {
        let source = options.binary.clone().unwrap_or_else(|| SELF.into());
        Self { options, source, alias: options.alias || names_alias(&options.source) }
    }

    /// Installs the program where another, or none, is there.
    pub(super) fn install(&mut self) -> Result<(), InstallError> {
        if !self.options.copy_binary {
            tracing::info!("the program is not copied, as asked for");
            return Ok(());
        }
        let bin_dir = &self.options.bin_dir;
        let path = bin_dir.join(NAME);
        if !is_same(&self.source, &path).map_err(InstallError::file("read", &self.source))? {
            self.copy(&path)?;
        }
        if self.alias {
            self.put_alias(bin_dir)?;
        }
        Ok(())
    }

    /// Installs it again where something has removed it, as updates of Debian packages and the like do. It
    /// is not compared any more: another netplane may be there by now.
    pub(super) fn restore(&mut self) -> Result<(), InstallError> {
        let gone = |name: &str| !self.options.bin_dir.join(name).exists();
        if self.options.copy_binary && (gone(NAME) || self.alias && gone(ALIAS)) {
            return self.install();
        }
        Ok(())
    }

    fn copy(&self, path: &Path) -> Result<(), InstallError> {
        let mut source = File::open(&self.source).map_err(InstallError::file("open", &self.source))?;
        let guard = lock(&self.options.bin_dir)?;
        guard.place(path, 0o755, |file| io::copy(&mut source, file).map(drop))?;
        tracing::info!(path = %path.display(), "program installed");
        Ok(())
    }

    fn put_alias(&self, bin_dir: &Path) -> Result<(), InstallError> {
        let alias = bin_dir.join(ALIAS);
        if fs::read_link(&alias).is_ok_and(|it| it == Path::new(NAME)) {
            return Ok(());
        }
        let guard = lock(bin_dir)?;
        let saved = bin_dir.join(SAVED);
        if alias.is_file() && !saved.exists() {
            copy_beside(&guard, &alias, &saved)?;
        }
        let temporary = super::place::temporary(&alias);
        let put = || {
            match fs::remove_file(&temporary) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            symlink(NAME, &temporary)?;
            fs::rename(&temporary, &alias)
        };
        put().map_err(InstallError::file("write", &alias))?;
        tracing::info!(path = %alias.display(), "calls netplane from now on");
        Ok(())
    }

    /// The program stays: runtimes call it to detach pods. What had its second name gets it back.
    pub(super) fn clean(&self) -> Result<(), InstallError> {
        let bin_dir = &self.options.bin_dir;
        let saved = bin_dir.join(SAVED);
        if !self.alias || !self.options.copy_binary || !saved.exists() {
            return Ok(());
        }
        let _guard = lock(bin_dir)?;
        let alias = bin_dir.join(ALIAS);
        if fs::read_link(&alias).is_ok_and(|it| it == Path::new(NAME)) {
            fs::rename(&saved, &alias).map_err(InstallError::file("put back", &alias))?;
            tracing::info!(path = %alias.display(), "is back");
        }
        Ok(())
    }
}

fn copy_beside(guard: &FolderLock, from: &Path, to: &Path) -> Result<(), InstallError> {
    let mut source = File::open(from).map_err(InstallError::file("open", from))?;
    guard.place(to, 0o755, |file| io::copy(&mut source, file).map(drop))
}

/// Whether the configuration that is to be copied calls `multus`: then that is what netplane must be called.
fn names_alias(source: &Source) -> bool {
    let Source::File(path) = source else { return false };
    let config = fs::read(path).ok().and_then(|it| master::parse(path, &it).ok());
    config.is_some_and(|it| master::program(&it) == Some(ALIAS))
}

/// Whether `there` has the content of `source`, and can be executed. An error is about `source`.
fn is_same(source: &Path, there: &Path) -> io::Result<bool> {
    let source = File::open(source)?;
    // Where a link leads from here is not where it leads on the node.
    if there.is_symlink() {
        return Ok(false);
    }
    let Ok(there) = File::open(there) else { return Ok(false) };
    let (wanted, found) = (source.metadata()?, there.metadata()?);
    if wanted.len() != found.len() || found.permissions().mode() & 0o777 != 0o755 {
        return Ok(false);
    }
    let (mut source, mut there) = (BufReader::new(source), BufReader::new(there));
    let (mut left, mut right) = ([0; 1 << 16], [0; 1 << 16]);
    loop {
        let count = source.read(&mut left)?;
        if count == 0 {
            return Ok(true);
        }
        if there.read_exact(&mut right[..count]).is_err() || left[..count] != right[..count] {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_means_same_bytes_and_mode() {
        let folder = tempfile::tempdir().expect("a folder");
        let [a, b] = ["a", "b"].map(|it| folder.path().join(it));
        let long = vec![7; 200_000];
        fs::write(&a, &long).expect("a file");
        assert!(!is_same(&a, &b).expect("read"));
        fs::write(&b, &long).expect("a file");
        assert!(!is_same(&a, &b).expect("read"), "it cannot be executed");
        fs::set_permissions(&b, fs::Permissions::from_mode(0o755)).expect("a mode");
        assert!(is_same(&a, &b).expect("read"));
        let link = folder.path().join("link");
        symlink(&b, &link).expect("a link");
        assert!(!is_same(&a, &link).expect("read"), "a link");
        let mut other = long.clone();
        other[150_000] = 8;
        fs::write(&b, other).expect("a file");
        assert!(!is_same(&a, &b).expect("read"));
        assert!(is_same(&folder.path().join("none"), &b).is_err());
    }
}
