//! The vm level: real libvirt. Run it with `LIBVIRT_DEFAULT_URI` as for virsh.

mod boot;
mod coordinator;
mod damage;
mod guest;
mod image;
mod lifecycle;
mod network;
mod pilab;
mod remote;
mod runs;
mod setup;
mod warm;
