//! Cases, packet builders and tables in memory, shared by unit tests, kernel runs, benches and fuzzers.
