//! Pure planners: they read a view of the cluster and give specifications; others propose them.
//!
//! | file | plans |
//! |---|---|
//! | [`placement`] | which servers get the copies of a new chunk |

pub mod placement;
