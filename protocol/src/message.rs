//! From a message to its number and bytes, and back.

/// Everything that can be said in one direction.
pub trait Message: Sized {
    /// Its number on the wire.
    fn number(&self) -> u16;
    /// Appends its bytes.
    fn encode(&self, out: &mut Vec<u8>);
    /// The message with this number and these bytes.
    fn decode(number: u16, bytes: &[u8]) -> Result<Self, DecodeError>;
}

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// From a newer peer: skip it.
    #[error("message {0} is unknown to this version")]
    UnknownMessage(u16),
    /// A number we know, content that breaks its layout or limits.
    #[error("message {0} breaks its layout or its limits")]
    Malformed(u16),
}

/// Bytes of a value whose type cannot fail to encode into memory.
pub(crate) fn append<T: serde::Serialize>(value: &T, out: &mut Vec<u8>) {
    // postcard's only errors here are a full buffer (a Vec grows) and serde features the types do not use;
    // golden tests encode every message.
    if let Ok(bytes) = postcard::to_stdvec(value) {
        out.extend_from_slice(&bytes);
    }
}

/// One direction's messages: an enum, and its mapping to numbers that are given once and never reused.
#[macro_export]
macro_rules! messages {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$vmeta:meta])* $variant:ident = $number:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum $name { $($(#[$vmeta])* $variant($variant),)+ }

        impl $name {
            /// Every number in use.
            pub const NUMBERS: &'static [u16] = &[$($number),+];
        }

        impl $crate::message::Message for $name {
            fn number(&self) -> u16 {
                match self { $($name::$variant(_) => $number,)+ }
            }
            fn encode(&self, out: &mut Vec<u8>) {
                match self { $($name::$variant(m) => $crate::message::append(m, out),)+ }
            }
            fn decode(number: u16, bytes: &[u8]) -> Result<Self, $crate::message::DecodeError> {
                match number {
                    // Bytes behind what we know are left unread: a message may not grow, but a reader that
                    // minds would turn a mistake of one release into a break of all.
                    $($number => postcard::from_bytes(bytes).map($name::$variant)
                        .map_err(|_| $crate::message::DecodeError::Malformed(number)),)+
                    other => Err($crate::message::DecodeError::UnknownMessage(other)),
                }
            }
        }

        $(impl From<$variant> for $name { fn from(m: $variant) -> Self { $name::$variant(m) } })+
    };
}
