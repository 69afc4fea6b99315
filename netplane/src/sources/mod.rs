//! Where facts come from: directories, attachment records, pod namespaces. A source only sends facts.
