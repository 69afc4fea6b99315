//! The node agent: tasks, sockets, start, stop, hand-over. The only place that spawns.
