//! Retries, time limits and balancing with a scripted sending step and a paused clock.
