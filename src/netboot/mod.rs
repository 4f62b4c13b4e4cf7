//! How a device gets what it boots: boot tickets and layers over HTTP.
