//! The device agent: observe, plan, act, report. Owns the port `ContainerRuntime`.
