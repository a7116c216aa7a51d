//! The fault table: what may go wrong at which step of a move (ARCHITECTURE.md numbers them), each row a move on
//! real parts. Whatever the row, the rule is the same ([`check`]): the VM runs exactly once, its memory is what it
//! wrote, and whoever asked hears exactly one end.
//!
//! ```text
//!   table    the rows; one more fault is one more line
//!   row      the words a row is made of          moment   where in the flow a fault strikes
//!   arena    two hosts, a guest, one row at a time         strike   what is done to them, and undone
//!   check    what must hold after every row      report   the table that people read
//! ```
//!
//! **How a step is hit.** The moments between two steps last microseconds. So brokers and agent are built with
//! their feature `faults`: they stop themselves (SIGSTOP) before the event or action that the row names, and are
//! killed, really, while they stand there. libvirt, QEMU and the network do not stand still meanwhile: a fault of
//! theirs begins at the step and may be some milliseconds late. What must hold does not depend on that.

pub mod arena;
pub mod check;
pub mod moment;
pub mod report;
pub mod row;
pub mod strike;
pub mod table;
