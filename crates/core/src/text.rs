//! Names and messages of others in lines of a log.

use std::{borrow::Cow, fmt};

/// The greatest length in bytes of a text of others in a line. The rest is cut.
const MAX_LENGTH: usize = 300;

/// Returns true for a character that could end a line, control a terminal, or hide text.
fn is_unsafe(char: char) -> bool {
    char.is_control()
        || matches!(
            char,
            '\u{AD}'
                | '\u{61C}'
                | '\u{180E}'
                | '\u{200B}'..='\u{200F}'
                | '\u{2028}'..='\u{202E}'
                | '\u{2060}'..='\u{206F}'
                | '\u{FEFF}'
                | '\u{FFF9}'..='\u{FFFB}'
                | '\u{E0000}'..='\u{E007F}'
        )
}

/// Writes a text of others, with its unsafe characters escaped as `\n` or `\u{1b}`.
pub(crate) fn write_escaped(text: &str, out: &mut impl fmt::Write) -> fmt::Result {
    for char in text.chars() {
        match is_unsafe(char) {
            true => write!(out, "{}", char.escape_default())?,
            false => out.write_char(char)?,
        }
    }
    Ok(())
}

/// Returns a text of others for a line of a log: with its unsafe characters escaped, and cut after
/// 300 bytes.
///
/// This is the only place where events escape the names, ids and texts that a request or a server
/// has chosen.
pub(crate) fn escaped(text: &str) -> Cow<'_, str> {
    if text.len() <= MAX_LENGTH && !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len().min(MAX_LENGTH));
    for char in text.chars() {
        if out.len() + char.len_utf8() > MAX_LENGTH {
            out.push('…');
            break;
        }
        match is_unsafe(char) {
            true => out.extend(char.escape_default()),
            false => out.push(char),
        }
    }
    Cow::Owned(out)
}

/// Removes what may be secret from the URLs in a text: the user, the query and the fragment.
pub(crate) fn without_url_secrets(text: &str) -> Cow<'_, str> {
    const SCHEME_END: &str = "://";
    if !text.contains(SCHEME_END) {
        return Cow::Borrowed(text);
    }
    let is_end = |char: char| char.is_whitespace() || "()<>\"'`".contains(char);
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find(SCHEME_END) {
        let (before, url) = rest.split_at(at + SCHEME_END.len());
        out.push_str(before);
        let (url, after) = url.split_at(url.find(is_end).unwrap_or(url.len()));
        let url = &url[..url.find(['?', '#']).unwrap_or(url.len())];
        let authority = url.find('/').unwrap_or(url.len());
        let host = url[..authority].rfind('@').map_or(0, |at| at + 1);
        out.push_str(&url[host..]);
        rest = after;
    }
    out.push_str(rest);
    Cow::Owned(out)
}
