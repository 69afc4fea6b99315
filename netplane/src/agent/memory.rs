//! Memory that the allocator holds back, for the system.

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
}

/// To be called first. By itself the allocator makes arenas for threads, eight for each CPU, and each keeps what was
/// freed in it; the agent has a thread for each pod, which rarely allocate at the same time.
pub(super) fn share() {
    #[cfg(target_env = "gnu")]
    // SAFETY: glibc's; it changes a number that is read when a thread allocates for the first time.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}
