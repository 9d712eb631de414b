//! What keeps a request going when an endpoint fails: deadlines, tries at other endpoints, and the budget for them.

pub mod budget;
pub mod replay;
pub mod retry;
pub mod timeout;
