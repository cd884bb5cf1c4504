//! Where an SSH server listens: `host`, `host:port`, `[v6]:port`, in one normal form, so that equal addresses are equal texts.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Longest name of a host (RFC 1035).
const NAME_BYTES_MAX: usize = 253;

/// Displays as `host:port` or `[v6]:port`, names in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostAddress {
    /// Without brackets.
    pub host: String,
    pub port: u16,
}

impl fmt::Display for HostAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl HostAddress {
    /// `port` is taken where the text has none.
    ///
    /// # Errors
    /// What is wrong with the text, and the form it should have.
    pub fn parse(text: &str, port: u16) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix('[') {
            let (address, rest) = rest.split_once(']').ok_or_else(|| "has no ] after the IPv6 address".to_owned())?;
            let port = match rest.strip_prefix(':') {
                Some(text) => parse_port(text)?,
                None if rest.is_empty() => port,
                None => return Err("must be [IPv6 address]:port".to_owned()),
            };
            return Ok(Self { host: parse_v6(address)?, port });
        }
        match text.split_once(':') {
            Some((_, rest)) if rest.contains(':') => {
                Err(format!("is an IPv6 address without brackets: write [{text}]:{port}"))
            }
            Some((host, text)) => Ok(Self { host: parse_host(host)?, port: parse_port(text)? }),
            None => Ok(Self { host: parse_host(text)?, port }),
        }
    }
}

fn parse_port(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("has the port {text:?}: it must be a number from 1 to 65535")),
    }
}

/// An interface may follow, as in `fe80::1%eth0`.
fn parse_v6(text: &str) -> Result<String, String> {
    let (address, zone) = text.split_once('%').map_or((text, None), |(address, zone)| (address, Some(zone)));
    let zone_is_name = |zone: &str| !zone.is_empty() && zone.bytes().all(is_name_byte);
    match (address.parse::<Ipv6Addr>(), zone) {
        (Ok(address), None) => Ok(address.to_string()),
        (Ok(address), Some(zone)) if zone_is_name(zone) => Ok(format!("{address}%{zone}")),
        _ => Err(format!("{text:?} is not an IPv6 address")),
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')
}

fn parse_host(text: &str) -> Result<String, String> {
    let looks_like_v4 = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if text.is_empty() {
        Err("has no host".to_owned())
    } else if text.len() > NAME_BYTES_MAX || !text.bytes().all(is_name_byte) || text.starts_with('-') {
        Err("must be host, host:port or [IPv6 address]:port".to_owned())
    } else if looks_like_v4 && text.parse::<Ipv4Addr>().is_err() {
        Err(format!("{text:?} is not an IPv4 address"))
    } else {
        Ok(text.trim_end_matches('.').to_ascii_lowercase())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_normal_form() {
        for (text, expected) in [
            ("10.0.0.5:22", Ok("10.0.0.5:22")),
            ("10.0.0.5", Ok("10.0.0.5:2222")),
            ("Node2.Lab", Ok("node2.lab:2222")),
            ("node2.lab.:7", Ok("node2.lab:7")),
            ("[::0001]:22", Ok("[::1]:22")),
            ("[FE80::1%eth0]", Ok("[fe80::1%eth0]:2222")),
            ("", Err("no host")),
            (":22", Err("no host")),
            ("host:", Err("the port \"\"")),
            ("host:0", Err("from 1 to 65535")),
            ("host:ssh", Err("from 1 to 65535")),
            ("::1", Err("write [::1]:2222")),
            ("[::1", Err("no ]")),
            ("[::1]x", Err("[IPv6 address]:port")),
            ("[host]:22", Err("not an IPv6 address")),
            ("10.0.0.500", Err("not an IPv4 address")),
            ("a b", Err("must be host")),
            ("-oProxyCommand=x", Err("must be host")),
            ("user@host", Err("must be host")),
        ] {
            let found = HostAddress::parse(text, 2222).map(|address| address.to_string());
            match expected {
                Ok(normal) => assert_eq!(found.as_deref(), Ok(normal), "{text}"),
                Err(part) => assert!(found.as_ref().is_err_and(|error| error.contains(part)), "{text}: {found:?}"),
            }
        }
    }
}
