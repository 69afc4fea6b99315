//! Plugins that run inside the process instead of being exec'd.
