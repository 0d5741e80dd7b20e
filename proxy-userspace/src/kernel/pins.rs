//! Where the lists are pinned: `/sys/fs/bpf/truepeer/<instance>/`.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use aya::maps::{Map, MapData, MapError};
use rustix::{
    fs::{CWD, StatFs, StatVfsMountFlags, statfs, statvfs},
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags},
};

const BPFFS: &str = "/sys/fs/bpf";
/// BPF_FS_MAGIC of linux/magic.h.
const MAGIC: u32 = 0xcafe_4a11;

pub fn directory(instance: &str) -> PathBuf {
    all().join(instance)
}

fn all() -> PathBuf {
    Path::new(BPFFS).join("truepeer")
}

/// Those that have pins.
pub fn instances() -> Result<BTreeSet<String>> {
    let entries = match fs::read_dir(all()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        entries => entries.with_context(|| format!("reading {} (needs root)", all().display()))?,
    };
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names.collect()
}

/// All pins of an instance, if it has any.
pub fn remove(instance: &str) -> Result<()> {
    let directory = directory(instance);
    match fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", directory.display()))
        }
        _ => Ok(()),
    }
}

pub fn create_directory(instance: &str) -> Result<PathBuf> {
    ensure_mounted().with_context(|| {
        format!("no bpffs at {BPFFS}: run `mount -t bpf bpf {BPFFS}` (needs CAP_SYS_ADMIN)")
    })?;
    let directory = directory(instance);
    fs::create_dir_all(&directory)
        .with_context(|| format!("making {} (needs root)", directory.display()))?;
    Ok(directory)
}

pub fn open_pinned<M: TryFrom<Map, Error = MapError>>(
    pin: &Path,
    of_type: fn(MapData) -> Map,
) -> Result<M> {
    let data = MapData::from_pin(pin)
        .with_context(|| format!("opening {} (needs root)", pin.display()))?;
    let map = of_type(data).try_into();
    map.with_context(|| format!("{} is of another version: remove it", pin.display()))
}

/// BPF_F_NO_PREALLOC of linux/bpf.h.
pub const NO_PREALLOC: u32 = 1;

pub fn pinning(pin: &Path) -> String {
    format!("pinning {}", pin.display())
}

/// Mounts bpffs where it belongs if nobody has yet: a machine without systemd doesn't. Under a
/// lock, as a second mount on top would hide the first one's pins.
fn ensure_mounted() -> io::Result<()> {
    if is_mounted() {
        return Ok(());
    }
    let lock = File::open(BPFFS)?;
    lock.lock()?;
    if is_mounted() { Ok(()) } else { mount() }
}

pub fn is_mounted() -> bool {
    statfs(BPFFS).is_ok_and(|StatFs { f_type, .. }| u32::try_from(f_type) == Ok(MAGIC))
}

/// Whether nothing can be pinned there.
pub fn is_read_only() -> bool {
    statvfs(BPFFS).is_ok_and(|it| it.f_flag.contains(StatVfsMountFlags::RDONLY))
}

fn mount() -> io::Result<()> {
    let mount = unmounted()?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(&mount, "", CWD, BPFFS, flags).map_err(Into::into)
}

fn unmounted() -> io::Result<OwnedFd> {
    let fs = rustix::mount::fsopen("bpf", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&fs)?;
    let attrs = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(rustix::mount::fsmount(
        &fs,
        FsMountFlags::FSMOUNT_CLOEXEC,
        attrs,
    )?)
}

/// A bpffs that nobody else sees, and that goes with its file descriptor.
pub struct Unmounted(OwnedFd);

impl Unmounted {
    pub fn new() -> Result<Self> {
        Ok(Self(unmounted().context(
            "making a bpffs for the check (needs CAP_SYS_ADMIN)",
        )?))
    }

    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
}
