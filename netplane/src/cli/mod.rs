//! What a person or a container runtime calls: arguments in, text or JSON out.
