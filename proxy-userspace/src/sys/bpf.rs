//! Links by their descriptors: aya keeps these to itself, and can't take in those of another process.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

/// Of enum bpf_cmd.
const PROG_TEST_RUN: libc::c_int = 10;
const LINK_CREATE: libc::c_int = 28;
const LINK_UPDATE: libc::c_int = 29;
const LINK_DETACH: libc::c_int = 34;

/// The part of union bpf_attr that has to do with links of devices, namespaces and cgroups.
#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    program: u32,
    /// A descriptor, or a device's index.
    target: u32,
    attach_type: u32,
    flags: u32,
    /// Of tcx: beside which link or program; none is at the very end of the line.
    relative: u32,
    padding: u32,
    expected_revision: u64,
}

#[repr(C)]
#[derive(Default)]
struct LinkUpdate {
    link: u32,
    new_program: u32,
    flags: u32,
    old_program: u32,
}

/// The part of union bpf_attr that has to do with running a program.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    returned: u32,
    packet_len: u32,
    result_len: u32,
    packet: u64,
    result: u64,
    repeat: u32,
    duration: u32,
}

/// Runs a classifier once, with a packet of zeroes that came in by `lo`.
pub fn run(program: BorrowedFd<'_>) -> io::Result<()> {
    // The kernel wants a packet, if only an Ethernet header.
    const PACKET: [u8; 64] = [0; 64];
    let mut attributes = TestRun {
        program: program.as_raw_fd().cast_unsigned(),
        packet_len: 64,
        packet: PACKET.as_ptr().addr() as u64,
        ..TestRun::default()
    };
    // SAFETY: made of integers, and as long as it is; the kernel reads the packet, and writes what was
    // returned and how long it took into the attributes.
    unsafe { bpf_mut(PROG_TEST_RUN, &mut attributes) }?;
    Ok(())
}

/// The same with a packet of this content, which is afterwards what the program has made of it.
///
/// # Safety
///
/// `T` has to be plain bytes, without any between its fields, and any content a valid value of it.
pub unsafe fn run_on<T>(program: BorrowedFd<'_>, packet: &mut T) -> io::Result<()> {
    let len = u32::try_from(size_of::<T>()).map_err(io::Error::other)?;
    let at = std::ptr::from_mut(packet).expose_provenance() as u64;
    let mut attributes = TestRun {
        program: program.as_raw_fd().cast_unsigned(),
        packet_len: len,
        result_len: len,
        packet: at,
        result: at,
        ..TestRun::default()
    };
    // SAFETY: as above, and the kernel writes the packet back at the end, as long as it was.
    unsafe { bpf_mut(PROG_TEST_RUN, &mut attributes) }?;
    Ok(())
}

/// Hooks `program` to a descriptor's namespace or cgroup, or to the device of an index.
pub fn link_create(
    program: BorrowedFd<'_>,
    target: u32,
    attach_type: u32,
    flags: u32,
) -> io::Result<OwnedFd> {
    let attributes = LinkCreate {
        program: program.as_raw_fd().cast_unsigned(),
        target,
        attach_type,
        flags,
        ..LinkCreate::default()
    };
    // SAFETY: made of integers, and as long as it is.
    let fd = unsafe { bpf(LINK_CREATE, &attributes) }?;
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Puts `program` in the place of the link's, between two packets.
pub fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let attributes = LinkUpdate {
        link: link.as_raw_fd().cast_unsigned(),
        new_program: program.as_raw_fd().cast_unsigned(),
        ..LinkUpdate::default()
    };
    // SAFETY: made of integers, and as long as it is.
    unsafe { bpf(LINK_UPDATE, &attributes) }?;
    Ok(())
}

/// Takes the program out of its place, whoever holds the link.
pub fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let link = link.as_raw_fd().cast_unsigned();
    // SAFETY: the command reads this number alone.
    unsafe { bpf(LINK_DETACH, &link) }?;
    Ok(())
}

/// # Safety
///
/// `T` has to be what the kernel reads for `command`, and no command that writes.
unsafe fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_int> {
    // SAFETY: the kernel only reads what it gets.
    unsafe { call(command, std::ptr::from_ref(attributes).cast_mut()) }
}

/// # Safety
///
/// `T` has to be what the kernel reads and writes for `command`.
unsafe fn bpf_mut<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: the caller's promise.
    unsafe { call(command, std::ptr::from_mut(attributes)) }
}

/// # Safety
///
/// As of [`bpf_mut`].
unsafe fn call<T>(command: libc::c_int, attributes: *mut T) -> io::Result<libc::c_int> {
    // SAFETY: the kernel accesses `size_of::<T>()` bytes, which the caller's reference has.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    let done = libc::c_int::try_from(done).map_err(io::Error::other)?;
    super::succeeded(done)?;
    Ok(done)
}
