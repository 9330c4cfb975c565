//! The plan of the gateway's page `/plan`.

use std::{
    fs::File,
    io::BufReader,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use tower_claude_gateway::{PlanInput, PlanPage};
use tower_claude_planner::{
    html,
    plan::{PlanOptions, plan},
    read::{Format, ReadError, read},
    time::Time,
    traffic::TrafficBuilder,
};

/// The rows after which no further file is read. The newest are read first.
const MOST_ROWS: u64 = 1_000_000;

/// Makes the plan of a period of an event log.
pub(crate) fn render(input: &PlanInput) -> Result<PlanPage, String> {
    let (since, until) = (time(input.since), time(input.until));
    let mut builder = TrafficBuilder::new(None);
    let (mut rows, mut left_out) = (0, 0);
    for path in input.files.iter().rev() {
        if rows >= MOST_ROWS {
            left_out += 1;
            continue;
        }
        let before = rows;
        read_file(path, &mut builder, since, until, &mut rows)?;
        // The files are in the order of time.
        if rows == before && rows > 0 {
            break;
        }
    }
    let traffic = builder.build();
    let traffic = traffic.ok_or("the event log has no request of the last 24 hours")?;
    let mut report = plan(&traffic, &PlanOptions::default(), &mut |_, _| {})?;
    if left_out > 0 {
        let warning = format!("The log is large: {left_out} older files were not read.");
        report.warnings.push(warning);
    }
    let page = html::plan(&report, &traffic);
    Ok(PlanPage::new("text/html; charset=utf-8", page))
}

fn time(at: SystemTime) -> Time {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    Time(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// Adds the rows of a file that began in the period.
fn read_file(
    path: &Path,
    builder: &mut TrafficBuilder,
    since: Time,
    until: Time,
    rows: &mut u64,
) -> Result<(), String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // The writer may have rotated it meanwhile.
    let Ok(file) = File::open(path) else {
        return Ok(());
    };
    let file = BufReader::with_capacity(1 << 16, file);
    let report = read(&name, file, Some(Format::Events), &mut |line, record| {
        if (since..=until).contains(&record.t_start) {
            *rows += 1;
            builder.add(line, &record);
        }
    });
    match report {
        Ok(report) => builder.end_file(report),
        Err(ReadError::Empty { .. } | ReadError::NoRecord { .. }) => {}
        Err(error) => return Err(error.to_string()),
    }
    Ok(())
}
