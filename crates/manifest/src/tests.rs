//! Manifests in, objects or messages out.
