//! Adapter of the ports `Power`, `Boot` and `ByteStream` over libvirt.
