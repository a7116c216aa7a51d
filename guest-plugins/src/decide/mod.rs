//! Everything that coms-plugins decides. Pure: what was said and the monotonic time in; what the agent and the plugins
//! hear, out.

pub mod ask;
pub mod bounds;
pub mod check;
pub mod desk;
pub mod judge;

pub use desk::Desk;
