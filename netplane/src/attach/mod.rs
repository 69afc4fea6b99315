//! Plans and carries out attachments: selections, names, capabilities, cache, rollback.

pub mod record;
