//! One device's append-only record: console bytes, events and power intents in one sequence.
