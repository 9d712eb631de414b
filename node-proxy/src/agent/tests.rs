//! The agent client against a fake agent.
