//! Device information files (device-info-spec 1.1.0, §4): the device plugin's is read, and the CNI plugins'
//! is written for them, read back after ADD and removed on DEL.

use crate::nad::device_info::DeviceInfo;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The capability by which plugins get the path of their file (§5.1).
pub const CAPABILITY: &str = "CNIDeviceInfoFile";

/// Where the files are unless the configuration's `deviceInfoDir` says otherwise.
pub const DEFAULT_DIR: &str = "/var/run/k8s.cni.cncf.io/devinfo";

/// More than any device information.
const MAX_SIZE: u64 = 1 << 20;

/// Whose files: `deviceInfoDir`, and the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InfoFiles {
    pub dir: PathBuf,
    pub container_id: String,
}

/// Why there is no device information.
#[derive(Debug, thiserror::Error)]
#[error("device information {}: {problem}", path.display())]
pub struct InfoFileError {
    pub path: PathBuf,
    pub problem: String,
}

/// The device plugin's file of a device (§4.1).
pub fn of_device(dir: &Path, resource: &str, device: &str) -> PathBuf {
    dir.join("dp").join(flat(&format!("{resource}-{device}-device.json")))
}

/// The CNI plugins' file of an attachment (§4.2), under the name that Multus gives it.
pub fn of_attachment(dir: &Path, network: &str, container_id: &str, interface: &str) -> PathBuf {
    dir.join("cni").join(flat(&format!("{network}-{container_id}_{interface}")))
}

fn flat(name: &str) -> String {
    name.replace('/', "-")
}

/// Gives the CNI plugins the device plugin's file (§4.2.1). Says whether there is one.
///
/// # Errors
/// What is there is no device information, or cannot be copied.
pub fn copy(from: &Path, to: &Path) -> Result<bool, InfoFileError> {
    let Some(text) = read(from)? else { return Ok(false) };
    parse(from, &text)?;
    let written = write(to, &text);
    written.map_err(|error| failed(to, format!("cannot be written: {error}"))).map(|()| true)
}

/// What the plugins know of the device; `None` if they have written nothing.
///
/// # Errors
/// What is there is no device information.
pub fn load(path: &Path) -> Result<Option<DeviceInfo>, InfoFileError> {
    read(path)?.map(|text| parse(path, &text)).transpose()
}

/// Removes a file. One that is not there is no error.
///
/// # Errors
/// It cannot be removed.
pub fn remove(path: &Path) -> Result<(), InfoFileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed(path, format!("cannot be removed: {error}")))
        }
        _ => Ok(()),
    }
}

fn failed(path: &Path, problem: String) -> InfoFileError {
    InfoFileError { path: path.to_owned(), problem }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, InfoFileError> {
    let cannot = |error: io::Error| failed(path, format!("cannot be read: {error}"));
    // Else a pipe that somebody left here would be waited for.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = match file {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(cannot(error)),
    };
    if !file.metadata().map_err(cannot)?.is_file() {
        return Err(failed(path, "is no file".to_owned()));
    }
    let mut text = Vec::new();
    file.take(MAX_SIZE).read_to_end(&mut text).map_err(cannot)?;
    Ok(Some(text))
}

fn parse(path: &Path, text: &[u8]) -> Result<DeviceInfo, InfoFileError> {
    serde_json::from_slice(text).map_err(|error| failed(path, format!("is no device information: {error}")))
}

/// Writes a file anew: one that an earlier container of that name left says nothing of this one.
fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o444).open(path)?;
    file.write_all(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PCI: &str = r#"{"type":"pci","version":"1.1.0","pci":{"pci-address":"0000:18:02.5"},"later":1}"#;

    #[test]
    fn names_are_those_of_the_specification_and_of_multus() {
        let dir = Path::new(DEFAULT_DIR);
        assert_eq!(
            of_device(dir, "intel.com/sriov", "0000:18:02.5").to_string_lossy(),
            "/var/run/k8s.cni.cncf.io/devinfo/dp/intel.com-sriov-0000:18:02.5-device.json"
        );
        assert_eq!(
            of_attachment(dir, "core/n3", "abc", "net1").to_string_lossy(),
            "/var/run/k8s.cni.cncf.io/devinfo/cni/core-n3-abc_net1"
        );
        let outside = of_device(dir, "../../x", "../y");
        assert_eq!(outside.parent(), Some(dir.join("dp").as_path()), "no name leads out of the folder");
    }

    #[test]
    fn copied_as_it_is_over_what_was_left_and_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let from = of_device(folder.path(), "a/x", "1");
        let to = of_attachment(folder.path(), "core/n3", "abc", "net1");
        assert!(!copy(&from, &to).expect("no file"), "the device plugin writes none");
        assert_eq!(load(&to).expect("no file"), None);
        fs::create_dir_all(from.parent().expect("a folder")).expect("made");
        fs::create_dir_all(to.parent().expect("a folder")).expect("made");
        fs::write(&to, "left behind").expect("written");
        fs::write(&from, PCI).expect("written");
        assert!(copy(&from, &to).expect("copied"));
        assert_eq!(fs::read_to_string(&to).expect("read"), PCI);
        let info = load(&to).expect("read").expect("there");
        assert_eq!(info.pci.map(|it| it.pci_address).as_deref(), Some("0000:18:02.5"));
        remove(&to).expect("removed");
        remove(&to).expect("removed twice");
        assert!(!to.exists() && from.exists());
    }

    #[test]
    fn what_is_no_device_information_is_named_and_not_copied() {
        let folder = tempfile::tempdir().expect("a folder");
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::write(&from, "\u{0}garbage").expect("written");
        let error = copy(&from, &to).expect_err("garbage").to_string();
        assert!(error.contains("from: is no device information"), "{error}");
        assert!(!to.exists());
        fs::create_dir(&to).expect("made");
        assert!(load(&to).expect_err("a folder").to_string().ends_with("is no file"));
        nix::unistd::mkfifo(&folder.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        assert!(load(&folder.path().join("pipe")).expect_err("a pipe").to_string().ends_with("is no file"));
    }
}
