//! Validates the settings of links: `[link]`, and the `link` of a far site and of a replica.

use std::time::Duration;

use super::file::{Files, Table};
use super::{Compression, Congestion, LinkSettings};
use crate::units;

/// Longest `hold` that is accepted.
const LONGEST_HOLD: Duration = Duration::from_secs(3600);

/// The settings in the `link` of a table; what it leaves out is in `defaults`.
pub(super) fn read(
    table: &Table<'_, '_>,
    defaults: &LinkSettings,
    files: &Files<'_>,
) -> Option<LinkSettings> {
    match table.table("link") {
        Some(table) => settings(&table, defaults, files),
        None => Some(defaults.clone()),
    }
}

fn settings(table: &Table<'_, '_>, defaults: &LinkSettings, files: &Files<'_>) -> Option<LinkSettings> {
    let bounded = |least: Duration, most: Duration| {
        move |text: &str| {
            let time = units::duration(text)?;
            if (least..=most).contains(&time) {
                Ok(time)
            } else {
                Err(format!("must be from {least:?} to {most:?}"))
            }
        }
    };
    let heartbeat = table.parsed("heartbeat", bounded(Duration::from_millis(50), Duration::from_secs(60)));
    let dead_after =
        table.parsed("dead_after", bounded(Duration::from_millis(200), Duration::from_secs(300)));
    let window = table.parsed("window", |text| {
        let size = units::size(text)?;
        if (1 << 20..=4 << 30).contains(&size) {
            Ok(size)
        } else {
            Err("must be from 1MiB to 4GiB".to_owned())
        }
    });
    let congestion = table.parsed("congestion", |text| match text {
        "auto" => Ok(Congestion::Auto),
        other => units::name(other).map(Congestion::Named),
    });
    let hold = table.parsed("hold", |text| {
        let time = units::duration(text)?;
        if time <= LONGEST_HOLD {
            Ok(time)
        } else {
            Err("must be at most 1h, or \"0s\" to end a link with its last lane".to_owned())
        }
    });
    let lanes = table.number("lanes", 1, 16).and_then(|lanes| u8::try_from(lanes.value).ok());
    let compression = table.parsed("compression", compression);
    table.finish();
    let settings = LinkSettings {
        heartbeat: heartbeat.map_or(defaults.heartbeat, |time| time.value),
        dead_after: dead_after.as_ref().map_or(defaults.dead_after, |time| time.value),
        hold: hold.as_ref().map_or(defaults.hold, |time| time.value),
        lanes: lanes.unwrap_or(defaults.lanes),
        window: window.map_or(defaults.window, |size| size.value),
        compression: compression.map_or(defaults.compression, |compression| compression.value),
        congestion: congestion.map_or_else(|| defaults.congestion.clone(), |name| name.value),
    };
    let dead_after_place = || dead_after.as_ref().map_or(table.place, |time| time.place);
    let mut good = true;
    if settings.dead_after < settings.heartbeat * 2 {
        files.fault(
            dead_after_place(),
            format!(
                "{}dead_after ({:?}) must be at least twice heartbeat ({:?})",
                table.prefix(),
                settings.dead_after,
                settings.heartbeat
            ),
        );
        good = false;
    }
    // A value that cannot be read has its own fault already.
    let sound = |key, read: bool| read || !table.has(key);
    if !settings.hold.is_zero()
        && settings.hold <= settings.dead_after
        && sound("hold", hold.is_some())
        && sound("dead_after", dead_after.is_some())
    {
        let (place, what) = match &hold {
            Some(hold) => (hold.place, "hold".to_owned()),
            None => (dead_after_place(), format!("hold ({:?})", settings.hold)),
        };
        files.fault(
            place,
            format!(
                "{}{what} must be longer than dead_after ({:?}), or \"0s\" to end a link with its last lane",
                table.prefix(),
                settings.dead_after
            ),
        );
        good = false;
    }
    good.then_some(settings)
}

/// Reads `off`, `zstd`, `zstd:3`.
fn compression(text: &str) -> Result<Compression, String> {
    let level = match text.split_once(':') {
        None if text == "off" => return Ok(Compression::Off),
        None if text == "zstd" => "1",
        Some(("zstd", level)) => level,
        _ => {
            return Err(format!(
                "{text:?} is unknown; write \"off\" (the default), \"zstd\", or \"zstd:3\" for another level than 1"
            ));
        }
    };
    match level.parse() {
        Ok(level @ 1..=19) => Ok(Compression::Zstd { level }),
        _ => Err(format!("{text:?}: a level is a whole number from 1 to 19; write \"zstd:3\"")),
    }
}
