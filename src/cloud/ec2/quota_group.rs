//! Which types share a vCPU quota (spec 42 §10): AWS counts it by family group, and spot apart from on-demand.

use std::collections::BTreeMap;

/// The quota group of a provider's type. `groups` are configured prefixes in lower case; an empty group counts as absent.
///
/// The letters that the type begins with are its group, unless they, or they with more that follows, are a configured prefix: the
/// longest wins. Shorter ones are not looked up (`trn1` is no `t`), nor is the whole type.
pub(super) fn quota_group(provider_type: &str, preemptible: bool, groups: &BTreeMap<String, String>) -> String {
    let name = provider_type.to_lowercase();
    let group = match name.find(|letter: char| !letter.is_ascii_lowercase()) {
        None => "",
        Some(family) => {
            let prefixes = name.char_indices().map(|(end, _)| &name[..end]).filter(|prefix| prefix.len() >= family);
            let configured = prefixes.filter_map(|prefix| groups.get(prefix)).rfind(|group| !group.is_empty());
            configured.map_or(&name[..family], String::as_str)
        }
    };
    format!("{group}{}", if preemptible { "-spot" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(prefix, group)| ((*prefix).to_owned(), (*group).to_owned())).collect()
    }

    /// The table of §10: type, whether it is spot, its group with the configuration of the reference's test, and with the default one.
    #[test]
    fn groups_of_the_specification() {
        let of_test = groups(&[("a", "standard"), ("m", "standard"), ("t", "standard"), ("p5", "p5")]);
        let mut of_default = groups(&[("vt", "g"), ("p5", "p5")]);
        let standard = ["a", "c", "d", "h", "i", "m", "r", "t", "z"];
        of_default.extend(standard.map(|prefix| (prefix.to_owned(), "standard".to_owned())));
        for (provider_type, preemptible, expected, expected_by_default) in [
            ("g1.large", false, "g", "g"),
            ("g4dn.xlarge", false, "g", "g"),
            ("x1.large", false, "x", "x"),
            ("inf1.2xlarge", false, "inf", "inf"),
            ("a1.small", false, "standard", "standard"),
            ("m1.xlarge", false, "standard", "standard"),
            ("t3.2xlarge", false, "standard", "standard"),
            ("m1.xlarge", true, "standard-spot", "standard-spot"),
            ("p4.xlarge", true, "p-spot", "p-spot"),
            ("p5.xlarge", true, "p5-spot", "p5-spot"),
            ("p5en.48xlarge", true, "p5-spot", "p5-spot"),
            ("trn1.2xlarge", false, "trn", "trn"),
            ("trn1.2xlarge", true, "trn-spot", "trn-spot"),
            ("vt1.3xlarge", false, "vt", "g"),
            ("dl1.24xlarge", false, "dl", "dl"),
            ("im4gn.large", false, "im", "im"),
            ("u-6tb1.112xlarge", false, "u", "u"),
            ("M5.LARGE", false, "standard", "standard"),
            ("imaginary9.5xlarge", false, "imaginary", "imaginary"),
            ("", false, "", ""),
            ("foo", false, "", ""),
        ] {
            let found = [&of_test, &of_default].map(|groups| quota_group(provider_type, preemptible, groups));
            assert_eq!(found, [expected, expected_by_default], "{provider_type} {preemptible}");
        }
    }

    #[test]
    fn the_longest_prefix_wins_and_an_empty_group_is_none() {
        let groups = groups(&[
            ("im", "standard"),
            ("p", "p"),
            ("p5", "five"),
            ("p5e", ""),
            ("p5en.4", "large"),
            ("trn1.2xlarge", "all"),
            ("z", ""),
        ]);
        for (provider_type, expected) in [
            ("im4gn.large", "standard"),
            ("p4.large", "p"),
            ("p5.large", "five"),
            ("p5e.large", "five"),
            ("p5en.48xlarge", "large"),
            ("p5en.4", "five"),
            ("trn1.2xlarge", "trn"),
            ("z1.large", "z"),
            ("ünknown1.large", ""),
            ("p", ""),
            ("imp", ""),
        ] {
            assert_eq!(quota_group(provider_type, false, &groups), expected, "{provider_type}");
        }
    }
}
