//! The state as OpenMetrics.

use super::Status;
use crate::session::Shared;

/// The whole text, with its end.
pub fn text(_shared: &Shared, status: &Status) -> String {
    format!(
        "# TYPE replgate_build info\n# HELP replgate_build The version of this gateway.\nreplgate_build_info{{version=\"{}\"}} 1\n# EOF\n",
        status.version
    )
}
