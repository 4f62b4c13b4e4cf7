//! The layers that may be fetched, by hash. No path ever comes from outside.

use crate::device::ports::BootLayer;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

/// The registered layers; a cloneable handle.
#[derive(Clone, Default)]
pub struct LayerSource {
    files: Arc<RwLock<HashMap<String, PathBuf>>>,
}

impl LayerSource {
    /// Makes the layer fetchable under its hash.
    pub fn register(&self, layer: &BootLayer) {
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        files.insert(layer.sha256.clone(), layer.path.clone());
    }

    /// The file of a registered layer.
    pub fn path(&self, sha256: &str) -> Option<PathBuf> {
        self.files.read().unwrap_or_else(PoisonError::into_inner).get(sha256).cloned()
    }
}
