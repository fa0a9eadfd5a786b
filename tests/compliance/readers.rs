//! The programs that read 1.2's log and history today, with their real rule files.
