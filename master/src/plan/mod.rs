//! Pure planners: they read a view of the cluster and give specifications; others propose them.
//!
//! | file | plans |
//! |---|---|
//! | [`placement`] | which servers get the copies of a new chunk, or one more copy of an old one |
//! | [`balance`] | which copies move from full servers to emptier ones |
//! | [`repair`] | which copies of sealed chunks are made, given up and dropped |
//! | [`inventory`] | what differs between what a server lists and the rows |
//! | [`merge`] | for which small extents of a file one large chunk is made |
//! | [`search`] | finds the chunks that need it, in bounded steps |

pub mod balance;
pub mod inventory;
pub mod merge;
pub mod placement;
pub mod repair;
pub mod search;
