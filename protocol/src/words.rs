//! Words that the command lines at both ends of the port share.

/// `90s`, `10m`, `2h` in seconds.
pub fn seconds(text: &str) -> Result<u32, String> {
    let wanted = "write it like 90s, 10m or 2h";
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let number: u32 = number.parse().map_err(|_| wanted.to_owned())?;
    let each = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(wanted.to_owned()),
    };
    number.checked_mul(each).filter(|s| *s > 0).ok_or_else(|| format!("out of range: {wanted}"))
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn a_time_needs_its_unit_and_fits() {
        for (text, found) in [("90s", 90), ("10m", 600), ("2h", 7200)] {
            assert_eq!(seconds(text), Ok(found));
        }
        for wrong in ["", "s", "10", "0s", "-1s", "1.5h", "10 m", "99999999999h", "5000000h", "1d"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
