//! Texts of bounded size, and dates as Java prints them.

use std::fmt;

/// Longest answer, in bytes.
pub const MAX_BYTES: usize = 8 * 1024 * 1024;

/// A text that ends at [`MAX_BYTES`], and says so.
#[derive(Debug, Default)]
pub struct Bounded {
    text: String,
    cut: bool,
}

impl fmt::Write for Bounded {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        if self.cut || self.text.len() + s.len() > MAX_BYTES {
            self.cut = true;
            return Err(fmt::Error);
        }
        self.text.push_str(s);
        Ok(())
    }
}

impl Bounded {
    /// The text.
    pub fn end(mut self) -> String {
        if self.cut {
            self.text.push_str("\n... (truncated)\n");
        }
        self.text
    }
}

/// Year, month and day, and the day of the week from Sunday on, of days since 1970. Source: Howard Hinnant's
/// `civil_from_days`.
fn civil(days: i64) -> (i64, usize, i64, usize) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    (yoe + era * 400 + i64::from(month <= 2), month as usize, day, (days + 4).rem_euclid(7) as usize)
}

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];

/// `Sat Nov 28 16:25:11 UTC 2026`, from milliseconds since 1970.
pub fn java_date(ms: i64) -> String {
    let seconds = ms.div_euclid(1000);
    let (year, month, day, weekday) = civil(seconds.div_euclid(86_400));
    let s = seconds.rem_euclid(86_400);
    format!("{} {} {day:02} {:02}:{:02}:{:02} UTC {year}", DAYS[weekday], MONTHS[month - 1], s / 3600, s / 60 % 60, s % 60)
}

/// `Sat, 28 Nov 2026 16:25:01 GMT`, from milliseconds since 1970.
pub fn http_date(ms: i64) -> String {
    let seconds = ms.div_euclid(1000);
    let (year, month, day, weekday) = civil(seconds.div_euclid(86_400));
    let s = seconds.rem_euclid(86_400);
    format!("{}, {day:02} {} {year} {:02}:{:02}:{:02} GMT", DAYS[weekday], MONTHS[month - 1], s / 3600, s / 60 % 60, s % 60)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    #[test]
    fn dates() {
        assert_eq!(java_date(0), "Thu Jan 01 00:00:00 UTC 1970");
        assert_eq!(java_date(951_827_696_000), "Tue Feb 29 12:34:56 UTC 2000");
        assert_eq!(http_date(1_795_883_101_000), "Sat, 28 Nov 2026 16:25:01 GMT");
    }

    #[test]
    fn a_long_text_is_cut() {
        let mut out = Bounded::default();
        let line = "x".repeat(1000);
        while writeln!(out, "{line}").is_ok() {}
        let text = out.end();
        assert!(text.len() < MAX_BYTES + 100 && text.ends_with("(truncated)\n"));
    }
}
