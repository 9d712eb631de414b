//! Query strings, read as forms are: `&`-separated pairs, percent-encoding and `+` decoded.

use std::borrow::Cow;

/// The value of the first parameter named `name`; a parameter without `=` has the value `""`.
pub fn first_value<'q>(query: &'q str, name: &str) -> Option<Cow<'q, [u8]>> {
    query.split('&').filter(|pair| !pair.is_empty()).find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (*decode(key) == *name.as_bytes()).then(|| decode(value))
    })
}

/// Decodes `%XX` and `+`; what is no valid escape stays as it is.
fn decode(text: &str) -> Cow<'_, [u8]> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escape = (first == b'%').then(|| hex_pair(tail)).flatten();
        rest = match escape {
            Some(byte) => {
                decoded.push(byte);
                tail.get(2..).unwrap_or_default()
            }
            None => {
                decoded.push(if first == b'+' { b' ' } else { first });
                tail
            }
        };
    }
    Cow::Owned(decoded)
}

fn hex_pair(bytes: &[u8]) -> Option<u8> {
    let digit = |i: usize| char::from(*bytes.get(i)?).to_digit(16);
    u8::try_from(digit(0)? * 16 + digit(1)?).ok()
}
