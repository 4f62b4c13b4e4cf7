//! Adapter of the port `ContainerRuntime` over podman's libpod socket.
