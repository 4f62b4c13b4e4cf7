//! Parts of pilab with real parts around them; one binary, so that it is linked once.

#[cfg(test)]
mod image;
