//! Reads what `ptxas -v` prints about one kernel and judges it.

/// Resources of one kernel on one target, and what is wrong with it.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Report {
    /// Registers a thread.
    pub(super) registers: u32,
    /// Bytes of static shared memory a block.
    pub(super) shared: u32,
    /// Bytes of spill stores plus spill loads a thread.
    pub(super) spills: u32,
    /// Machine instructions; `None` for a text that ptxas refused.
    pub(super) instructions: Option<u32>,
    /// One line for each complaint; empty for a good kernel.
    pub(super) complaints: Vec<String>,
}

/// The report of a run that made `instructions` (`None`: it refused) and printed `text`.
///
/// Three things are complaints: an error, a spill, and a notice `(C75xx)`, by which ptxas says
/// that it ignored a directive or serialised matrix instructions (C7510: a call; C7512: too few
/// registers; C7514: accumulators read in flight); it never makes those errors, though they cost more
/// speed than most. An error of its own is a launch without registers for one such instruction (C7602).
pub(super) fn read(instructions: Option<u32>, text: &str) -> Report {
    let mut report = Report {
        instructions,
        ..Report::default()
    };
    let (mut stores, mut loads) = (0, 0);
    for line in text.lines() {
        for (number, rest) in numbers(line) {
            if rest.starts_with("registers") {
                report.registers = report.registers.max(number);
            } else if rest.starts_with("bytes smem") {
                report.shared = report.shared.max(number);
            } else if rest.starts_with("bytes spill stores") {
                stores = stores.max(number);
            } else if rest.starts_with("bytes spill loads") {
                loads = loads.max(number);
            }
        }
        if line.contains("(C75") || is_error(line) {
            report.complaints.push(line.trim().to_string());
        }
    }
    // The same figures stand in a warning and in the function's properties.
    report.spills = stores + loads;
    if report.spills > 0 {
        report
            .complaints
            .push(format!("spills {} bytes", report.spills));
    }
    if instructions.is_none() && report.complaints.is_empty() {
        let last = text.lines().rfind(|line| !line.trim().is_empty());
        report.complaints.push(
            last.unwrap_or("ptxas failed without a message")
                .trim()
                .into(),
        );
    }
    report
}

/// `ptxas k.ptx, line 9; error   : ...` and `ptxas fatal   : ...`, whatever names stand in them.
fn is_error(line: &str) -> bool {
    let ends = |part: &str| part.ends_with(" error") || part.ends_with(" fatal");
    line.split(':').any(|part| ends(part.trim_end()))
}

/// Each number of a line with the text after it.
fn numbers(line: &str) -> impl Iterator<Item = (u32, &str)> {
    line.match_indices(|c: char| c.is_ascii_digit())
        .filter_map(move |(at, _)| {
            if line[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_') {
                return None;
            }
            let digits = line[at..].bytes().take_while(u8::is_ascii_digit).count();
            let number = line[at..at + digits].parse().ok()?;
            Some((number, line[at + digits..].trim_start()))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'gemv_q4_k_1536x8960' for 'sm_90a'
ptxas info    : Function properties for gemv_q4_k_1536x8960
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 42 registers, used 1 barriers, 1024 bytes smem, 16 bytes cmem[0]
";

    #[test]
    fn resources_are_read() {
        let expected = Report {
            registers: 42,
            shared: 1024,
            instructions: Some(96),
            ..Report::default()
        };
        assert_eq!(read(Some(96), GOOD), expected);
    }

    #[test]
    fn spills_are_complaints() {
        let text = "\
ptxas warning : Registers are spilled to local memory in function 'k', 8 bytes spill stores, 8 \
bytes spill loads
ptxas info    : Function properties for k
    8 bytes stack frame, 8 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 32 registers, used 0 barriers
";
        let report = read(Some(96), text);
        assert_eq!(report.spills, 16);
        assert_eq!(report.complaints, ["spills 16 bytes"]);
    }

    #[test]
    fn notices_of_ignored_directives_are_complaints() {
        let line = "ptxas info    : (C7508) Potential Performance Loss: 'setmaxnreg' ignored";
        assert_eq!(
            read(Some(96), &format!("{GOOD}{line}\n")).complaints,
            [line]
        );
    }

    #[test]
    fn serialised_products_of_warpgroups_are_complaints() {
        let serialised =
            "Potential Performance Loss: wgmma.mma_async instructions are serialized due to";
        let lines = [
            format!(
                "ptxas info    : (C7510) {serialised} the presence of Extern calls in the function 'k'"
            ),
            format!(
                "ptxas info    : (C7512) {serialised} insufficient register resources for the function 'k'"
            ),
            format!(
                "ptxas info    : (C7514) {serialised} non wgmma instructions reading accumulator registers of  a \
                 wgmma between start and end of the pipeline stage in the function 'k'"
            ),
        ];
        for line in lines {
            let report = read(Some(96), &format!("{GOOD}{line}\n"));
            assert_eq!(report.complaints, [line]);
        }
        let fatal = "ptxas fatal   : (C7602) Insufficient registers (92) to compile instruction at line 81 in \
                     function k. Try to compile with register target of 94 or higher.";
        assert_eq!(read(None, fatal).complaints, [fatal]);
        assert_eq!(read(Some(96), fatal).complaints, [fatal]);
    }

    #[test]
    fn errors_are_complaints_and_silence_is_too() {
        let line = "ptxas k.ptx, line 9; error   : Unknown symbol '%r1'";
        let fatal = "ptxas fatal   : Ptx assembly aborted due to errors";
        let report = read(None, &format!("{line}\n{fatal}\n"));
        assert_eq!(report.complaints, [line, fatal]);
        let named = "ptxas info    : Compiling entry function 'error' for 'sm_80'";
        assert_eq!(read(Some(96), named).complaints, [""; 0]);
        assert_eq!(
            read(None, "").complaints,
            ["ptxas failed without a message"]
        );
        assert_eq!(read(None, "killed\n\n").complaints, ["killed"]);
    }
}
