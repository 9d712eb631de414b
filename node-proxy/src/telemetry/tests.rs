//! What one outcome becomes in metrics and in the access log.
