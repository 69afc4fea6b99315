//! Host names of API servers: from /etc/hosts, then by DNS, whatever the node's nsswitch.conf says. Both are part
//! of the C library; other sources are modules that it would load, and a static program can load only those of
//! the very version that it was linked with.

use std::sync::Once;

/// To be called before the first name is looked up.
pub(super) fn from_hosts_and_dns() {
    static ONCE: Once = Once::new();
    ONCE.call_once(configure);
}

#[cfg(target_env = "gnu")]
fn configure() {
    use std::ffi::{c_char, c_int};
    unsafe extern "C" {
        /// glibc, nss.h: as if the line for `database` in nsswitch.conf were `service_line`.
        fn __nss_configure_lookup(database: *const c_char, service_line: *const c_char) -> c_int;
    }
    // SAFETY: both are strings that live for ever and that glibc only reads; no lookup is under way yet.
    let done = unsafe { __nss_configure_lookup(c"hosts".as_ptr(), c"files dns".as_ptr()) };
    if done != 0 {
        tracing::warn!("host names are looked up as nsswitch.conf says");
    }
}

/// Other C libraries have no modules.
#[cfg(not(target_env = "gnu"))]
fn configure() {}
