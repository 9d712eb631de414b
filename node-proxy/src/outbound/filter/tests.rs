//! One row per sentence of the specification.
