//! A guest's first root file system: busybox, the modules that mount the real root, and the script that does.

use super::kernel::Kernel;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use xtask::process::{read, shown};
use xtask::toolchain::on_path;

const INIT: &str = include_str!("init.sh");

/// What must be loaded before there is a root: the bus, the console for output, and the file systems.
const MODULES: [&str; 5] = ["virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay"];

/// Makes the archive in `folder`, and returns its path.
///
/// # Errors
/// busybox, kmod or cpio is missing, or the kernel has not what a guest needs.
pub(super) fn make(kernel: &Kernel, folder: &Path) -> Result<PathBuf> {
    let tree = folder.join("initramfs");
    for name in ["bin", "dev", "proc", "sys", "modules", "lower", "upper", "top"] {
        fs::create_dir_all(tree.join(name)).with_context(|| format!("make folder {}", tree.display()))?;
    }
    let busybox = on_path("busybox").context("busybox is not installed; remedy: cargo xtask setup")?;
    fs::copy(&busybox, tree.join("bin/busybox")).with_context(|| format!("copy {}", busybox.display()))?;
    let order = insert_modules(kernel, &tree.join("modules"))?;
    fs::write(tree.join("modules/order"), order)?;
    let init = tree.join("init");
    fs::write(&init, INIT)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    let archive = folder.join("initramfs.cpio");
    // The format of Documentation/driver-api/early-userspace/buffer-format.rst in the kernel's sources.
    let mut command = Command::new("sh");
    command.arg("-c").arg("find . | cpio --quiet --create --format=newc").current_dir(&tree);
    let file = fs::File::create(&archive).with_context(|| format!("create {}", archive.display()))?;
    let status = command.stdin(Stdio::null()).stdout(file).status().context("start sh")?;
    ensure!(status.success(), "`{}` failed ({status}); remedy: cargo xtask setup", shown(&command));
    fs::remove_dir_all(&tree).with_context(|| format!("remove {}", tree.display()))?;
    Ok(archive)
}

/// Puts the modules and what they need into `folder`, unpacked; returns their names in the order of loading,
/// one a line.
fn insert_modules(kernel: &Kernel, folder: &Path) -> Result<String> {
    let mut order = String::new();
    for module in MODULES {
        let mut modprobe = Command::new("modprobe");
        modprobe.arg("--dirname").arg(kernel.folder()).args(["--set-version", &kernel.release]);
        let listed = read(modprobe.args(["--show-depends", module]))?;
        // `insmod PATH`, or `builtin NAME` for what is in the kernel.
        for path in listed.lines().filter_map(|it| it.strip_prefix("insmod ")) {
            let path = Path::new(path.trim());
            let name = path.file_name().and_then(|it| it.to_str()).context("a module without a name")?;
            let plain = name.trim_end_matches(".xz");
            if order.lines().any(|it| it == plain) {
                continue;
            }
            if plain == name {
                fs::copy(path, folder.join(plain)).with_context(|| format!("copy {}", path.display()))?;
            } else {
                let file = fs::File::create(folder.join(plain))?;
                let mut xz = Command::new("xz");
                let status = xz.args(["--decompress", "--stdout"]).arg(path).stdout(file).status();
                ensure!(status.is_ok_and(|it| it.success()), "`{}` failed", shown(&xz));
            }
            order.push_str(plain);
            order.push('\n');
        }
    }
    Ok(order)
}
