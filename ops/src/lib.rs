//! Running a Gabion cluster: verification tools, beside the scripts that start, stop and test one.
//!
//! | module | what it does |
//! |---|---|
//! | [`verify`] | compares what should be with what is: trees, replicas, masters, directories of stopped servers |

pub mod verify;
