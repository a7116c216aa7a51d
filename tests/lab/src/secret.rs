//! Something that only one guest knows, and that can be told from everything else.

use crate::{
    error::Result,
    random::{hex, random_bytes},
};

/// Random bytes. Guests fill pages with them, over and over, and wiretaps are searched for them.
#[derive(Clone, Debug)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Another one each time.
    pub fn new() -> Result<Secret> {
        random_bytes().map(Secret)
    }

    /// As it is in a guest's memory.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// As guests are told of it: searching for the bytes does not find this.
    pub(crate) fn hex(&self) -> String {
        hex(&self.0)
    }
}
