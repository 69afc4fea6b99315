//! What the node should forward: networks, attachments, sessions and neighbours as plain data, and
//! the pure functions that compile them into tables and find the difference to the tables in force.

pub mod tables;
