//! Memory that is held for nothing, for the system.

/// After so many operations on the tables it is worth the milliseconds.
pub(super) const MANY: usize = 10_000;

/// To be called when much was freed. What operations took, and the tables that an earlier agent has left, lies in
/// pieces between what is kept; by itself the allocator gives back only what is at its heap's end.
pub(super) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: glibc's; it frees nothing that is in use, and takes the allocator's locks itself.
    unsafe {
        libc::malloc_trim(0);
    }
    let_go_of_file();
}

/// To be called first. By itself the allocator makes arenas for threads, eight for each CPU, and each keeps what was
/// freed in it; the agent's threads rarely allocate at the same time. And it has mappings of their own for what is
/// large, until the first of them is freed: from then on tables that grow leave holes in the heap.
pub(super) fn share() {
    #[cfg(target_env = "gnu")]
    // SAFETY: glibc's; it changes numbers that are read when memory is allocated.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}

/// Bytes: what the allocator begins with.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 128 << 10;

/// Most of the program is for the start and the command line: reading types and objects, parsing NADs. Its pages stay
/// mapped once they were touched, with fifteen neighbours each. What is needed again is mapped again, from the page
/// cache.
fn let_go_of_file() {
    // SAFETY: the function only reads what it is given, and needs no data.
    unsafe {
        libc::dl_iterate_phdr(Some(let_go_of_segments), std::ptr::null_mut());
    }
}

/// Of the first object, which is the program.
unsafe extern "C" fn let_go_of_segments(
    object: *mut libc::dl_phdr_info,
    _size: usize,
    _data: *mut libc::c_void,
) -> libc::c_int {
    const PAGE: u64 = 4096;
    // SAFETY: the C library's, for the time of the call.
    let object = unsafe { &*object };
    for number in 0..usize::from(object.dlpi_phnum) {
        // SAFETY: there are so many.
        let segment = unsafe { &*object.dlpi_phdr.add(number) };
        // What may be written, once by the dynamic linker even, is no more what is in the file.
        if segment.p_type != libc::PT_LOAD || segment.p_flags & libc::PF_W != 0 {
            continue;
        }
        let begin = (object.dlpi_addr + segment.p_vaddr).next_multiple_of(PAGE);
        let end = (object.dlpi_addr + segment.p_vaddr + segment.p_memsz) / PAGE * PAGE;
        let length = usize::try_from(end.saturating_sub(begin)).unwrap_or(0);
        // SAFETY: whole pages of a mapping of a file that nobody can write to: they are the same when they are back.
        unsafe {
            libc::madvise(begin as *mut libc::c_void, length, libc::MADV_DONTNEED);
        }
    }
    1
}
