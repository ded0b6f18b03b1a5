//! Scheme `ip`: IPv4 addresses with an optional length of their prefix, as IPAuthenticationProvider of ZooKeeper 3.8
//! reads them. It knows no IPv6 addresses: an entry with one is invalid, and a client with one matches nothing.

fn address(text: &str) -> Option<u32> {
    let mut parts = text.split('.').map(|p| p.parse::<u8>().ok());
    let all: Vec<u8> = parts.by_ref().collect::<Option<_>>()?;
    <[u8; 4]>::try_from(all).ok().map(u32::from_be_bytes)
}

/// Address and mask of an entry.
fn parse(expression: &str) -> Option<(u32, u32)> {
    let (text, bits) = match expression.split_once('/') {
        Some((text, bits)) => (text, bits.parse::<u32>().ok().filter(|b| *b <= 32)?),
        None => (expression, 32),
    };
    let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
    Some((address(text)?, mask))
}

/// Whether an entry may hold this.
pub fn is_valid(expression: &str) -> bool {
    parse(expression).is_some()
}

/// Whether a client's address is one that an entry names.
pub fn matches(client: &str, expression: &str) -> bool {
    match (address(client), parse(expression)) {
        (Some(client), Some((network, mask))) => client & mask == network & mask,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        for (client, expression, want) in [
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("10.0.0.1", "10.0.0.2/31", false),
            ("10.0.0.3", "10.0.0.2/31", true),
            ("10.200.0.1", "10.128.0.0/9", true),
            ("10.100.0.1", "10.128.0.0/9", false),
            ("1.2.3.4", "9.9.9.9/0", true),
            ("1.2.3.4", "9.9.9.9/", false),
            ("::1", "9.9.9.9/0", false),
        ] {
            assert_eq!(matches(client, expression), want, "{client} {expression}");
        }
    }
}
