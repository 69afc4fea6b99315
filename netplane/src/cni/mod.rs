//! The CNI protocol: request, versions, results, errors, delegates.
