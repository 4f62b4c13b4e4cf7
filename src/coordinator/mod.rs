//! The lab coordinator: runs, steps, requests, credentials.
