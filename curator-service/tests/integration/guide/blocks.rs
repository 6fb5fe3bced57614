//! The blocks of a guide that are for a shell, one after the other.

use std::fs;
use std::path::Path;

/// A guide, and how far it has been done.
pub(super) struct Guide {
    name: &'static str,
    blocks: Vec<String>,
    done: usize,
}

impl Guide {
    /// Reads it. Blocks that say why they are not run are left out; `cargo xtask ci` sees that each other one is in a
    /// guide that is done here.
    pub(super) fn read(name: &'static str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
        let text = fs::read_to_string(path).unwrap();
        let blocks = curator_harness::guides::blocks(&text)
            .into_iter()
            .filter(|block| block.is_run())
            .map(|block| block.text)
            .collect();
        Self { name, blocks, done: 0 }
    }

    /// The next block, which has these words in it.
    pub(super) fn next(&mut self, words: &str) -> &str {
        let block = self.blocks.get(self.done);
        let block = block.unwrap_or_else(|| panic!("{} has no block any more: {words:?}", self.name));
        assert!(block.contains(words), "{}: not with {words:?}, but\n{block}", self.name);
        self.done += 1;
        block
    }

    /// Any block with these words in it.
    pub(super) fn find(&mut self, words: &str) -> &str {
        let found = self.blocks.iter().find(|block| block.contains(words));
        found.unwrap_or_else(|| panic!("{} has no block with {words:?}", self.name))
    }

    /// All of it has been done.
    pub(super) fn done(self) {
        let left = &self.blocks[self.done..];
        assert!(left.is_empty(), "{} goes on: {left:?}", self.name);
    }
}
