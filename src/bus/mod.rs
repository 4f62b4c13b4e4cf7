//! async-nats, wrapped: connect, publish and acknowledge, consume, keys, requests; the embedded server; the issuer.
