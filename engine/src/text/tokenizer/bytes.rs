//! The alphabet of byte-level BPE vocabularies.
//!
//! GPT-2 writes each byte as a printable character, so that a vocabulary is text: printable
//! Latin-1 bytes stand for themselves, the other 68 for U+0100 onwards in byte order. Gannet
//! keeps tokens as the bytes they mean; these two maps are used when a vocabulary is read and
//! when a token's own spelling is asked for.

/// Whether a byte is written as the character of the same number.
const fn stands_for_itself(b: u8) -> bool {
    matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff)
}

/// The character of each byte.
const TO_CHAR: [char; 256] = {
    let mut table = ['\0'; 256];
    let mut shifted = 0;
    let mut b = 0;
    while b < 256 {
        table[b] = if stands_for_itself(b as u8) {
            b as u8 as char
        } else {
            shifted += 1;
            // At most 68 bytes are shifted: U+0100 to U+0143, all of them characters.
            match char::from_u32(0xff + shifted) {
                Some(c) => c,
                None => '\0',
            }
        };
        b += 1;
    }
    table
};

/// The byte of each character below U+0144; 0x100 where the alphabet lacks the character.
const TO_BYTE: [u16; 0x144] = {
    let mut table = [0x100; 0x144];
    let mut b = 0;
    while b < 256 {
        table[TO_CHAR[b] as usize] = b as u16;
        b += 1;
    }
    table
};

/// Appends the bytes that a token's text stands for. False, with `out` as before, when the text
/// has a character outside the alphabet.
pub(crate) fn push_bytes(text: &str, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    for c in text.chars() {
        match TO_BYTE.get(c as usize).map(|&b| u8::try_from(b)) {
            Some(Ok(b)) => out.push(b),
            _ => {
                out.truncate(start);
                return false;
            }
        }
    }
    true
}

/// The text that a vocabulary writes for some bytes.
pub(crate) fn to_text(bytes: &[u8]) -> String {
    bytes.iter().map(|&b| TO_CHAR[b as usize]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_a_bijection() {
        let all: Vec<u8> = (0..=255).collect();
        let mut back = Vec::new();
        assert!(push_bytes(&to_text(&all), &mut back));
        assert_eq!(back, all);
        assert_eq!(to_text(b" \n\xad"), "\u{120}\u{10a}\u{143}");
    }

    #[test]
    fn foreign_characters_leave_no_trace() {
        let mut out = vec![7];
        assert!(!push_bytes("a\u{2581}", &mut out));
        assert!(!push_bytes(" ", &mut out));
        assert_eq!(out, [7]);
    }
}
