//! The suites that start processes, apart from those of `main.rs`: until a child has become another program it has open what
//! its parent had, the locks of directories too, and who opens a directory again in that moment finds it in use.

mod common;
mod crash;
mod process;
